"""`lorahub alias`."""

from collections.abc import Sequence
from dataclasses import asdict

import click

from lorahub.cli.completing import stored
from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command
from lorahub.errors import AdapterDoesNotFit
from lorahub.hub.checking import CheckEntry, Checker
from lorahub.hub.outcomes import Outcomes
from lorahub.hub.project_checks import read_checks
from lorahub.protocol.messages.revisions import Alias


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def alias() -> None:
    """Make, move, remove and list names for versions."""


@command("set")
@click.argument("reference", shell_complete=stored)
@click.argument("name")
@click.option("--protect/--unprotect", default=None, help="Let only owners move it, or anybody who may push.")
@click.option("--if-fits", "bases", multiple=True, metavar="BASE", help="Only if it fits this base; repeatable.")
@click.option(
    "--for",
    "targets",
    multiple=True,
    metavar="ENV",
    help="And loads there: an environment of lorahub.toml, or a runtime.",
)
def set_alias(
    session: Session,
    reference: str,
    name: str,
    *,
    protect: bool | None,
    bases: tuple[str, ...],
    targets: tuple[str, ...],
) -> Result:
    """Let NAME lead to REFERENCE: lorahub alias set acme/sql@v3 champion.

    With --if-fits and --for the revision is checked first, and the alias moves to that very commit or not at all.
    What can't be decided doesn't move it.
    """
    with session.hub() as hub:
        if bases or targets:
            found = hub.revision(reference)
            reference = f"{found.id}@{found.commit}"
            _require_fit(session, reference, bases, targets)
        made = hub.set_alias(reference, name, protected=protect)
    target = made.version or made.commit[:12]
    lock = ", protected" if made.protected else ""
    return Result(asdict(made), f"✓ {name} → {target}{lock}", ids=[target], rows=[_row(made)])


@command("rm")
@click.argument("repository", shell_complete=stored)
@click.argument("name")
def remove(session: Session, repository: str, name: str) -> Result:
    """Remove an alias; the version it led to stays."""
    with session.hub() as hub:
        hub.remove_alias(repository, name)
    return Result({"name": name}, f"✓ {name} is gone", ids=[name], rows=[[name]])


@command("ls")
@click.argument("repository", shell_complete=stored)
def list_aliases(session: Session, repository: str) -> Result:
    """List the aliases of a repository."""
    with session.hub() as hub:
        found = hub.aliases(repository)
    rows = [[one.name, one.version or one.commit[:12], "protected" if one.protected else ""] for one in found]
    return Result(
        [asdict(one) for one in found],
        table(["alias", "leads to", ""], rows) if rows else f"{repository} has no aliases",
        ids=[one.name for one in found],
        rows=[_row(one) for one in found],
    )


def _require_fit(session: Session, reference: str, bases: Sequence[str], targets: Sequence[str]) -> None:
    """Raises `AdapterDoesNotFit` with what speaks against it, by the same check as `lorahub check`."""
    project = read_checks()
    environments = [name for name in targets if name in project.environments]
    runtimes = [name for name in targets if name not in project.environments]
    with session.sources() as sources:
        checker = Checker(
            sources,
            runtimes=runtimes,
            environments=project.chosen(environments) if environments else [],
            progress=session.progress(),
            project=project,
        )
        outcomes = Outcomes.of(checker.rows([CheckEntry(reference, reference, tuple(bases))]), "undecided")
    against = [(row, found) for row in outcomes.rows for found in row.because]
    if against:
        row, first = against[0]
        raise AdapterDoesNotFit(
            f"{reference} may not become this: for {row.checked.target}, {first.rule} {first.message}",
            hint=first.hint or f"lorahub explain {first.rule}",
            findings=[{"path": found.rule, **found.as_json()} for _, found in against],
        )


def _row(one: Alias) -> list[object]:
    return [one.name, one.version, one.commit, one.protected]


for each in (set_alias, remove, list_aliases):
    alias.add_command(each)
