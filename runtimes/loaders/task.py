"""What a loader is given and what it answers; it runs with the runtime's own packages and knows nothing of lorahub.

A loader is a program: `python loaders/peft.py TASK ANSWERS`. TASK is JSON: `cases` are dicts with `name`, `base` (a
folder), `adapter` (a folder), `prompt` (token ids) and `tokens` (how many the adapter's vocabulary has). ANSWERS gets a
line of JSON for each case as soon as it is known, so that of a program that dies the rest can be asked anew.
"""

import json
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

Case = dict[str, Any]


class NotRun(Exception):
    """The runtime can't run the base here, whatever the adapter."""


class Task:
    def __init__(self, path: str, answers: str) -> None:
        said = json.loads(Path(path).read_bytes())
        self.cases: list[Case] = said["cases"]
        self.folder = Path(said["folder"])
        self._answers = Path(answers).open("a", encoding="utf-8")  # noqa: SIM115 open as long as the program runs

    def by_base(self) -> Iterator[tuple[str, list[Case]]]:
        for base, cases in groupby(self.cases, key=lambda case: case["base"]):
            yield base, list(cases)

    def begin(self, case: Case) -> None:
        """So that it is known which case a program died at."""
        self._write({"name": case["name"], "begun": True})

    def answer(self, case: Case, values: Iterable[float], *, words: str = "") -> None:
        self._write({"name": case["name"], "values": [float(value) for value in values], "words": words})

    def refuse(self, case: Case, words: str) -> None:
        self._write({"name": case["name"], "refused": words[-2000:]})

    def skip(self, case: Case, words: str) -> None:
        """The runtime can't run the base here, whatever the adapter."""
        self._write({"name": case["name"], "outcome": "not run", "words": words[-600:]})

    def _write(self, line: dict[str, Any]) -> None:
        self._answers.write(json.dumps(line) + "\n")
        self._answers.flush()


def each(answer: Callable[[Case], Iterable[float]]) -> None:
    """The whole program of a runtime that loads one adapter after the other."""
    task = Task(*sys.argv[1:3])
    for case in task.cases:
        task.begin(case)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                values = list(answer(case))
            except NotRun as error:
                task.skip(case, str(error))
                continue
            except Exception as error:  # noqa: BLE001 whatever it says is the measurement
                task.refuse(case, told(error))
                continue
        task.answer(case, values, words="; ".join(sorted(_texts(warned))))


def _texts(warned: "Iterable[warnings.WarningMessage]") -> set[str]:
    """What is said of the adapter, and not of the program that loads it."""
    return {str(one.message).split("\n")[0][:300] for one in warned if one.category in (UserWarning, RuntimeWarning)}


def told(error: BaseException) -> str:
    """The first line of what was said, with its class."""
    text = str(error).strip() or "".join(traceback.format_exception_only(error)).strip()
    return f"{type(error).__name__}: {text}"[:600]
