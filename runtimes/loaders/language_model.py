"""A base by transformers, for the loaders that stand on it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from task import NotRun, told

torch.set_num_threads(1)


def language_config(folder: str) -> dict[str, Any]:
    path = Path(folder) / "config.json"
    if not path.exists():
        raise NotRun(f"{path.parent.name} is no language model")
    return dict(json.loads(path.read_bytes()))


def open_base(folder: str) -> Any:
    """As its config.json names it, in float32."""
    config = language_config(folder)
    try:
        kind = getattr(transformers, config["architectures"][0])
        model = kind.from_pretrained(folder).float().eval()
        log_probabilities(model, [1, 2, 3])
    except Exception as error:
        raise NotRun(told(error)) from error
    return model


def log_probabilities(model: Any, prompt: list[int]) -> Iterable[float]:
    """Of the last position; of a classifier those of its classes."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits
    return torch.log_softmax((logits[0, -1] if logits.dim() == 3 else logits[0]).double(), -1).tolist()
