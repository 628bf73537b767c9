"""Writes the tables in the documents that are made from the code; a test compares the two. Run: make tables"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from lorahub.adapters.runtimes import RUNTIMES
from lorahub.merging.combinations import COMBINATIONS

FOLDER = Path(__file__).parent
_BLOCK = re.compile(r"(?<=<!-- made by docs/tables\.py: )(\w+)( -->\n)(.*?)(?=<!-- end -->)", re.DOTALL)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n".replace("|  |", "| |") for line in lines)


def _runtimes() -> str:
    return _table(
        ("runtime", "`--for`", "reads", "refuses or gets wrong", "known of", "after"),
        (
            (one.label, f"`{one.name}`", one.reads, one.refuses, one.version or "–", one.source)
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


def documents() -> Mapping[str, str]:
    """Each document with a table, as it should be."""
    made = {"runtimes": _runtimes, "combinations": _combinations}

    def filled(text: str) -> str:
        return _BLOCK.sub(lambda found: f"{found[1]}{found[2]}{made[found[1]]()}", text)

    return {name: filled((FOLDER / name).read_text()) for name in ("runtimes.md", "merging.md")}


if __name__ == "__main__":
    for name, text in documents().items():
        (FOLDER / name).write_text(text)
