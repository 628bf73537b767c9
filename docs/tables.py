"""Writes the tables in the documents that are made from the code; a test compares the two. Run: make tables"""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from lorahub.adapters.runtimes import RUNTIMES
from lorahub.errors import Fault, LorahubError, Refusal, all_errors
from lorahub.merging.combinations import COMBINATIONS
from lorahub.protocol.messages.events import KINDS
from lorahub_registry.settings import Settings

from runtimes.verdicts import table

FOLDER = Path(__file__).parent
FILLED = ("runtimes.md", "merging.md", "settings.md", "errors.md", "events.md")
_TIMES = {"d": timedelta(days=1), "h": timedelta(hours=1), "min": timedelta(minutes=1), "s": timedelta(seconds=1)}
_SIZES = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20}
_BLOCK = re.compile(r"(?<=<!-- made by docs/tables\.py: )(\w+)( -->\n)(.*?)(?=<!-- end -->)", re.DOTALL)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n".replace("|  |", "| |") for line in lines)


def _runtimes() -> str:
    return _table(
        ("runtime", "`--for`", "reads", "refuses or gets wrong", "measured", "after"),
        (
            (one.label, f"`{one.name}`", one.reads, one.refuses, ", ".join(one.versions) or "–", one.source)
            for one in RUNTIMES.values()
        ),
    )


def _combinations() -> str:
    return _table(
        ("`method`", "options", "preserves", "described in"),
        (
            (f"`{name}`", ", ".join(f"`{one.name}`" for one in made.parameters), made.preserves, made.reference)
            for name, made in COMBINATIONS.items()
        ),
    )


def _settings() -> str:
    return _table(
        ("variable", "default", "meaning"),
        (
            (f"`LORAHUB_{name.upper()}`", _default(name, field.default), _linked(field.description or ""))
            for name, field in Settings.model_fields.items()
        ),
    )


def _default(name: str, value: object) -> str:
    if isinstance(value, timedelta):
        shown = _in_units(value, _TIMES) if value else "`PT0S`"
    elif isinstance(value, int) and name.endswith("bytes"):
        shown = _in_units(value, _SIZES)
    elif isinstance(value, bool | list):
        shown = f"`{json.dumps(value)}`"
    elif isinstance(value, int | float):
        shown = f"{value:,}"
    else:
        shown = f"`{value}`" if isinstance(value, str) else "–"
    return shown


def _in_units(value: Any, units: Mapping[str, Any]) -> str:
    """In the largest unit of which it is a whole number."""
    found = (f"{value // unit:,} {sign}" for sign, unit in units.items() if value and not value % unit)
    return next(found, None) or f"{value:,}"


def _refusals() -> str:
    return _errors(Refusal)


def _faults() -> str:
    return _errors(Fault)


def _errors(family: type[LorahubError]) -> str:
    return _table(
        ("code", "HTTP", "exit", "means"),
        (
            (f"`{error.code}`", str(error.status), str(error.exit_code), " ".join((error.__doc__ or "").split()))
            for error in all_errors()
            if issubclass(error, family)
        ),
    )


def _events() -> str:
    return _table(("kind", "`data`"), ((f"`{kind}`", data or "–") for kind, data in KINDS.items()))


def _linked(text: str) -> str:
    """Names of documents as links, for a page beside them."""
    return re.sub(r"docs/([a-z-]+\.md)(#[a-z-]+)?", r"[\1](\1\2)", text)


def documents() -> Mapping[str, str]:
    """Each document with a table, as it should be."""
    made = {
        "runtimes": _runtimes,
        "measured": table,
        "combinations": _combinations,
        "settings": _settings,
        "events": _events,
        "refusals": _refusals,
        "faults": _faults,
    }

    def filled(text: str) -> str:
        return _BLOCK.sub(lambda found: f"{found[1]}{found[2]}{made[found[1]]()}", text)

    return {name: filled((FOLDER / name).read_text()) for name in FILLED}


if __name__ == "__main__":
    for name, text in documents().items():
        (FOLDER / name).write_text(text)
