"""How rows of checks are shown and reported, whichever command made them."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from lorahub.adapters.check import AtRevision
from lorahub.adapters.findings import Evidence
from lorahub.adapters.rules import Severity
from lorahub.cli.output import Result, table
from lorahub.errors import InvalidUsage
from lorahub.hub.outcomes import Checked, Judgement, Outcomes
from lorahub.hub.reports import REPORTS, cell, counts, newer_bases, runtime_cell, step_summary
from lorahub.hub.showing import shown_json, shown_text

report_option = click.option(
    "--report", "reports", multiple=True, metavar="KIND=FILE", help=f"Also write: {', '.join(REPORTS)}."
)


def wanted_reports(wishes: Sequence[str]) -> list[tuple[str, str]]:
    """(kind, file) of each, asked before anything is done. Raises `InvalidUsage`."""
    found = [(kind, place) for kind, _, place in (wish.partition("=") for wish in wishes)]
    unknown = next((kind for kind, _ in found if kind not in REPORTS), None)
    if unknown is not None:
        raise InvalidUsage(f"no report is called {unknown!r}", hint=f"there are: {', '.join(REPORTS)}")
    return found


def write_reports(outcomes: Outcomes, reports: Sequence[tuple[str, str]]) -> list[str]:
    """The files that were written. In a GitHub job, the step's summary is one of them."""
    written = []
    for kind, place in reports:
        text = REPORTS[kind](outcomes)
        if place in ("", "-"):
            click.echo(_on_a_log(kind, text))
        else:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            Path(place).write_text(text, "utf-8")
            written.append(place)
    where = os.environ.get("GITHUB_STEP_SUMMARY")
    if where and not any(kind == "summary" for kind, _ in reports):
        with Path(where).open("a", encoding="utf-8") as file:
            file.write(step_summary(outcomes))
    return written


def _on_a_log(kind: str, text: str) -> str:
    """Commands to GitHub are what annotations are; no other report has any."""
    if kind == "github":
        return text
    return shown_json(text) if kind in ("json", "sarif") else shown_text(text)


def result_of(
    outcomes: Outcomes, human: Sequence[str], written: Sequence[str], notes: Sequence[str] = (), **more: Any
) -> Result:
    rows = [row.checked for row in outcomes.rows]
    return Result(
        data={**outcomes.as_json(), **more},
        human=human,
        ids=[f"{one.verdict.value} {one.adapter}" for one in rows],
        rows=[[one.adapter, one.base or "", one.verdict.value, ",".join(f.rule for f in one.findings)] for one in rows],
        notes=[*notes, *(f"  wrote {place}" for place in written)],
        exit_code=outcomes.exit_code,
    )


def lines_of(outcomes: Outcomes, runtimes: Sequence[str], read: str) -> list[str]:
    """A row for each adapter, a column for each base, then for each runtime that was asked for. One alone is told of in
    full.
    """
    if len(outcomes.rows) == 1:
        return [*_one(outcomes.rows[0]), *newer_bases(outcomes)]
    ordered = outcomes.worst_first
    targets = list(dict.fromkeys(row.checked.target for row in outcomes.rows))
    shown: dict[str, list[str]] = {}
    for row in ordered:
        line = shown.setdefault(row.checked.adapter, [""] * (len(targets) + len(runtimes)))
        line[targets.index(row.checked.target)] = cell(row)
        for place, runtime in enumerate(runtimes, len(targets)):
            if runtime in row.checked.wanted:
                line[place] = line[place] or runtime_cell(row.checked, runtime)  # the worst is told
    lines = table(["adapter", *targets, *runtimes], [[name, *line] for name, line in shown.items()]).split("\n")
    for row in ordered:
        if row.checked.findings:
            lines += ["", *finding_lines(row)]
    return [*lines, "", counts(outcomes) + read, *newer_bases(outcomes)]


def finding_lines(row: Judgement) -> list[str]:
    """What was found of a row, under its name."""
    return [f"{row.checked.adapter} × {row.checked.target}", *_findings(row)]


_WORDS = {
    "compatible": "✓ {adapter} is compatible with {base}: these are the weights it was trained on",
    "fits": "✓ {adapter} fits {base}",
    "incompatible": "✗ {adapter} does not fit {base}",
    "undecided": "? {adapter}: whether it fits {base} can't be told",
}


def _one(row: Judgement) -> Iterator[str]:
    checked = row.checked
    yield _WORDS[checked.verdict.value].format(adapter=checked.adapter, base=checked.base or "any base")
    yield from _facts(checked)
    yield from map(_at_revision, checked.report.revisions)
    yield from _findings(row)
    yield from (f"  ignored {found.rule}: {reason}" for found, reason in checked.ignored)
    usable = dict.fromkeys(judged.runtime for judged in checked.report.runtimes if judged.is_usable)
    if usable and checked.verdict.value != "incompatible":
        yield f"  loads in: {', '.join(usable)}"
    yield from (f"  {runtime}: {runtime_cell(checked, runtime)}" for runtime in checked.wanted)


def _facts(checked: Checked) -> Iterator[str]:
    facts = checked.facts
    if facts is None:
        return
    ranks = ", ".join(map(str, facts.ranks))
    what = f"{facts.format} {facts.method}" + (f", rank {ranks}" if ranks else "")
    matched = f"; {checked.report.matched} of {checked.report.of} modules matched" if checked.base else ""
    covered = checked.report.coverage
    if covered.used < covered.of:
        matched += f"; {covered.used} of {covered.of} tensors used, {covered.named} named below"
    yield f"  {what}{matched}"


def _at_revision(one: AtRevision) -> str:
    sign = {"compatible": "✓ same weights", "fits": "✓ fits", "incompatible": "✗ does not fit"}.get(one.verdict, "?")
    at = f"@{one.revision[:12]}" if one.revision else "without a revision"
    return f"  {at}: {sign}, {one.matched} of {one.of} modules"


def _findings(row: Judgement) -> Iterator[str]:
    for found in row.checked.findings:
        level = row.level(found)
        fails = ", and fails here" if level is Severity.ERROR and found.severity is not Severity.ERROR else ""
        yield f"  {found.rule} {found.severity.value}{fails}: {found.message}"
        yield from (_evidence(piece) for piece in found.evidence[:3] if piece.found or piece.expected)
        if found.count > 3:
            yield f"        … and {found.count - 3} more (--json has them all)"
        if found.hint:
            yield f"        Hint: {found.hint}"


def _evidence(piece: Evidence) -> str:
    expected = f", expected {piece.expected}" if piece.expected else ""
    return f"        {piece.name}: {piece.found or '–'}{expected}"
