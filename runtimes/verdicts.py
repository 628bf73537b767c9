"""The verdicts on the corpus held against what was measured, for the table and for the tests. No adapter is needed for
it but its headers, which are in corpus.json.
"""

import json
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from lorahub.adapters.base_model import read_base
from lorahub.adapters.check import check
from lorahub.adapters.files import BytesFiles
from lorahub.adapters.reader import read_adapter
from lorahub.adapters.rules import RULES, Severity
from lorahub.adapters.runtimes import RuntimeVerdict, judge_runtimes, newest, older
from lorahub.conversion import refusal

HERE = Path(__file__).parent


class Held(StrEnum):
    """What a verdict turned out to be."""

    RIGHT_YES = "right yes"
    FALSE_YES = "false yes"
    RIGHT_NO = "right no"
    FALSE_NO = "false no"
    OTHERWISE = "no, otherwise"
    """It can't be used, but is refused where it was said to be loaded wrong, or the other way round."""
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Comparison:
    """One adapter in one runtime at one version."""

    row: str
    how: str
    adapter: str
    verdict: RuntimeVerdict
    measured: Mapping[str, Any]
    held: Held


def compared() -> Iterator[Comparison]:
    """All that was measured."""
    verdicts = judged()
    for path in sorted((HERE / "results").glob("*.json")):
        result = json.loads(path.read_bytes())
        row = f"{result['runtime']}@{result['version']}"
        for adapter, measured in result["cases"].items():
            ran = {form: one for form, one in measured.items() if one["outcome"] != "not run"}
            if ran and (adapter, row) in verdicts:
                verdict = verdicts[adapter, row]
                yield Comparison(row, result["how"], adapter, verdict, ran, held(verdict, ran))


def corpus() -> dict[str, Any]:
    """Bases and adapters by name, each with its files' headers."""
    return dict(json.loads((HERE / "corpus.json").read_bytes()))


@cache
def judged() -> Mapping[tuple[str, str], RuntimeVerdict]:
    """By adapter and row."""
    known = corpus()
    bases = {name: read_base(files_of(one)) for name, one in known["bases"].items()}
    found = {}
    for name, told in known["adapters"].items():
        adapter, base = read_adapter(files_of(told["files"])), bases[told["base"]]
        report = check(adapter, base)
        for one in judge_runtimes(adapter, base, report.findings, (*newest(), *older()), refusal):
            found[name, f"{one.runtime}@{one.version}"] = one
    return found


def held(verdict: RuntimeVerdict, measured: Mapping[str, Any]) -> Held:
    outcomes = {form: one["outcome"] for form, one in measured.items()}
    is_used = [form for form, found in outcomes.items() if found == "right"]
    if verdict.loads == "unknown":
        return Held.UNDECIDED
    if verdict.is_usable:
        return Held.RIGHT_YES if _form(verdict) in is_used else Held.FALSE_YES
    cured = _form(verdict) if verdict.needs else None
    if cured is not None and cured not in is_used:
        return Held.FALSE_YES
    if set(is_used) - {cured}:
        return Held.FALSE_NO
    if is_misfit(verdict):
        return Held.RIGHT_NO
    loads = outcomes.get("as is", "refused") in ("wrong", "nothing")
    return Held.RIGHT_NO if loads == (verdict.loads == "wrong") else Held.OTHERWISE


def is_misfit(verdict: RuntimeVerdict) -> bool:
    """Whether the check found that the adapter doesn't fit the base, whatever a runtime does with it then."""
    return verdict.loads == "no" and any(RULES[rule].severity is Severity.ERROR for rule, _ in verdict.reasons)


def _form(verdict: RuntimeVerdict) -> str:
    """In which form it was measured what the verdict promises. A rank was reserved for all."""
    if verdict.needs is not None and verdict.needs.startswith("lorahub"):
        return "converted"
    return "with" if any(rule == "LH224" for rule, _ in verdict.reasons) else "as is"


def files_of(told: Mapping[str, Any]) -> BytesFiles:
    """Configurations as they were, weights of zeros, but for what is a single number."""
    return BytesFiles({path: _content(one) for path, one in told.items()})


def _content(told: Mapping[str, Any]) -> bytes:
    return _weights(told) if "header" in told else json.dumps(told).encode()


def _weights(told: Mapping[str, Any]) -> bytes:
    header = json.dumps(told["header"], separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    entries = [one for name, one in told["header"].items() if name != "__metadata__"]
    content = bytearray(max((one["data_offsets"][1] for one in entries), default=0))
    for name, value in told.get("numbers", {}).items():
        start = told["header"][name]["data_offsets"][0]
        content[start : start + 4] = struct.pack("<f", value)
    return struct.pack("<Q", len(header)) + header + bytes(content)


def table() -> str:
    """Markdown: a line for each runtime at each version, how many verdicts of each kind turned out to be what."""
    rows: dict[tuple[str, str], Counter[Held]] = {}
    for one in compared():
        rows.setdefault((one.row, one.how), Counter())[one.held] += 1
    lines = [["runtime", "how", *(kind.value for kind in Held)], ["---"] * (2 + len(Held))]
    lines += [[row, how, *(str(found[kind]) for kind in Held)] for (row, how), found in sorted(rows.items())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
