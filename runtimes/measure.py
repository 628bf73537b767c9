"""One row's measurement: the corpus as it is and as lorahub converts it, through the runtime's own loader."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from lorahub.adapters.adapter import PartKind
from lorahub.adapters.base_model import BaseLayout, read_base
from lorahub.adapters.files import FolderFiles
from lorahub.adapters.reader import read_adapter
from lorahub.adapters.runtimes import RUNTIMES
from lorahub.conversion import NotConvertible, convert

from runtimes.engines import LOADERS, Row
from runtimes.environments import KEPT, packages_of, python_of

RESULTS = Path(__file__).parent / "results"
CORPUS = KEPT / "corpus"
RIGHT = 5e-3
"""The largest share of an adapter's effect that is rounding: factors in bfloat16 are 0.2 % off in llama.cpp, which
rounds what they are multiplied by.
"""
_MOST_SECONDS = 1200


@dataclass(frozen=True)
class Try:
    """An adapter in a form, `as is` or `converted`, with or without the option that the runtime is given for it."""

    adapter: str
    form: str
    base: Path
    folder: Path
    told: dict[str, Any]
    option: str | None = None

    @property
    def name(self) -> str:
        return f"{self.adapter} {self.form}"

    def as_task(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "base": str(self.base),
            "adapter": str(self.folder),
            "prompt": self.told["prompt"],
            "tokens": self.told["tokens"],
            "option": self.option,
        }


def tries(row: Row, only: Sequence[str] = ()) -> Iterator[Try]:
    """Adapters of one base stand together."""
    runtime = RUNTIMES[row.runtime]
    told = json.loads((Path(__file__).parent / "corpus.json").read_bytes())
    layouts: dict[str, BaseLayout] = {}
    for name, one in sorted(told["adapters"].items(), key=lambda item: (item[1]["base"], item[0])):
        if only and name not in only:
            continue
        base, folder = CORPUS / "bases" / one["base"], CORPUS / "adapters" / name
        if one["format"] in runtime.formats:
            yield Try(name, "as is", base, folder, one)
            if row.engine.option == "resized" and one["tokens"] != 256:
                yield Try(name, "with", base, folder, one, "resized")
        layout = layouts.setdefault(one["base"], read_base(FolderFiles(base)))
        converted = KEPT / "converted" / runtime.form / name
        if _is_worth(runtime.form, one["format"], folder) and _converted(folder, converted, runtime.form, layout):
            yield Try(name, "converted", base, converted, one)


def _is_worth(form: str, own: str, folder: Path) -> bool:
    """Whether converting makes more of it than it is; diffusers' files have several spellings."""
    if form == "peft-normalized":
        return _is_uneven(folder)
    return form == "diffusers" or form != own


def _is_uneven(folder: Path) -> bool:
    """Whether its normal form is more than the same numbers, scaled beforehand."""
    adapter = read_adapter(FolderFiles(folder))
    scaling = adapter.scaling
    has_more = adapter.asks_for_biases or any(part.kind is PartKind.BASE_COPY for part in adapter.parts)
    return has_more or adapter.format != "peft" or (scaling is not None and (scaling.is_root or scaling.has_patterns))


def _converted(folder: Path, target: Path, form: str, base: BaseLayout) -> bool:
    try:
        made = convert(FolderFiles(folder), form, base)  # type: ignore[arg-type]
    except NotConvertible:
        return False
    target.mkdir(parents=True, exist_ok=True)
    for name, content in made.items():
        (target / name).write_bytes(content)
    return True


def measure(row: Row, only: Sequence[str] = ()) -> dict[str, Any]:
    """What is written into results/."""
    wanted = list(tries(row, only))
    answers = _asked(row, wanted)
    before = json.loads(_path(row).read_bytes())["cases"] if only else {}
    cases: dict[str, dict[str, Any]] = {name: one for name, one in before.items() if name not in only}
    for one in wanted:
        cases.setdefault(one.adapter, {})[one.form] = outcome(one, answers[one.name])
    return {
        "runtime": row.runtime,
        "version": row.version,
        "how": row.how,
        "date": datetime.now(UTC).date().isoformat(),
        "packages": packages_of(row),
        "cases": dict(sorted(cases.items())),
    }


def outcome(one: Try, answer: dict[str, Any]) -> dict[str, Any]:
    """`error` is a share of the adapter's effect, both in log-probabilities of the last position."""
    if "refused" in answer:
        return {"outcome": "refused", "words": answer["refused"]}
    if "outcome" in answer:
        return {key: answer[key] for key in ("outcome", "words") if answer.get(key)}
    with np.load(CORPUS / "adapters" / one.adapter / "expected.npz") as expected:
        adapted, base = expected["adapted"], expected["base"]
    values = np.array(answer["values"])[: adapted.size]
    if values.size != adapted.size:
        return {"outcome": "wrong", "error": 1.0, "words": f"{values.size} values, not {adapted.size}"}
    effect = float(np.linalg.norm(adapted - base))
    error, moved = (float(np.linalg.norm(values - other)) / effect for other in (adapted, base))
    found = "right" if error < RIGHT else "nothing" if moved < RIGHT else "wrong"
    return {"outcome": found, "error": float(f"{error:.2g}"), **({"words": answer["words"]} if answer["words"] else {})}


def _asked(row: Row, wanted: Sequence[Try]) -> dict[str, dict[str, Any]]:
    """By name. A program that dies is asked for the rest anew."""
    python, folder = python_of(row), KEPT / "tasks" / row.name
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "kept.jsonl"  # of a measurement that was broken off
    answers = {line["name"]: line for line in map(json.loads, kept.read_text().splitlines())} if kept.exists() else {}
    left = [one for one in wanted if one.name not in answers]
    while left:
        task, written = folder / "task.json", folder / "answers.jsonl"
        task.write_text(json.dumps({"folder": str(folder), "cases": [one.as_task() for one in left]}))
        written.unlink(missing_ok=True)
        with (folder / "log.txt").open("a") as log:
            ran = subprocess.run(
                [python, LOADERS / row.engine.loader, task, written],
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=_MOST_SECONDS,
                check=False,
            )
        lines = [json.loads(line) for line in written.read_text().splitlines()] if written.exists() else []
        begun = [line["name"] for line in lines if line.get("begun")]
        answers |= {line["name"]: line for line in lines if "begun" not in line}
        died = [name for name in begun if name not in answers]
        answers |= {name: {"refused": f"the process died: {ran.returncode}"} for name in died}
        kept.write_text("".join(json.dumps(line) + "\n" for line in answers.values()))
        before, left = len(left), [one for one in left if one.name not in answers]
        if left and len(left) == before:
            raise RuntimeError(f"{row.name} answered nothing; see {folder / 'log.txt'}")
    kept.unlink(missing_ok=True)
    return answers


def _path(row: Row) -> Path:
    return RESULTS / f"{row.name}.json"


def write(row: Row, result: dict[str, Any]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = _path(row)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return path
