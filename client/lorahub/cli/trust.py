"""`lorahub trust`."""

from dataclasses import asdict

import click

from lorahub.cli.completing import stored
from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidUsage
from lorahub.protocol.messages.publishers import Publisher

GITHUB = "https://token.actions.githubusercontent.com"
GITLAB = "https://gitlab.com"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def trust() -> None:
    """Let CI jobs publish to a repository without a secret (docs/trust.md)."""


@command("add")
@click.argument("repository", shell_complete=stored)
@click.option("--github", metavar="OWNER/REPO", help="A repository on GitHub.")
@click.option("--gitlab", metavar="GROUP/PROJECT", help="A project on GitLab.")
@click.option("--workflow", metavar="FILE", help="Only this workflow: release.yml, or .gitlab-ci.yml.")
@click.option("--ref", metavar="REF", help="Only this ref: refs/heads/main, or refs/tags/*.")
@click.option("--environment", metavar="NAME", help="Only this environment of the CI.")
@click.option("--issuer", metavar="URL", help="Another issuer of identity tokens.")
@click.option(
    "--claim", "claims", multiple=True, metavar="NAME=VALUE", help="What the token must say; VALUE may end with *."
)
def add(
    session: Session,
    repository: str,
    github: str | None,
    gitlab: str | None,
    workflow: str | None,
    ref: str | None,
    environment: str | None,
    issuer: str | None,
    claims: tuple[str, ...],
) -> Result:
    """Trust a job: lorahub trust add acme/sql --github acme/training --workflow release.yml --ref refs/heads/main.

    It publishes in your name, for as long as you may.
    """
    wanted = {"environment": environment, **_named(claims)}
    if github:
        wanted |= {"repository": github, "ref": ref, "workflow_ref": _github_workflow(github, workflow)}
    elif gitlab:
        wanted |= {
            "project_path": gitlab,
            "ref_path": ref,
            "ci_config_ref_uri": _gitlab_workflow(issuer, gitlab, workflow),
        }
    elif not issuer or workflow:
        raise InvalidUsage("whose jobs?", hint="name --github, --gitlab, or --issuer and --claim")
    else:
        wanted |= {"ref": ref}
    said = {claim: value for claim, value in wanted.items() if value}
    with session.hub() as hub:
        made = hub.publishers.trust(repository, issuer or (GITHUB if github else GITLAB), said)
    return Result(asdict(made), f"✓ {repository} trusts {_shown(made)}", ids=[str(made.id)], rows=[_row(made)])


def _named(claims: tuple[str, ...]) -> dict[str, str]:
    pairs = [claim.partition("=") for claim in claims]
    if any(not name or not value for name, _, value in pairs):
        raise InvalidUsage("a claim is NAME=VALUE", hint="--claim sub=project:7")
    return {name: value for name, _, value in pairs}


def _github_workflow(repository: str, workflow: str | None) -> str | None:
    """The claim ends with the ref, which is a matter of --ref."""
    return workflow and f"{repository}/.github/workflows/{workflow}@*"


def _gitlab_workflow(issuer: str | None, project: str, workflow: str | None) -> str | None:
    host = (issuer or GITLAB).removeprefix("https://").rstrip("/")
    return workflow and f"{host}/{project}//{workflow}@*"


@command("ls")
@click.argument("repository", shell_complete=stored)
def list_publishers(session: Session, repository: str) -> Result:
    """List the jobs that a repository trusts."""
    with session.hub() as hub:
        found = hub.publishers.of(repository)
    rows = [[str(one.id), _shown(one), one.added_by] for one in found]
    return Result(
        [asdict(one) for one in found],
        table(["id", "job", "in the name of"], rows) if rows else f"{repository} trusts no job",
        ids=[str(one.id) for one in found],
        rows=[_row(one) for one in found],
    )


@command("rm")
@click.argument("repository", shell_complete=stored)
@click.argument("publisher", type=int)
def remove(session: Session, repository: str, publisher: int) -> Result:
    """Trust a job no more. A token that it has lives on for its minutes."""
    with session.hub() as hub:
        hub.publishers.distrust(repository, publisher)
    return Result({"id": publisher}, f"✓ {publisher} is gone", ids=[str(publisher)], rows=[[publisher]])


def _shown(one: Publisher) -> str:
    return f"{one.issuer} with {', '.join(f'{claim}={value}' for claim, value in one.claims.items())}"


def _row(one: Publisher) -> list[object]:
    return [one.id, one.issuer, " ".join(f"{claim}={value}" for claim, value in one.claims.items()), one.added_by]


for each in (add, list_publishers, remove):
    trust.add_command(each)
