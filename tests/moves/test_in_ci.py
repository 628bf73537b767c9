"""What jobs report: a comment that edits itself, and an engine held against the registry."""

import http.server
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from cli.test_commands import Cli
from moves.test_moved_bases import cli, layout, push, register, working
from registry_process import Registry

__all__ = ["cli", "working"]


@dataclass
class StandIn:
    """Speaks as much of the APIs of GitHub and GitLab, and of an engine, as is asked here."""

    comments: list[dict[str, Any]] = field(default_factory=list)
    heard: list[tuple[str, str, str]] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        other = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                path = self.path.partition("?")[0]
                body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or "{}")
                other.heard.append((self.command, path, self.headers.get("authorization", "")))
                found = other.answers.get(path)
                if found is None and not re.search(r"/(comments|notes)(/\d+)?$", path):
                    self.say(404, {"message": "Not Found"})
                elif found is not None:
                    self.say(200, found)
                elif self.command == "GET":
                    self.say(200, other.comments)
                elif self.command == "POST":
                    other.comments.append({"id": len(other.comments) + 1, "html_url": "https://there/1", **body})
                    self.say(201, other.comments[-1])
                else:
                    one = next(one for one in other.comments if str(one["id"]) == path.rpartition("/")[2])
                    one.update(body)
                    self.say(200, one)

            do_GET = do_POST = do_PATCH = do_PUT = answer  # noqa: N815 (the library's names)

            def say(self, status: int, told: Any) -> None:
                content = json.dumps(told).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def there() -> Iterator[StandIn]:
    with StandIn() as running:
        yield running


def on_github(there: StandIn, folder: Path) -> dict[str, str]:
    event = folder / "event.json"
    event.write_text(json.dumps({"pull_request": {"number": 7}}))
    return {
        "GITHUB_REPOSITORY": "acme/adapters",
        "GITHUB_EVENT_PATH": str(event),
        "GITHUB_API_URL": there.url,
        "GITHUB_TOKEN": "ghs_example",
        "CI_API_V4_URL": "",
    }


def on_gitlab(there: StandIn, _folder: Path) -> dict[str, str]:
    return {
        "CI_API_V4_URL": f"{there.url}/api/v4",
        "CI_PROJECT_ID": "42",
        "CI_MERGE_REQUEST_IID": "7",
        "GITLAB_TOKEN": "glpat-example",
        "GITHUB_REPOSITORY": "",
    }


@pytest.mark.parametrize(
    ("host", "path", "edits"),
    [
        (on_github, "/repos/acme/adapters/issues/7/comments", "PATCH /repos/acme/adapters/issues/comments/2"),
        (on_gitlab, "/api/v4/projects/42/merge_requests/7/notes", "PUT /api/v4/projects/42/merge_requests/7/notes/2"),
    ],
    ids=["github", "gitlab"],
)
def test_a_comment_edits_itself(there: StandIn, tmp_path: Path, host: Any, path: str, edits: str) -> None:
    made = Cli(tmp_path, "http://127.0.0.1:1")
    there.comments.append({"id": 1, "body": "a person's own words, <!-- lorahub:check --> among them"})
    report, environment = tmp_path / "check.md", host(there, tmp_path)
    report.write_text("✗ acme/sql does not fit")
    assert made.json("ci", "comment", str(report), **environment)["act"] == "made"
    report.write_text("✓ acme/sql fits")
    assert made.json("ci", "comment", str(report), **environment)["act"] == "edited"
    assert [one["body"] for one in there.comments][1:] == ["<!-- lorahub:check -->\n✓ acme/sql fits"]
    assert made.json("ci", "comment", str(report), "--name", "gate", **environment)["act"] == "made"
    assert len(there.comments) == 3
    assert {asked for _, asked, _ in there.heard} == {path, edits.partition(" ")[2]}
    assert edits.partition(" ")[0] in {method for method, _, _ in there.heard}
    assert {bearer for _, _, bearer in there.heard} == {
        f"Bearer {environment.get('GITHUB_TOKEN') or environment['GITLAB_TOKEN']}"
    }


def test_a_comment_needs_a_job_of_a_request_and_a_token(there: StandIn, tmp_path: Path) -> None:
    made, report = Cli(tmp_path, "http://127.0.0.1:1"), tmp_path / "check.md"
    report.write_text("x")
    github = on_github(there, tmp_path)
    nowhere = {**github, "GITHUB_REPOSITORY": ""}
    for environment in (nowhere, {**github, "GITHUB_EVENT_PATH": os.devnull}, {**github, "GITHUB_TOKEN": ""}):
        assert made.run("ci", "comment", str(report), **environment).returncode == 2
    assert there.heard == []


def test_an_engine_is_held_against_the_registry(working: Registry, cli: Cli, there: StandIn, tmp_path: Path) -> None:
    base = f"{working.admin}/engine-base"
    register(working, base, "r1", layout())
    register(working, f"{working.admin}/wide-base", "r1", layout(width=24))
    repo = push(working, tmp_path, base)
    models = [
        {"id": base, "max_model_len": 2048},
        {"id": f"{repo}@v1", "parent": base},
        {"id": "plain", "parent": base},
    ]
    there.answers["/v1/models"] = {"object": "list", "data": models}
    found = {one["name"]: one for one in cli.json("doctor", "--engine", there.url)["checks"]}
    assert found["engine"]["text"].endswith(f"serves {base}, 2048 tokens at most, 2 adapters")
    assert (found[f"{repo}@v1"]["ok"], found["its base"]["ok"], found["plain"]["ok"]) == (True, True, True)
    wrong = cli.run("doctor", "--engine", f"{there.url}/v1", "--engine-base", f"{working.admin}/wide-base")
    assert wrong.returncode == 1
    assert f"✗ {repo}@v1" in wrong.stdout
    assert "LH202" in wrong.stdout
    models[1]["id"] = f"{working.admin}/never-pushed"
    missing = cli.run("doctor", "--engine", there.url)
    assert (missing.returncode, f"✗ {working.admin}/never-pushed" in missing.stdout) == (1, True)
    there.answers.clear()
    assert cli.run("doctor", "--engine", there.url).returncode != 0
