"""`lorahub check`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lorahub.adapters.findings import Finding
from lorahub.cli.completing import placed
from lorahub.cli.output import Result
from lorahub.cli.rows import lines_of, report_option, result_of, wanted_reports, write_reports
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidConfiguration, InvalidUsage, Refusal, Unavailable
from lorahub.hub.checking import CheckEntry, Checker, Evaluate, asked_in
from lorahub.hub.lock import LOCK, Lock, is_lock
from lorahub.hub.outcomes import FAIL_ON, Outcomes, ProjectLine, is_unread
from lorahub.hub.project_checks import LEVELS, ProjectChecks, read_checks, write_baseline
from lorahub.hub.showing import size_text

if TYPE_CHECKING:
    from lorahub.hub.sources import Sources

fail_on_option = click.option("--fail-on", type=click.Choice(FAIL_ON), help="What is exit 1.  [default: incompatible]")


@command("check")
@click.argument("adapters", nargs=-1, shell_complete=placed)
@click.option(
    "--base", "bases", multiple=True, metavar="BASE", help="A folder, a name, or hf:org/name@rev; repeatable."
)
@click.option("--all-of", metavar="BASE", help="Every adapter that the registry knows for this base.")
@click.option("--level", type=click.Choice(LEVELS), help="How deep to look.  [default: shapes]")
@click.option("--for", "runtimes", multiple=True, metavar="RUNTIME", help="Must load there too: vllm, vllm@0.32, …")
@click.option("--env", "environments", multiple=True, metavar="NAME", help="For an environment of lorahub.toml.")
@fail_on_option
@click.option("--data", type=click.Path(path_type=Path), help="Rows to evaluate on, with --level eval.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.02,
    show_default=True,
    help="How much worse than recorded is good enough, as a share.",
)
@report_option
@click.option(
    "--write-baseline", type=click.Path(path_type=Path), metavar="FILE", help="Take what is found as there before."
)
def check(session: Session, adapters: Sequence[str], **wishes: Any) -> Result:
    """Prove whether ADAPTERS fit a base: from headers alone, no weights are read.

    ADAPTERS are folders, files, references (acme/sql@v3, hf:org/name) or lorahub.lock. Without --base, the base that
    is locked is used, or the one that each adapter names. Exit 1 says that one doesn't fit; what can't be checked is
    undecided, and has a row all the same.
    """
    reports = wanted_reports(wishes["reports"])
    project = read_checks()
    if wishes["write_baseline"] and project.baseline and not project.baseline.is_file():
        project = replace(project, baseline=None)  # it is made now
    environments = project.chosen(wishes["environments"])
    fail_on = wishes["fail_on"] or project.fail_on or "incompatible"
    with session.sources() as sources:
        asked, locks = _asked(session, sources, adapters, list(wishes["bases"]), wishes["all_of"])
        runtimes = wishes["runtimes"] or tuple(runtime for one in locks for runtime in one.runtimes)
        checker = Checker(
            sources,
            level=wishes["level"] or next((one.level for one in locks if one.level), None),
            runtimes=runtimes,
            environments=environments,
            progress=session.progress(),
            evaluate=_evaluation(session, wishes["data"], wishes["tolerance"]),
            project=project,
        )
        outcomes = Outcomes.of(checker.rows(asked), fail_on)
    written = write_reports(outcomes, reports)
    if not outcomes.rows:
        raise InvalidUsage("there is nothing to check", hint="name a folder, a reference, or lorahub.lock")
    notes = [*_expired(project), *_of_nothing(outcomes), *_baseline(outcomes, wishes["write_baseline"])]
    read = f"   (headers only, {size_text(checker.bytes_read)} read)" if checker.bytes_read else ""
    shown = list(dict.fromkeys(runtime for one in checker.environments for runtime in one.runtimes))
    return result_of(
        outcomes, lines_of(outcomes, shown, read), written, notes, level=checker.level, bytes_read=checker.bytes_read
    )


def _evaluation(session: Session, data: Path | None, tolerance: float) -> Evaluate | None:
    """What compares with eval.json; None without rows."""
    if data is None:
        return None
    from lorahub.cli.eval import config_of

    def evaluate(adapter: str, base: str) -> list[Finding]:
        from lorahub.training.evaluation import compared

        return compared(adapter, base, data, tolerance, hub=session.hub)

    config_of({})
    return evaluate


def _asked(
    session: Session, sources: "Sources", adapters: Sequence[str], bases: list[str], all_of: str | None
) -> tuple[list[CheckEntry], list[Lock]]:
    """What is to be checked. A lock file stands for the adapters in it, each with the base it records."""
    asked: list[CheckEntry] = []
    locks: list[Lock] = []
    for spec in dict.fromkeys(map(_folder_of, adapters)):
        place = Path(spec)
        if not is_lock(place):
            asked.append(CheckEntry(spec, spec, tuple(bases)))
            continue
        try:
            lock, entries = asked_in(place, sources, bases)
        except InvalidConfiguration as fault:
            asked.append(CheckEntry(spec, spec, tuple(bases), ProjectLine(place.as_posix()), broken=fault))
        else:
            locks.append(lock)
            asked += entries
    return asked + ([] if all_of is None else _adapters_of(session, all_of, bases)), locks


def _adapters_of(session: Session, base: str, bases: list[str]) -> list[CheckEntry]:
    against = tuple(_revised(base, other) for other in bases) or (base,)
    every = f"every adapter of {base}"

    def found() -> list[CheckEntry]:
        with session.hub() as hub:
            return [CheckEntry(one.reference, one.reference, against) for one in hub.bases.adapters(base)]

    try:
        return found()
    except Refusal as refusal:
        return [CheckEntry(every, every, against, broken=refusal)]
    except Unavailable as fault:
        return [CheckEntry(every, every, against, broken=fault)]


def _folder_of(spec: str) -> str:
    """An adapter's own file stands for its folder, so that a list of changed files is a list of adapters."""
    place = Path(spec)
    is_part = place.name == "adapter_config.json" or (
        place.is_file() and place.with_name("adapter_config.json").is_file()
    )
    return str(place.parent) if is_part and place.name != LOCK else spec


def _revised(base: str, other: str) -> str:
    """`@next` is another revision of the same base."""
    return base.partition("@")[0] + other if other.startswith("@") else other


def _expired(project: ProjectChecks) -> list[str]:
    return [
        f"! an ignore has expired on {one.until}, and counts no more: {one} ({one.reason})"
        for one in project.ignores
        if one.is_expired
    ]


def _of_nothing(outcomes: Outcomes) -> list[str]:
    is_blind = all(is_unread(row.checked) for row in outcomes.rows)
    return ["! nothing could be read, and so nothing was checked"] if is_blind else []


def _baseline(outcomes: Outcomes, place: Path | None) -> list[str]:
    if place is None:
        return []
    count = write_baseline(place, (row.checked for row in outcomes.rows))
    return [f"  wrote {place}: {count} findings; name it in lorahub.toml: [check] baseline = {str(place)!r}"]
