"""What is trained on and what is evaluated: the rows' tokens on two sides, and what is said of them in lorahub.json."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from lorahub.errors import InvalidTrainingData, InvalidUsage
from lorahub.training.config import TrainConfig
from lorahub.training.data import MOST_PROBLEMS, DataRow, Problem, RowFile
from lorahub.training.files import files_of
from lorahub.training.templates import ChatTemplate
from lorahub.training.tokens import FILE, MOST_TOKENS, RowReport, Samples, Tokens

Data: TypeAlias = str | Path | Sequence[str | Path] | Mapping[str, float]
"""A file or folder, several, or several with weights: how often each of their rows is seen in an epoch.

A weight may also stand behind a name: `rows.jsonl:2`.
"""
_MOST_FILES = 200  # whose digests lorahub.json keeps
_WEIGHT = re.compile(r"(.+):(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Dataset:
    train: Samples
    evaluation: Samples
    reports: list[RowReport]
    facts: dict[str, Any]
    """As lorahub.json has them: digests and counts, no content."""
    ignored: dict[str, int]

    def notes(self) -> Iterator[str]:
        for report in self.reports:
            yield from report.notes(is_alone=len(self.reports) == 1)
        for key, count in sorted(self.ignored.items()):
            yield f"the key {key[:60]!r} of {count} rows is not read"
        if not len(self.evaluation) and self.facts["split"] is not None:
            yield "no row is held out for evaluation: there are too few; --eval-split FILE names some"


@dataclass(frozen=True, slots=True)
class _Part:
    """A file, how often its rows are seen, and the share of them that is held out."""

    file: RowFile
    weight: float
    share: float


def prepare(data: Data, tokenizer: Any, config: TrainConfig, embeddings: int = MOST_TOKENS) -> Dataset:
    """Reads everything once; the base has `embeddings` for tokens from 0 on.

    Raises `InvalidTrainingData` with the line of every problem, `InvalidUsage`, `InvalidConfiguration`.
    """
    share = _share(config)
    parts = [part for path, weight in weighted(data) for part in _parts(path, config, weight, share)]
    named = len(parts)
    if isinstance(config.eval_split, str):
        parts = [*_parts(Path(config.eval_split), config, 1.0, 1.0), *parts]
    sides = _Sides(tokenizer, config, embeddings)
    for number, part in enumerate(parts, start=named - len(parts)):
        sides.read(part, max(number, 0))
    of_training = parts[len(parts) - named :]
    if not len(sides.train):
        shown = ", ".join(str(part.file.file.path) for part in of_training)
        notes = [note for report in sides.reports for note in report.notes()]
        raise InvalidTrainingData(
            f"no row of {shown} is left to train on",
            hint="; ".join(notes) or "all were held out: lower --eval-split",
        )
    return Dataset(
        sides.train, sides.evaluation, sides.reports, _facts(sides, parts, of_training, config), sides.ignored
    )


def weighted(data: Data) -> list[tuple[Path, float]]:
    """Files and folders with their weights. Raises `InvalidUsage`."""
    if isinstance(data, Mapping):
        pairs = [(Path(name), float(weight)) for name, weight in data.items()]
    else:
        pairs = [_weight(Path(name)) for name in ([data] if isinstance(data, str | Path) else data)]
    for path, weight in pairs:
        if not 0 < weight <= 1000:
            raise InvalidUsage(f"the weight of {path} is {weight:g}", hint="more than 0, and at most 1000")
    return pairs


def _weight(path: Path) -> tuple[Path, float]:
    found = None if path.exists() else _WEIGHT.fullmatch(str(path))
    return (path, 1.0) if found is None else (Path(found[1]), float(found[2]))


def _parts(path: Path, config: TrainConfig, weight: float, share: float) -> list[_Part]:
    return [_Part(RowFile(file, config.format, config.columns), weight, share) for file in files_of(path)]


class _Sides:
    """Samples to train on and samples to evaluate, and which contents were seen on which side."""

    def __init__(self, tokenizer: Any, config: TrainConfig, embeddings: int) -> None:
        self.train, self.evaluation = Samples(), Samples()
        self.reports: list[RowReport] = []
        self.ignored: dict[str, int] = {}
        self._template = ChatTemplate.of(tokenizer, config)
        self._tokens = Tokens(tokenizer, self._template, config, embeddings)
        self._seen: tuple[set[bytes], set[bytes]] = (set(), set())

    def read(self, part: _Part, number: int) -> None:
        """`number` counts the files of one side."""
        problems: list[Problem] = []
        report = RowReport(part.file.name, part.file.file.unit, first=number * FILE)
        self.reports.append(report)
        for row in part.file:
            try:
                self._take(row, part, report)
            except InvalidTrainingData as error:
                problems.append((row.line, error))
            if len(problems) >= MOST_PROBLEMS:
                break
        if problems:
            raise part.file.refusal(problems)
        for key, count in part.file.ignored.items():
            self.ignored[key] = self.ignored.get(key, 0) + count

    def _take(self, row: DataRow, part: _Part, report: RowReport) -> None:
        if self._template is None and row.plain is None and _is_chat(row):
            raise InvalidUsage(
                "the rows are chats, and the base's tokenizer has no chat template",
                hint="take a base that was made for chat, name a --chat-template, or rows with a prompt and a "
                "completion as texts",
            )
        is_held_out = row.is_held_out(part.share)
        gist = row.gist[:8]
        if gist in self._seen[is_held_out]:
            report.duplicates.append(row.line)
        if gist in self._seen[not is_held_out]:
            report.leaked.append(row.line)
        self._seen[is_held_out].add(gist)
        times = 1 if is_held_out else row.times(part.weight)
        self._tokens.add(row, self.evaluation if is_held_out else self.train, report, times)


def _is_chat(row: DataRow) -> bool:
    return row.format == "chat" or isinstance(row.content.get("prompt"), list)


def _share(config: TrainConfig) -> float:
    return 0.0 if isinstance(config.eval_split, str) else config.eval_split


def _facts(sides: _Sides, parts: Sequence[_Part], named: Sequence[_Part], config: TrainConfig) -> dict[str, Any]:
    formats = sorted({str(part.file.format) for part in named})
    counts: dict[str, int] = {}
    for report in sides.reports:
        for name, count in report.as_json().items():
            counts[name] = counts.get(name, 0) + count
    return {
        "files": [_file(part) for part in [*named, *parts[: len(parts) - len(named)]][:_MOST_FILES]],
        "format": formats[0] if len(formats) == 1 else ", ".join(formats),
        "train_on": "completion" if config.train_on in ("auto", "assistant", "completion") else config.train_on,
        "split": _split(config),
        "train": _counts(sides.train),
        "evaluation": _counts(sides.evaluation),
        **counts,
    }


def _file(part: _Part) -> dict[str, Any]:
    file = part.file
    told: dict[str, Any] = {"name": file.name, "sha256": file.sha256, "bytes": file.size, "rows": file.rows}
    return told if part.weight == 1 else {**told, "weight": part.weight}


def _split(config: TrainConfig) -> dict[str, Any] | None:
    if isinstance(config.eval_split, str):
        return {"by": "file"}
    return {"by": "sha256 of the row", "share": config.eval_split} if config.eval_split else None


def _counts(samples: Samples) -> dict[str, int]:
    return {"rows": len(samples), "tokens": len(samples.ids), "supervised": samples.supervised_tokens}
