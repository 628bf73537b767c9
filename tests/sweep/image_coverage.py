"""Writes the part of docs/coverage.md about image and video models, as the sweep found it.

make coverage
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import diffusers
from sweep import images

DOCUMENT = Path(__file__).parents[2] / "docs/coverage.md"
BEGIN, END = "<!-- made by tests/sweep/image_coverage.py -->\n", "<!-- end of images -->\n"
_MINUTES = 60

Found = dict[str, Any]
"""An `Outcome`, as the process prints it."""


def measure(names: Iterable[str]) -> list[Found]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [one for found in pool.map(_tried, names) for one in found]


def _tried(name: str) -> list[Found]:
    command = [sys.executable, "-W", "ignore", "-m", "sweep.images", name]
    place, quiet = Path(__file__).parents[1], subprocess.DEVNULL
    done = subprocess.run(command, cwd=place, stdout=subprocess.PIPE, stderr=quiet, timeout=_MINUTES * 60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]


def document(found: list[Found]) -> str:
    return f"{_summary(found)}\n{_table(found)}\n### What wasn't compared, and why\n\n{_reasons(found)}"


def _summary(found: list[Found]) -> str:
    wrong = sum(bool(one["fault"]) for one in found)
    classes = {one["model"] for one in found}
    return (
        f"diffusers {diffusers.__version__}: {len(classes)} of its {len(images.classes())} transformers and UNets that "
        f"load LoRA, {len(found)} files; {wrong} with a fault.\n"
    )


def _table(found: list[Found]) -> str:
    """A column for each spelling of diffusers' names; the authors' and its converters' are many, and one each."""
    columns = ["diffusers' names", "authors' names", "single file as base", "diffusers' converters of adapters"]
    rows = []
    for model in sorted({one["model"] for one in found}):
        own = [one for one in found if one["model"] == model]
        cells = (_cell([one for one in own if _column(one["recipe"]) == column]) for column in columns)
        rows.append(f"| `{model}` | {' | '.join(cells)} |\n")
    return f"| class | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}\n" + "".join(rows)


def _column(spelling: str) -> str:
    if spelling.startswith("diffusers: "):
        return "diffusers' converters of adapters"
    if spelling.endswith("on a single file"):
        return "single file as base"
    return "authors' names" if spelling.startswith(("authors'", "XLabs'")) else "diffusers' names"


def _cell(outcomes: list[Found]) -> str:
    """In how many spellings how many modules were found; what isn't is below the table."""
    if not outcomes:
        return "–"
    if any(one["fault"] for one in outcomes):
        return "**wrong**"
    done = [one for one in outcomes if not one["hole"]]
    return f"{len(done)} of {len(outcomes)}, {max(one['modules'] for one in done)}" if done else "not compared"


def _reasons(found: list[Found]) -> str:
    rows = [
        f"| `{one['model']}` | {one['recipe']} | {_plain(why)} |\n"
        for one in found
        if (why := one["fault"] or one["hole"])
    ]
    return "| class | spelling | why |\n| --- | --- | --- |\n" + "".join(rows)


def _plain(text: str) -> str:
    return text.replace("|", "/").replace("<", "‹").replace(">", "›").replace("*", "")


def main(measured: list[str]) -> None:
    """`measured` are files of outcomes, a line each, where the sweep has run already."""
    lines = [line for path in measured for line in Path(path).read_text().splitlines()]
    found = [json.loads(line) for line in lines] if measured else measure(images.classes())
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(before + BEGIN + document(found) + END + after)
    faults = [one for one in found if one["fault"]]
    for one in faults:
        print(f"{one['model']}, {one['recipe']}: {one['fault']}", file=sys.stderr)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
