"""The tokens of a base, and those that a run adds: rows of the embedding and of the head that are trained with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorahub.training.config import TrainConfig
from lorahub.training.models import load_tokenizer


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`size` is how many embeddings there are, `new` the ids of what is added."""

    tokenizer: Any
    size: int
    new: tuple[int, ...]

    def grow(self, model: Any, config: TrainConfig) -> None:
        """Gives the model the rows that it lacks, about the mean of those that it has; the same ones for a seed."""
        if self.size > model.get_input_embeddings().weight.shape[0]:
            torch.manual_seed(config.seed)
            model.resize_token_embeddings(self.size, mean_resizing=model.device.type != "meta")
            model.requires_grad_(requires_grad=False)

    def save(self, folder: Path) -> None:
        """The tokenizer goes with the adapter where it isn't the base's own any more."""
        if self.new:
            self.tokenizer.save_pretrained(folder)


def vocabulary_of(tokenizer: Any, settings: Any, config: TrainConfig) -> Vocabulary:
    """Adds what the settings name to the tokenizer; what it has already keeps its id, and is trained too."""
    size: int = settings.get_text_config().vocab_size
    if not config.add_tokens:
        return Vocabulary(tokenizer, size, ())
    tokenizer.add_tokens(list(config.add_tokens), special_tokens=True)
    ids = tuple(tokenizer.convert_tokens_to_ids(list(config.add_tokens)))
    return Vocabulary(tokenizer, max(size, max(ids) + 1), ids)


def vocabulary_with(adapter: Path, base: Path, settings: Any) -> Vocabulary:
    """The tokens of a base and an adapter, which may have brought a tokenizer that knows more."""
    size: int = settings.get_text_config().vocab_size
    if not (adapter / "tokenizer.json").is_file():
        return Vocabulary(load_tokenizer(base), size, ())
    tokenizer = load_tokenizer(adapter)
    return Vocabulary(tokenizer, max(size, len(tokenizer)), ())
