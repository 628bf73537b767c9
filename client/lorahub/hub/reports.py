"""One result of a check, in the forms that CI systems read: annotations, step summary, SARIF, JUnit, Markdown."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from lorahub.adapters.findings import Finding, Verdict
from lorahub.adapters.rules import RULES, Severity
from lorahub.adapters.runtimes import Loads
from lorahub.hub.checking import Checked, summary

MARKER = "<!-- lorahub check -->"
"""First line of the Markdown report: whoever posts it finds its own comment again, and edits it."""

_SIGNS = {
    Verdict.COMPATIBLE: "✓ same",
    Verdict.FITS: "≈ fits",
    Verdict.INCOMPATIBLE: "✗",
    Verdict.UNDECIDED: "?",
}
_LOADS = {Loads.YES: "✓", Loads.WITH: "!", Loads.WRONG: "✗ wrong", Loads.NO: "✗", Loads.UNKNOWN: "?"}
_SEVERITIES = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "note"}
_SUMMARY_BYTES = 900_000  # GitHub drops a step's summary whole above 1 MiB
_ANNOTATIONS = 10  # GitHub shows ten of each kind a step


def cell(checked: Checked) -> str:
    """The verdict in a table: `✓ same`, `≈ fits`, `✗ LH202`, `? LH105`."""
    sign = _SIGNS[checked.verdict]
    if checked.verdict in (Verdict.COMPATIBLE, Verdict.FITS) or not checked.report.findings:
        return sign
    return f"{sign} {checked.report.findings[0].rule}"


def runtime_cell(checked: Checked, runtime: str) -> str:
    judged = checked.wanted.get(runtime)
    if judged is None:
        return "?"
    return " ".join(
        filter(None, [_LOADS[judged.loads], judged.needs or (judged.reasons[0][0] if judged.reasons else "")])
    )


def worst_first(results: Iterable[Checked]) -> list[Checked]:
    order = [Verdict.INCOMPATIBLE, Verdict.UNDECIDED, Verdict.FITS, Verdict.COMPATIBLE]
    return sorted(results, key=lambda checked: (order.index(checked.verdict), checked.adapter))


def counts(results: Sequence[Checked]) -> str:
    """`3 checks: 1 same, 1 fits, 1 does not fit, 0 undecided`."""
    found = summary(results)
    plural = "" if len(results) == 1 else "s"
    return (
        f"{len(results)} check{plural}: {found['compatible']} same, {found['fits']} fit, "
        f"{found['incompatible']} not, {found['undecided']} undecided"
    )


# --- GitHub -----------------------------------------------------------------------------------------------------------


def annotations(results: Sequence[Checked]) -> str:
    """Workflow commands, one for each adapter and severity; what is cut is counted in the last line."""
    lines: list[str] = []
    for severity in (Severity.ERROR, Severity.WARNING):
        worth = [checked for checked in worst_first(results) if _of(checked, severity)]
        lines += [_annotation(checked, severity) for checked in worth[:_ANNOTATIONS]]
        if len(worth) > _ANNOTATIONS:
            lines.append(f"::{severity.value}::{_data(f'…and {len(worth) - _ANNOTATIONS} more in the summary')}")
    return "\n".join(lines)


def _of(checked: Checked, severity: Severity) -> list[Finding]:
    return [found for found in checked.report.findings if found.severity is severity]


def _annotation(checked: Checked, severity: Severity) -> str:
    found = _of(checked, severity)
    place = f"file={_property(checked.place)}," if checked.place else ""
    title = _property(f"{checked.adapter} × {checked.base or 'no base'}")
    text = "\n".join(f"{one.rule} {one.message}. {one.hint}" for one in found[:5])
    return f"::{severity.value} {place}title={title}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def step_summary(results: Sequence[Checked]) -> str:
    """Markdown for $GITHUB_STEP_SUMMARY, worst first, cut below GitHub's limit."""
    return _cut(markdown(results), _SUMMARY_BYTES)


def _cut(text: str, limit: int) -> str:
    raw = text.encode()
    if len(raw) <= limit:
        return text
    return (
        raw[:limit].decode("utf-8", "ignore").rpartition("\n")[0] + "\n\n…cut: the whole report is in the JSON file.\n"
    )


# --- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(results: Sequence[Checked]) -> str:
    """A table, and the findings behind every verdict that isn't plain."""
    lines = [
        MARKER,
        f"### lorahub check: {counts(results)}",
        "",
        "| adapter | base | verdict | modules |",
        "| --- | --- | --- | --- |",
    ]
    ordered = worst_first(results)
    for checked in ordered:
        matched = f"{checked.report.matched} of {checked.report.of}"
        lines.append(f"| {_md(checked.adapter)} | {_md(checked.base or '')} | {cell(checked)} | {matched} |")
    for checked in ordered:
        if checked.report.findings or checked.ignored:
            lines += ["", f"<details><summary>{_md(checked.adapter)} × {_md(checked.base or 'no base')}</summary>", ""]
            lines += [_md_finding(found) for found in checked.report.findings]
            lines += [f"- ~~{found.rule}~~ ignored: {_md(reason)}" for found, reason in checked.ignored]
            lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def _md_finding(found: Finding) -> str:
    return f"- **{found.rule}** {found.severity.value}: {_md(found.message)}  \n  {_md(found.hint or '')}"


def _md(text: str) -> str:
    """Nothing of an adapter's own words may become markup."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return "".join(f"\\{character}" if character in "`*_[]" else character for character in escaped.replace("\n", " "))


# --- SARIF ------------------------------------------------------------------------------------------------------------


def sarif(results: Sequence[Checked]) -> str:
    """SARIF 2.1.0 with a fingerprint of rule, adapter and base, so that a finding keeps its history."""
    used = sorted({found.rule for checked in results for found in checked.report.findings})
    run = {
        "tool": {
            "driver": {
                "name": "lorahub",
                "rules": [_sarif_rule(rule) for rule in used],
            }
        },
        "results": [_sarif_result(checked, found) for checked in results for found in checked.report.findings],
    }
    document = {
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [run],
    }
    return json.dumps(document, indent=2) + "\n"


def _sarif_rule(rule: str) -> dict[str, Any]:
    known = RULES[rule]
    return {
        "id": rule,
        "name": rule,
        "shortDescription": {"text": known.title},
        "fullDescription": {"text": known.cause},
        "help": {"text": f"{known.cause} {known.cure}. Example: {known.example}"},
        "defaultConfiguration": {"level": _SEVERITIES[known.severity]},
    }


def _sarif_result(checked: Checked, found: Finding) -> dict[str, Any]:
    fingerprint = hashlib.sha256(f"{found.rule}\n{checked.adapter}\n{checked.base}".encode()).hexdigest()
    place = (checked.place or "lorahub.lock").removeprefix("./")
    return {
        "ruleId": found.rule,
        "level": _SEVERITIES[found.severity],
        "message": {"text": f"{checked.adapter} × {checked.base or 'no base'}: {found.message}. {found.hint}"},
        "locations": [
            {"physicalLocation": {"artifactLocation": {"uri": _uri(place)}, "region": {"startLine": 1}}},
        ],
        "partialFingerprints": {"lorahub/v1": fingerprint},
    }


def _uri(path: str) -> str:
    from urllib.parse import quote

    return quote(path)


# --- JUnit ------------------------------------------------------------------------------------------------------------


def junit(results: Sequence[Checked]) -> str:
    """One case for each adapter and base; undecided is skipped, as a test that couldn't run."""
    found = summary(results)
    suite = ET.Element(
        "testsuite",
        name="lorahub check",
        tests=str(len(results)),
        failures=str(found["incompatible"]),
        skipped=str(found["undecided"]),
        errors="0",
    )
    for checked in results:
        case = ET.SubElement(suite, "testcase", classname=checked.adapter, name=checked.base or "no base")
        text = "\n".join(
            f"{one.rule} {one.severity.value}: {one.message}. {one.hint}" for one in checked.report.findings
        )
        if checked.verdict is Verdict.INCOMPATIBLE:
            ET.SubElement(case, "failure", message=_plain(_first(checked)), type="incompatible").text = _plain(text)
        elif checked.verdict is Verdict.UNDECIDED:
            ET.SubElement(case, "skipped", message=_plain(_first(checked)))
        elif text:
            ET.SubElement(case, "system-out").text = _plain(text)
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _first(checked: Checked) -> str:
    return checked.report.findings[0].message if checked.report.findings else checked.verdict.value


def _plain(text: str) -> str:
    """XML has no control characters."""
    return "".join(character for character in text if character in "\n\t" or character.isprintable())


def as_json(results: Sequence[Checked]) -> str:
    """Every result whole, as `lorahub check --json` has it in `result`."""
    document = {"checks": [checked.as_json() for checked in results], "summary": summary(results)}
    return json.dumps(document, indent=2) + "\n"


REPORTS: Mapping[str, Callable[[Sequence[Checked]], str]] = {
    "json": as_json,
    "github": annotations,
    "summary": step_summary,
    "markdown": markdown,
    "sarif": sarif,
    "junit": junit,
}
