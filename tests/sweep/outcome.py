"""What a trial of the sweep found, what a test makes of it, and what docs/coverage.md does."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs/coverage.md"
_MINUTES = 60

Found = dict[str, Any]
"""An `Outcome`, as a process prints it."""


@dataclass(frozen=True)
class Outcome:
    model: str
    recipe: str
    fault: str = ""
    """What lorahub says or does otherwise than the library; empty where they agree."""
    hole: str = ""
    """Why the trial couldn't be made."""
    modules: int = 0
    seconds: float = 0.0


def hold(outcomes: Iterable[Outcome], *, may_have_holes: bool) -> None:
    """Fails for a fault, and for a hole unless one may be; then it is skipped with the reasons."""
    found = list(outcomes)
    assert found
    assert not (faults := [f"{one.recipe}: {one.fault}" for one in found if one.fault]), "\n".join(faults)
    reasons = "; ".join(sorted({one.hole for one in found if one.hole}))
    assert may_have_holes or not reasons, reasons
    if reasons:
        pytest.skip(reasons)


def measure(program: str, groups: Iterable[list[str]]) -> list[Found]:
    """What `python -m program CLASS…` prints for each group of classes, a process for each."""

    def tried(names: list[str]) -> list[Found]:
        command = [sys.executable, "-W", "ignore", "-m", program, *names]
        place, quiet = Path(__file__).parents[1], subprocess.DEVNULL
        done = subprocess.run(
            command, cwd=place, stdout=subprocess.PIPE, stderr=quiet, timeout=_MINUTES * 60, check=True
        )
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [one for found in pool.map(tried, groups) for one in found]


def write(maker: str, measured: list[str], anew: Callable[[], list[Found]], make: Callable[[list[Found]], str]) -> None:
    """Puts what `make` makes of the outcomes behind the mark of `maker` in the document; exits with 1 for a fault.

    `measured` are files of outcomes, a line each, where the sweep has run already.
    """
    lines = [line for path in measured for line in Path(path).read_text().splitlines()]
    found = [json.loads(line) for line in lines] if measured else anew()
    begin, end = f"<!-- made by {maker} -->\n", "<!-- end -->\n"
    before, mark, rest = DOCUMENT.read_text().partition(begin)
    assert mark, f"{DOCUMENT} has no place for it: {begin}"
    DOCUMENT.write_text(before + begin + make(found) + end + rest.partition(end)[2])
    faults = [one for one in found if one["fault"]]
    for one in faults:
        print(f"{one['model']}, {one['recipe']}: {one['fault']}", file=sys.stderr)
    sys.exit(1 if faults else 0)


def plain(text: str) -> str:
    """The text as a cell of a table."""
    return text.replace("|", "/").replace("<", "‹").replace(">", "›").replace("*", "")
