"""One run of checks, in the forms that CI systems read: annotations, step summary, SARIF, JUnit, Markdown.

What a row counts is asked of `outcomes` alone. What came from a file, a name or a registry is written by `visible`, and
then by what the form itself asks to be escaped.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

from lorahub.adapters.findings import Finding, Verdict
from lorahub.adapters.rules import RULES, Severity
from lorahub.adapters.runtimes import Loads
from lorahub.hub.checking import at_runtime
from lorahub.hub.lock import LOCK
from lorahub.hub.outcomes import Checked, Judgement, Outcome, Outcomes, fingerprints, plain_name
from lorahub.hub.showing import visible

MARKER = "<!-- lorahub check -->"
"""First line of the Markdown report: whoever posts it finds its own comment again, and edits it."""

_GOOD = {Verdict.COMPATIBLE: "✓ same", Verdict.FITS: "≈ fits"}
_LOADS = {Loads.YES: "✓", Loads.WITH: "!", Loads.WRONG: "✗ wrong", Loads.NO: "✗", Loads.UNKNOWN: "?"}
_SUMMARY_BYTES = 900_000  # GitHub drops a step's summary whole above 1 MiB
_ANNOTATIONS = 10  # GitHub shows ten of each kind a step
_MOST_RESULTS = 25_000  # GitHub refuses a run with more


def cell(row: Judgement) -> str:
    """What became of it, in a table: `✓ same`, `≈ fits`, `✗ LH202`, `? LH105`."""
    checked = row.checked
    if row.outcome is Outcome.PASSED and checked.verdict in _GOOD:
        return _GOOD[checked.verdict]
    first = next(iter(row.because or checked.findings), None)
    sign = "?" if row.outcome is not Outcome.FAILED and checked.is_undecided else "✗"
    return f"{sign} {first.rule}" if first is not None else sign


def runtime_cell(checked: Checked, runtime: str) -> str:
    judged = at_runtime(checked.report, runtime)
    if judged is None:
        return "?"
    return " ".join(
        filter(None, [_LOADS[judged.loads], judged.needs or (judged.reasons[0][0] if judged.reasons else "")])
    )


def counts(outcomes: Outcomes) -> str:
    """`3 checks: 1 same, 1 fit, 1 not, 0 undecided; 1 fails`."""
    found, failed = outcomes.summary(), outcomes.outcomes()["failed"]
    plural = "" if len(outcomes.rows) == 1 else "s"
    fails = f"; {failed} fail{'s' if failed == 1 else ''}" if failed else ""
    return (
        f"{len(outcomes.rows)} check{plural}: {found['compatible']} same, {found['fits']} fit, "
        f"{found['incompatible']} not, {found['undecided']} undecided{fails}"
    )


def newer_bases(outcomes: Outcomes) -> Iterator[str]:
    """What would become of what is locked on bases that came later: nothing of it counts."""
    for base, (broken, of) in outcomes.breaking().items():
        yield f"newer base {base}: {broken} of {of} would break"


def told(found: Finding) -> str:
    """A finding as a sentence or two."""
    end = "" if found.message.endswith((".", "!", "?")) else "."
    return f"{found.message}{end} {found.hint or ''}".rstrip()


# --- GitHub -----------------------------------------------------------------------------------------------------------


def annotations(outcomes: Outcomes) -> str:
    """Workflow commands, one for each row and severity; what is cut is counted in the last line."""
    lines: list[str] = []
    for severity in (Severity.ERROR, Severity.WARNING):
        worth = [row for row in outcomes.worst_first if _of(row, severity)]
        most = _ANNOTATIONS if len(worth) <= _ANNOTATIONS else _ANNOTATIONS - 1
        lines += [_annotation(row, severity) for row in worth[:most]]
        if len(worth) > most:
            lines.append(f"::{severity.value}::{_data(f'…and {len(worth) - most} more in the summary')}")
    return "\n".join(lines)


def _of(row: Judgement, severity: Severity) -> list[Finding]:
    return [found for found in row.checked.findings if row.level(found) is severity]


def _annotation(row: Judgement, severity: Severity) -> str:
    checked = row.checked
    place = f"file={_property(checked.at.path)},line={checked.at.number}," if checked.at else ""
    title = _property(f"{checked.adapter} × {checked.target}")
    text = "%0A".join(_data(f"{found.rule} {told(found)}") for found in _of(row, severity)[:5])
    return f"::{severity.value} {place}title={title}::{text}"


def _data(text: str) -> str:
    return visible(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def step_summary(outcomes: Outcomes) -> str:
    """Markdown for $GITHUB_STEP_SUMMARY, worst first, cut below GitHub's limit."""
    return _cut(markdown(outcomes), _SUMMARY_BYTES)


def _cut(text: str, limit: int) -> str:
    raw = text.encode()
    if len(raw) <= limit:
        return text
    return (
        raw[:limit].decode("utf-8", "ignore").rpartition("\n")[0] + "\n\n…cut: the whole report is in the JSON file.\n"
    )


# --- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(outcomes: Outcomes) -> str:
    """A table, and the findings behind every row that isn't plain."""
    lines = [
        MARKER,
        f"### lorahub check: {counts(outcomes)}",
        "",
        "| adapter | base | outcome | verdict | modules |",
        "| --- | --- | --- | --- | --- |",
    ]
    ordered = outcomes.worst_first
    for row in ordered:
        checked = row.checked
        matched = f"{checked.report.matched} of {checked.report.of}"
        lines.append(
            f"| {_md(checked.adapter)} | {_md(checked.target)} | {row.outcome.value} | {cell(row)} | {matched} |"
        )
    lines += ["", *(f"- {_md(line)}" for line in newer_bases(outcomes))]
    for row in ordered:
        checked = row.checked
        if checked.findings or checked.ignored:
            lines += ["", f"<details><summary>{_md(checked.adapter)} × {_md(checked.target)}</summary>", ""]
            lines += [_md_finding(row.level(found), found) for found in checked.findings]
            lines += [f"- ~~{found.rule}~~ ignored: {_md(reason)}" for found, reason in checked.ignored]
            lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def _md_finding(level: Severity, found: Finding) -> str:
    return f"- **{found.rule}** {level.value}: {_md(found.message)}  \n  {_md(found.hint or '')}"


_MARKUP = re.compile(r"[\\`*_\[\]|~#!]|(?<=:)(?=//)|(?<=www)(?=\.)")


def _md(text: str) -> str:
    """Nothing of an adapter's own words may become markup, a link, or call for somebody."""
    escaped = _MARKUP.sub(lambda found: f"\\{found[0]}", visible(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "@<!-- -->")


# --- SARIF ------------------------------------------------------------------------------------------------------------


def sarif(outcomes: Outcomes) -> str:
    """SARIF 2.1.0. A finding has the same fingerprint in every run, so that it keeps its history; code scanning reads
    it under the name of its own, which are hashes of lines and would change with a lock. What is set aside is a result
    too, suppressed with the reason.
    """
    results = [result for row in outcomes.worst_first for result in _sarif_results(row)][:_MOST_RESULTS]
    used = sorted({result["ruleId"] for result in results})
    run = {
        "tool": {
            "driver": {
                "name": "lorahub",
                "version": _version(),
                "semanticVersion": _version(),
                "rules": [_sarif_rule(rule) for rule in used],
            }
        },
        "invocations": [{"executionSuccessful": True, "exitCode": outcomes.exit_code}],
        "results": results,
    }
    document = {
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [run],
    }
    return json.dumps(document, indent=2) + "\n"


def _version() -> str:
    from lorahub import __version__

    return __version__


def _sarif_rule(rule: str) -> dict[str, Any]:
    known = RULES[rule]
    return {
        "id": rule,
        "name": rule,
        "shortDescription": {"text": known.title},
        "fullDescription": {"text": known.cause},
        "help": {"text": f"{known.cause} {known.cure}. Example: {known.example}"},
        "defaultConfiguration": {"level": known.severity.value},
    }


def _sarif_results(row: Judgement) -> Iterator[dict[str, Any]]:
    checked = row.checked
    set_aside = [found for found, _ in checked.ignored]
    every = [*checked.findings, *set_aside]
    reasons = [None] * len(checked.findings) + [reason for _, reason in checked.ignored]
    for found, fingerprint, reason in zip(every, fingerprints(checked, every), reasons, strict=True):
        result = _sarif_result(row, found, fingerprint)
        if reason is not None:
            why = {"kind": "external", "status": "accepted", "justification": visible(reason)}
            result["suppressions"] = [why]
        yield result


def _without_links(text: str) -> str:
    """Brackets of a message make a link of it (SARIF 2.1.0, 3.11.6), unless they are escaped."""
    return re.sub(r"[\\\[\]]", r"\\\g<0>", visible(text))


def _sarif_result(row: Judgement, found: Finding, fingerprint: str) -> dict[str, Any]:
    checked = row.checked
    where = f"{plain_name(checked.adapter)} × {checked.target}"
    place, line = (checked.at.path, checked.at.number) if checked.at else (LOCK, 1)
    return {
        "ruleId": found.rule,
        "level": row.level(found).value,
        "message": {"text": _without_links(f"{where}: {told(found)}")},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": _uri(place)}, "region": {"startLine": line}},
                "logicalLocations": [{"fullyQualifiedName": visible(where), "kind": "module"}],
            },
        ],
        "partialFingerprints": {"primaryLocationLineHash": fingerprint, "lorahub/v2": fingerprint},
    }


def _uri(path: str) -> str:
    """Of the project where it lies in it, as code scanning asks for."""
    place = Path(path)
    if place.is_absolute() and place.is_relative_to(Path.cwd()):
        place = place.relative_to(Path.cwd())
    quoted = quote(os.fsencode(place.as_posix()))
    return f"file://{quoted}" if place.is_absolute() else quoted


# --- JUnit ------------------------------------------------------------------------------------------------------------


def junit(outcomes: Outcomes) -> str:
    """One case for each row; undecided is skipped, as a test that couldn't run."""
    found = outcomes.outcomes()
    suite = ET.Element(
        "testsuite",
        name="lorahub check",
        tests=str(len(outcomes.rows)),
        failures=str(found["failed"]),
        skipped=str(found["undecided"]),
        errors="0",
    )
    for row in outcomes.rows:
        checked = row.checked
        case = ET.SubElement(suite, "testcase", classname=visible(checked.adapter), name=visible(checked.target))
        text = "\n".join(visible(f"{one.rule} {row.level(one).value}: {told(one)}") for one in checked.findings)
        first = next(iter(row.because or checked.findings), None)
        message = visible(first.message) if first is not None else checked.verdict.value
        if row.outcome is Outcome.FAILED:
            ET.SubElement(case, "failure", message=message, type=first.rule if first else "").text = text
        elif row.outcome is Outcome.UNDECIDED:
            ET.SubElement(case, "skipped", message=message).text = text
        elif text:
            ET.SubElement(case, "system-out").text = text
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def as_json(outcomes: Outcomes) -> str:
    """Every row whole, as `lorahub check --json` has it in `result`."""
    return json.dumps(outcomes.as_json(), indent=2) + "\n"


REPORTS: Mapping[str, Callable[[Outcomes], str]] = {
    "json": as_json,
    "github": annotations,
    "summary": step_summary,
    "markdown": markdown,
    "sarif": sarif,
    "junit": junit,
}
