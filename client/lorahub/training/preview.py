"""The first rows as they will be trained on: their tokens as text, and which of it is learnt."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from lorahub.serving.models import load_config
from lorahub.training.base import Base
from lorahub.training.config import TrainConfig
from lorahub.training.dataset import Data, prepare
from lorahub.training.models import load_tokenizer
from lorahub.training.run import within
from lorahub.training.tokens import Samples
from lorahub.training.vocabulary import vocabulary_of


@dataclass(frozen=True, slots=True)
class ShownSample:
    """`parts` are texts, one after the other, and whether each is learnt."""

    line: int | str
    tokens: int
    learnt: int
    parts: list[tuple[str, bool]]


@dataclass(frozen=True, slots=True)
class Preview:
    samples: list[ShownSample]
    of: int
    """How many samples there are to train on."""
    notes: list[str]


def preview(base: Base, data: Data, config: TrainConfig, count: int) -> Preview:
    """The first `count` samples. Reads all rows and no weight; raises what `prepare` raises."""
    settings, tokenizer = load_config(base.folder), load_tokenizer(base.folder)
    config = within(settings, config)
    dataset = prepare(data, tokenizer, config, vocabulary_of(tokenizer, settings, config).size)
    shown = list(_shown(dataset.train, tokenizer, min(count, len(dataset.train))))
    return Preview(shown, len(dataset.train), list(dataset.notes()))


def _shown(samples: Samples, tokenizer: Any, count: int) -> Iterator[ShownSample]:
    for number in range(count):
        start, stop = samples.bounds(number)
        ids, learnt = samples.ids[start:stop].tolist(), samples.supervised[start:stop]
        yield ShownSample(samples.place(number), len(ids), sum(learnt), list(_parts(tokenizer, ids, learnt)))


def _parts(tokenizer: Any, ids: list[int], learnt: bytearray) -> Iterator[tuple[str, bool]]:
    """What the text grows by, so that a space that belongs to a token is shown with it."""
    before, end = "", 0
    for is_learnt, places in groupby(range(len(ids)), key=lambda place: bool(learnt[place])):
        end += len(list(places))
        text = tokenizer.decode(ids[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        yield text[len(before) :], is_learnt
        before = text
