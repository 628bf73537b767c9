"""`lorahub lock` and `lorahub verify`."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click

from lorahub.adapters.runtimes import parse_runtime
from lorahub.cli.check import fail_on_option
from lorahub.cli.completing import placed, stored
from lorahub.cli.output import Result, table
from lorahub.cli.rows import finding_lines, lines_of, report_option, result_of, wanted_reports, write_reports
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidConfiguration, InvalidUsage
from lorahub.hub.checking import CheckEntry, Checker, asked_in
from lorahub.hub.lock import LOCK, Lock, LockedAdapter, locked, read_lock, write_lock
from lorahub.hub.outcomes import Outcomes, ProjectLine
from lorahub.hub.project_checks import LEVELS, read_checks
from lorahub.hub.reports import cell
from lorahub.hub.signing import verify_folder
from lorahub.hub.sources import Sources


@command("lock")
@click.argument("references", nargs=-1, shell_complete=stored)
@click.option(
    "--file", "place", type=click.Path(path_type=Path), default=LOCK, show_default=True, help="The lock file."
)
@click.option("--base", metavar="BASE", help="Record this base for the references.")
@click.option("--level", type=click.Choice(LEVELS), help="Record how deep `check` is to look.")
@click.option("--for", "runtimes", multiple=True, metavar="RUNTIME", help="Record what must load them: vllm@0.32, …")
@report_option
def lock(
    session: Session,
    references: Sequence[str],
    *,
    place: Path,
    base: str | None,
    level: str | None,
    runtimes: Sequence[str],
    reports: Sequence[str],
) -> Result:
    """Write down which files REFERENCES stand for now, and the bytes of their bases; without any, renew every entry.

    Exit 1 where one couldn't be read: it has the entry that it had.
    """
    wanted = wanted_reports(reports)
    before = read_lock(place) if place.is_file() else Lock()
    if not references and not before.entries:
        raise InvalidUsage("there is nothing to lock", hint="lorahub lock acme/sql@champion")
    chosen = tuple(str(parse_runtime(one)) for one in runtimes) or before.runtimes
    with session.sources() as sources:
        if references and before.entries and before.registry not in (None, sources.endpoint):
            raise InvalidUsage(
                f"{place} is of {before.registry}, and this is {sources.endpoint}",
                hint=f"lorahub --endpoint {before.registry} lock …, or name another --file",
            )
        if references:
            named = [str(sources.reference(one)) for one in references]
            asked = [CheckEntry(one, one, locked=before.entry(one)) for one in dict.fromkeys(named)]
        else:
            asked = asked_in(place, sources, pinned=False)[1]
        made = Checker(sources, level="shapes").locks(asked, base)
        registry = before.registry or sources.endpoint
    known = {entry.reference: entry for _, entry in before.entries if isinstance(entry, LockedAdapter)}
    known |= {entry.reference: entry for _, entry in made if entry is not None}
    outcomes = Outcomes.of((row for row, _ in made), "undecided")
    shown = [[entry.reference, entry.commit[:12], entry.base or ""] for entry in known.values()]
    human = table(["reference", "commit", "base"], shown).split("\n")
    if outcomes.exit_code:
        human += ["", *lines_of(outcomes, (), "")]
    if is_whole := all(isinstance(entry, LockedAdapter) for _, entry in before.entries):
        write_lock(place, locked(known.values(), registry=registry, level=level or before.level, runtimes=chosen))
    human.append(f"✓ wrote {place}" if is_whole else f"✗ {place} is as it was: an entry can't be read")
    result = result_of(
        outcomes,
        human,
        write_reports(outcomes, wanted),
        file=str(place),
        adapters=[asdict(entry) for entry in known.values()],
    )
    return replace(result, ids=[entry.pinned for entry in known.values()], rows=shown)


@command("verify")
@click.argument("place", metavar="[FILE|FOLDER|REFERENCE]", default=LOCK, shell_complete=placed)
@click.option("--key", type=click.Path(path_type=Path), metavar="PUBLIC_KEY", help="Verify a signature by this key.")
@click.option("--base", metavar="BASE", help="Verify a merged checkpoint: what it was merged from.")
@click.option("--adapter", "adapters", multiple=True, metavar="ADAPTER[=WEIGHT]", help="What was merged; repeatable.")
@fail_on_option
@report_option
def verify(
    session: Session,
    place: str,
    *,
    key: Path | None,
    base: str | None,
    adapters: tuple[str, ...],
    fail_on: str | None,
    reports: Sequence[str],
) -> Result:
    """Compare a lock file with the registry, with --key a folder or a reference with its signature, or with --base and
    --adapter a merged checkpoint with what it was merged from.

    Exit 1 where a reference of the lock file leads to other files now, or a tensor isn't base plus adapters; 7 where
    the key has not signed exactly these files. A signature says who vouched for the bytes, not that they are harmless.
    """
    if base is not None or adapters:
        from lorahub.cli.proof import verify_merge

        return verify_merge(session, place, base, adapters)
    if key is not None:
        return _verify_signature(session, place, key)
    return _compare_lock(session, Path(place), fail_on, wanted_reports(reports))


def _verify_signature(session: Session, place: str, key: Path) -> Result:
    with session.sources() as sources:
        folder = sources.fetch(place).folder
    fingerprint = verify_folder(folder, key)
    return Result(
        {"verified": True, "signer": fingerprint, "folder": str(folder)},
        f"✓ {place} is what the key {fingerprint[:16]}… signed, file by file",
        ids=[fingerprint],
        rows=[[place, fingerprint]],
    )


def _compare_lock(session: Session, place: Path, fail_on: str | None, reports: Sequence[tuple[str, str]]) -> Result:
    project = read_checks()
    with session.sources() as sources:
        checker = Checker(sources, level="shapes", project=project)
        rows = checker.verified(_locked_entries(place, sources))
    outcomes = Outcomes.of(rows, fail_on or project.fail_on or "incompatible")
    moved = [row.checked for row in outcomes.rows if any(found.rule == "LH503" for found in row.checked.findings)]
    written = write_reports(outcomes, reports)
    if not outcomes.rows:
        raise InvalidUsage(f"{place} locks nothing", hint="lorahub lock acme/sql@champion")
    shown = [[row.checked.adapter, row.checked.base or "", cell(row)] for row in outcomes.worst_first]
    human = table(["reference", "base", "now"], shown).split("\n")
    human += [line for row in outcomes.worst_first if row.checked.findings for line in finding_lines(row)]
    if moved:
        human.append(f"✗ LH503: {len(moved)} of {len(outcomes.rows)} references lead to other files now")
    else:
        same, of = outcomes.summary()["compatible"], len(outcomes.rows)
        human.append(f"{'✗' if outcomes.exit_code else '✓'} {same} of {of} references lead to the locked files")
    result = result_of(outcomes, human, written, moved=[one.adapter for one in moved], checked=len(outcomes.rows))
    return replace(result, ids=[one.adapter for one in moved], rows=shown)


def _locked_entries(place: Path, sources: Sources) -> list[CheckEntry]:
    """A file that is no lock is an entry that can't be read."""
    try:
        return asked_in(place, sources, pinned=False)[1]
    except InvalidConfiguration as fault:
        return [CheckEntry(str(place), str(place), at=ProjectLine(place.as_posix()), broken=fault)]
