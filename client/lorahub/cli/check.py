"""`lorahub check`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from lorahub.adapters.check import AtRevision
from lorahub.adapters.findings import Evidence, Finding
from lorahub.cli.completing import placed
from lorahub.cli.output import Result, plain, table
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidUsage
from lorahub.hub.checking import FAIL_ON, LEVELS, Checked, Checker, Evaluate, summary
from lorahub.hub.lock import LOCK, read_lock
from lorahub.hub.reports import REPORTS, cell, counts, runtime_cell, step_summary, worst_first
from lorahub.hub.showing import size_text


@command("check")
@click.argument("adapters", nargs=-1, shell_complete=placed)
@click.option(
    "--base", "bases", multiple=True, metavar="BASE", help="A folder, a name, or hf:org/name@rev; repeatable."
)
@click.option("--all-of", metavar="BASE", help="Every adapter that the registry knows for this base.")
@click.option("--level", type=click.Choice(LEVELS), default="shapes", help="How deep to look.", show_default=True)
@click.option(
    "--for", "runtimes", multiple=True, metavar="RUNTIME", help='Must load there too: vllm, vllm@0.32, "peft on awq", …'
)
@click.option(
    "--fail-on", type=click.Choice(FAIL_ON), default="incompatible", show_default=True, help="What is exit 1."
)
@click.option("--data", type=click.Path(path_type=Path), help="Rows to evaluate on, with --level eval.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.02,
    show_default=True,
    help="How much worse than recorded is good enough, as a share.",
)
@click.option("--report", "reports", multiple=True, metavar="KIND=FILE", help=f"Also write: {', '.join(REPORTS)}.")
def check(session: Session, adapters: Sequence[str], **wishes: Any) -> Result:
    """Prove whether ADAPTERS fit a base: from headers alone, no weights are read.

    ADAPTERS are folders, files, references (acme/sql@v3, hf:org/name) or lorahub.lock. Without --base, the base that
    each adapter names is used. Exit 1 says that one doesn't fit.
    """
    pairs = _wanted(session, adapters, list(wishes["bases"]), wishes["all_of"])
    with session.sources() as sources:
        checker = Checker(
            sources,
            level=wishes["level"],
            runtimes=wishes["runtimes"],
            progress=session.progress(),
            evaluate=_evaluation(session, wishes["data"], wishes["tolerance"]) if wishes["level"] == "eval" else None,
        )
        results = [checked for spec, against in pairs for checked in checker.run(spec, against)]
    if not results:
        raise InvalidUsage("there is nothing to check", hint="name a folder, a reference, or lorahub.lock")
    written = _write(results, wishes["reports"])
    return _result(results, checker, written, fail_on=wishes["fail_on"])


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


def _wanted(
    session: Session, adapters: Sequence[str], bases: list[str], all_of: str | None
) -> list[tuple[str, list[str]]]:
    """(adapter, its bases). A lock file stands for the adapters in it, each with the base it records."""
    pairs: list[tuple[str, list[str]]] = []
    for spec in dict.fromkeys(map(_folder_of, adapters)):
        if Path(spec).name == LOCK and Path(spec).is_file():
            pairs += [(entry.pinned, bases or ([entry.base] if entry.base else [])) for entry in read_lock(Path(spec))]
        else:
            pairs.append((spec, bases))
    if all_of is not None:
        with session.hub() as hub:
            found = [one.reference for one in hub.bases.adapters(all_of)]
        pairs += [(spec, [_revised(all_of, base) for base in bases] or [all_of]) for spec in found]
    return pairs


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


def _write(results: Sequence[Checked], wishes: Sequence[str]) -> list[str]:
    written = []
    for wish in wishes:
        kind, _, place = wish.partition("=")
        if kind not in REPORTS:
            raise InvalidUsage(f"no report is called {kind!r}", hint=f"there are: {', '.join(REPORTS)}")
        text = REPORTS[kind](results)
        if place in ("", "-"):
            click.echo(plain(text))
        else:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            Path(place).write_text(text, "utf-8")
            written.append(place)
    where = os.environ.get("GITHUB_STEP_SUMMARY")
    if where and not any(wish.startswith("summary=") for wish in wishes):
        with Path(where).open("a", encoding="utf-8") as file:
            file.write(step_summary(results))
    return written


def _result(results: Sequence[Checked], checker: Checker, written: Sequence[str], *, fail_on: str) -> Result:
    fails = any(checked.fails(fail_on) for checked in results)
    data = {
        "checks": [checked.as_json() for checked in results],
        "summary": summary(results),
        "level": checker.level,
        "bytes_read": checker.bytes_read,
    }
    human = _human(results, checker) if len(results) > 1 else _one(results[0])
    return Result(
        data=data,
        human=human,
        ids=[f"{checked.verdict.value} {checked.adapter}" for checked in results],
        rows=[[c.adapter, c.base or "", c.verdict.value, ",".join(f.rule for f in c.report.findings)] for c in results],
        notes=[f"  wrote {place}" for place in written],
        exit_code=1 if fails else 0,
    )


def _human(results: Sequence[Checked], checker: Checker) -> str:
    """A row for each adapter, a column for each base, then for each runtime that was asked for."""
    bases = list(dict.fromkeys(checked.base or "no base" for checked in results))
    rows: dict[str, list[str]] = {}
    for checked in worst_first(results):
        row = rows.setdefault(checked.adapter, [""] * (len(bases) + len(checker.runtimes)))
        row[bases.index(checked.base or "no base")] = cell(checked)
        for number, runtime in enumerate(checker.runtimes):
            row[len(bases) + number] = runtime_cell(checked, str(runtime))
    shown = table(["adapter", *bases, *map(str, checker.runtimes)], [[name, *row] for name, row in rows.items()])
    details = [_findings(checked) for checked in worst_first(results) if checked.report.findings]
    read = f"   (headers only, {size_text(checker.bytes_read)} read)" if checker.bytes_read else ""
    return "\n".join([shown, *(f"\n{text}" for text in details), f"\n{counts(results)}{read}"])


_WORDS = {
    "compatible": "✓ {adapter} is compatible with {base}: these are the weights it was trained on",
    "fits": "✓ {adapter} fits {base}",
    "incompatible": "✗ {adapter} does not fit {base}",
    "undecided": "? {adapter}: whether it fits {base} can't be told",
}


def _one(checked: Checked) -> str:
    said = _WORDS[checked.verdict.value].format(adapter=checked.adapter, base=checked.base or "any base")
    facts = checked.facts
    ranks = ", ".join(map(str, facts.ranks))
    what = f"{facts.format} {facts.method}" + (f", rank {ranks}" if ranks else "")
    matched = f"; {checked.report.matched} of {checked.report.of} modules matched" if checked.base else ""
    covered = checked.report.coverage
    if covered.used < covered.of:
        matched += f"; {covered.used} of {covered.of} tensors used, {covered.named} named below"
    lines = [said, f"  {what}{matched}", *map(_at_revision, checked.report.revisions)]
    if checked.report.findings:
        lines.append(_findings(checked, name=False))
    lines += [f"  ignored {found.rule}: {reason}" for found, reason in checked.ignored]
    usable = [judged.runtime for judged in checked.report.runtimes if judged.is_usable]
    if usable and checked.verdict.value != "incompatible":
        lines.append(f"  loads in: {', '.join(usable)}")
    for runtime in checked.wanted:
        lines.append(f"  {runtime}: {runtime_cell(checked, runtime)}")
    return "\n".join(lines)


def _at_revision(one: AtRevision) -> str:
    sign = {"compatible": "✓ same weights", "fits": "✓ fits", "incompatible": "✗ does not fit"}.get(one.verdict, "?")
    at = f"@{one.revision[:12]}" if one.revision else "without a revision"
    return f"  {at}: {sign}, {one.matched} of {one.of} modules"


def _findings(checked: Checked, *, name: bool = True) -> str:
    lines = [f"{checked.adapter} × {checked.base or 'no base'}"] if name else []
    for found in checked.report.findings:
        lines.append(f"  {found.rule} {found.severity.value}: {found.message}")
        lines += [_evidence(piece) for piece in found.evidence[:3] if piece.found or piece.expected]
        if len(found.evidence) > 3:
            lines.append(f"        … and {len(found.evidence) - 3} more (--json has them all)")
        if found.hint:
            lines.append(f"        Hint: {found.hint}")
    return "\n".join(lines)


def _evidence(piece: Evidence) -> str:
    expected = f", expected {piece.expected}" if piece.expected else ""
    return f"        {piece.name}: {piece.found or '–'}{expected}"
