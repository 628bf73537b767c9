"""`lorahub ci`: what a CI job says to the people who wait for it."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from lorahub.cli.output import Result
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidConfiguration, InvalidUsage, RegistryFailed
from lorahub.hub.transport import Transport

_MOST_CHARACTERS = 60_000
"""GitHub takes 65,536."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def ci() -> None:
    """Help jobs of a CI to report."""


@command("comment")
@click.argument("report", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", default="check", show_default=True, help="Of several comments on one request, which.")
def comment(session: Session, report: Path, *, name: str) -> Result:
    """Write REPORT, a file of Markdown, as a comment on the pull or merge request that this job is for.

    The comment edits itself: the next run of the same name replaces its text. On GitHub it needs GITHUB_TOKEN and the
    permission pull-requests: write, on GitLab a GITLAB_TOKEN with the scope api.
    """
    if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
        raise InvalidUsage("--name is letters, digits, - and _")
    place = _place(os.environ)
    mark = f"<!-- lorahub:{name} -->"
    text = report.read_text("utf-8")
    if len(text) > _MOST_CHARACTERS:
        text = text[:_MOST_CHARACTERS] + "\n\n… the rest is in the job's log"
    with Transport(place.endpoint, place.token, timeout=session.settings.timeout) as api:
        known = next((one for one in api.rows(place.comments, {"per_page": 100}) if _is_ours(one, mark)), None)
        body = {"body": f"{mark}\n{text}"}
        if known is None:
            made: Any = api.json("POST", place.comments, body=body)
        else:
            made = api.json(place.edits, place.comment(known["id"]), body=body)
    if not isinstance(made, Mapping):
        raise RegistryFailed(f"{place.endpoint} answered something else than a comment")
    address = str(made.get("html_url") or place.request)
    verb = "made" if known is None else "edited"
    return Result({"request": place.request, "comment": made.get("id"), "act": verb}, [f"✓ {verb} {address}"])


def _is_ours(one: object, mark: str) -> bool:
    return isinstance(one, Mapping) and str(one.get("body", "")).startswith(mark)


@dataclass(frozen=True, slots=True)
class RequestOfJob:
    """The pull or merge request that a job is for, at its host's API."""

    endpoint: str
    token: str
    comments: str
    request: str
    edits: str
    is_github: bool

    def comment(self, number: object) -> str:
        """The address of one."""
        if self.is_github:
            return f"{self.comments.partition('/issues/')[0]}/issues/comments/{number}"
        return f"{self.comments}/{number}"


def _place(environment: Mapping[str, str]) -> RequestOfJob:
    """Raises `InvalidConfiguration` where this is no job of a request, or has no token."""
    if environment.get("GITHUB_REPOSITORY"):
        return _on_github(environment)
    if environment.get("CI_API_V4_URL"):
        return _on_gitlab(environment)
    raise InvalidConfiguration(
        "this is no job of GitHub or GitLab", hint="run it in one, after: lorahub check --report summary=check.md"
    )


def _on_github(environment: Mapping[str, str]) -> RequestOfJob:
    event = Path(environment.get("GITHUB_EVENT_PATH") or os.devnull)
    try:
        told: Any = json.loads(event.read_text("utf-8") or "{}")
    except (OSError, ValueError):
        told = {}
    number = told.get("pull_request", {}).get("number") if isinstance(told, dict) else None
    if not isinstance(number, int):
        raise InvalidConfiguration("this job is for no pull request", hint="run it on: pull_request")
    repository = quote(environment["GITHUB_REPOSITORY"])
    return RequestOfJob(
        environment.get("GITHUB_API_URL", "https://api.github.com"),
        _token(environment, "GITHUB_TOKEN"),
        f"/repos/{repository}/issues/{number}/comments",
        f"{environment.get('GITHUB_SERVER_URL', 'https://github.com')}/{repository}/pull/{number}",
        "PATCH",
        is_github=True,
    )


def _on_gitlab(environment: Mapping[str, str]) -> RequestOfJob:
    project, number = environment.get("CI_PROJECT_ID", ""), environment.get("CI_MERGE_REQUEST_IID", "")
    if not number.isdecimal():
        raise InvalidConfiguration(
            "this job is for no merge request", hint='rules: [{if: $CI_PIPELINE_SOURCE == "merge_request_event"}]'
        )
    return RequestOfJob(
        environment["CI_API_V4_URL"],
        _token(environment, "GITLAB_TOKEN"),
        f"/projects/{quote(project, safe='')}/merge_requests/{number}/notes",
        f"{environment.get('CI_PROJECT_URL', '')}/-/merge_requests/{number}",
        "PUT",
        is_github=False,
    )


def _token(environment: Mapping[str, str], name: str) -> str:
    token = environment.get(name)
    if not token:
        raise InvalidConfiguration(f"{name} is not set, and a comment is written in somebody's name")
    return token


ci.add_command(comment)
