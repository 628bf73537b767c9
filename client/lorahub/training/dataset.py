"""What is trained on and what is evaluated: the rows' tokens on two sides, and what is said of them in lorahub.json."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorahub.errors import InvalidTrainingData, InvalidUsage
from lorahub.training.config import TrainConfig
from lorahub.training.data import MOST_PROBLEMS, DataRow, Problem, RowFile
from lorahub.training.tokens import MOST_TOKENS, RowReport, Samples, Tokens


@dataclass(frozen=True, slots=True)
class Dataset:
    train: Samples
    evaluation: Samples
    report: RowReport
    facts: dict[str, Any]
    """As lorahub.json has them: digests and counts, no content."""
    ignored: dict[str, int]

    def notes(self) -> Iterator[str]:
        yield from self.report.notes()
        for key, count in sorted(self.ignored.items()):
            yield f"the key {key[:60]!r} of {count} rows is not read"
        if not len(self.evaluation) and self.facts["split"] is not None:
            yield "no row is held out for evaluation: there are too few; --eval-split FILE names some"


def prepare(data: Path, tokenizer: Any, config: TrainConfig, embeddings: int = MOST_TOKENS) -> Dataset:
    """Reads everything once; the base has `embeddings` for tokens from 0 on.

    Raises `InvalidTrainingData` with the line of every problem, `InvalidUsage`.
    """
    sides = _Sides(
        Tokens(tokenizer, config, embeddings),
        has_template=bool(getattr(tokenizer, "chat_template", None)),
    )
    files = [RowFile(data, config.format)]
    share = 0.0
    if isinstance(config.eval_split, str):
        files.append(RowFile(Path(config.eval_split), config.format))
        sides.read(files[1], 1.0)
    else:
        share = config.eval_split
    sides.read(files[0], share)
    if not len(sides.train):
        raise InvalidTrainingData(
            f"no row of {data} is left to train on",
            hint="; ".join(sides.report.notes()) or "all were held out: lower --eval-split",
        )
    facts = {
        "files": [{"name": f.path.name, "sha256": f.sha256, "bytes": f.size, "rows": f.rows} for f in files],
        "format": files[0].format,
        "train_on": "all" if config.train_on == "all" else "completion",
        "split": _split(config),
        "train": _counts(sides.train),
        "evaluation": _counts(sides.evaluation),
        **sides.report.as_json(),
    }
    return Dataset(sides.train, sides.evaluation, sides.report, facts, files[0].ignored)


class _Sides:
    """Samples to train on and samples to evaluate, and which contents were seen on which side."""

    def __init__(self, tokens: Tokens, *, has_template: bool) -> None:
        self.train, self.evaluation, self.report = Samples(), Samples(), RowReport()
        self._tokens = tokens
        self._has_template = has_template
        self._seen: tuple[set[bytes], set[bytes]] = (set(), set())

    def read(self, file: RowFile, share: float) -> None:
        """`share` of the rows goes to the evaluation."""
        problems: list[Problem] = []
        for row in file:
            try:
                self._take(row, is_held_out=row.is_held_out(share))
            except InvalidTrainingData as error:
                problems.append((row.line, error))
            if len(problems) >= MOST_PROBLEMS:
                break
        if problems:
            raise file.refusal(problems)

    def _take(self, row: DataRow, *, is_held_out: bool) -> None:
        if row.format != "text" and not self._has_template and _is_chat(row):
            raise InvalidUsage(
                "the rows are chats, and the base's tokenizer has no chat template",
                hint="take a base that was made for chat, or rows with a prompt and a completion as texts",
            )
        gist = row.gist[:8]
        if gist in self._seen[is_held_out]:
            self.report.duplicates.append(row.line)
        if gist in self._seen[not is_held_out]:
            self.report.leaked.append(row.line)
        self._seen[is_held_out].add(gist)
        self._tokens.add(row, self.evaluation if is_held_out else self.train, self.report)


def _is_chat(row: DataRow) -> bool:
    return row.format == "chat" or isinstance(row.content["prompt"], list)


def _split(config: TrainConfig) -> dict[str, Any] | None:
    if isinstance(config.eval_split, str):
        return {"by": "file"}
    return {"by": "sha256 of the row", "share": config.eval_split} if config.eval_split else None


def _counts(samples: Samples) -> dict[str, int]:
    return {"rows": len(samples), "tokens": len(samples.ids), "supervised": samples.supervised_tokens}
