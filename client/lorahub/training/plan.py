"""What a run would take, before it runs: parameters, memory by part, tokens, steps. Reads the data and no weight."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from lorahub.hub.hub import Hub
from lorahub.serving.models import load_config
from lorahub.training.activations import kept_bytes
from lorahub.training.base import Base
from lorahub.training.batches import Batches
from lorahub.training.config import TrainConfig
from lorahub.training.dataset import Data, prepare
from lorahub.training.devices import place_of
from lorahub.training.loop import steps_of
from lorahub.training.loss import CHUNK_NUMBERS
from lorahub.training.methods import Method
from lorahub.training.models import attach, dtype_for, load_tokenizer, shape_model
from lorahub.training.run import both_sides, method_of, notes_on, with_tokens, within
from lorahub.training.start import find_start
from lorahub.training.vocabulary import vocabulary_of

_NF4 = 4.127 / 8
"""Bytes of a weight in 4 bits with the scales of double quantisation (arXiv 2305.14314, section 3)."""
_LOGITS = 3 * 4
"""Bytes of a logit, of its softmax and of its gradient, in float32."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, by what they are for. `activations` is None where the model can't be run on shapes alone."""

    base: int
    adapter: int
    gradients: int
    masters: int
    moments: int
    activations: int | None
    logits: int

    @property
    def total(self) -> int:
        return sum(size for size in asdict(self).values() if size is not None)


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """`steps` of `accum` batches, of at most `rows` × `width` tokens each."""

    method: str
    device: str
    dtype: str
    parameters: int
    trainable: int
    checkpoint_bytes: int
    memory: Memory
    data: dict[str, Any]
    batches: int
    rows: int
    width: int
    steps: int
    tokens: int
    fill: float
    """The share of the batches that isn't padding."""
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        facts = asdict(self)
        facts["memory"]["total"] = self.memory.total
        return facts


def plan(base: Base, data: Data, config: TrainConfig, hub: Callable[[], Hub] = Hub) -> TrainingPlan:
    """Packing is taken to work; a run tries it first. Raises what `train` raises before it loads the base."""
    place = place_of(config)
    method, config = method_of(config, None if config.start is None else find_start(config.start, hub))
    settings, tokenizer = load_config(base.folder), load_tokenizer(base.folder)
    config = within(settings, config)
    vocabulary = vocabulary_of(tokenizer, settings, config)
    dataset = prepare(data, tokenizer, config, vocabulary.size)
    dtype = dtype_for(place, settings, config)
    is_packed = config.pack == "best-fit"
    batches, _ = both_sides(dataset, config, is_packed=is_packed)
    steps = steps_of(config, len(batches))
    shapes = [batch.ids.shape for batch in batches]
    rows, width = max(((shape[0], shape[1]) for shape in shapes), key=lambda shape: shape[0] * shape[1])
    frozen = shape_model(base.folder, settings).to(dtype)
    vocabulary.grow(frozen, config)
    memory, trainable, parameters = _memory(with_tokens(method, vocabulary), frozen, config, dtype, rows, width)
    return TrainingPlan(
        method=method.name,
        device=str(place.device),
        dtype=str(dtype).removeprefix("torch."),
        parameters=parameters,
        trainable=trainable,
        checkpoint_bytes=memory.adapter,
        memory=memory,
        data=dataset.facts,
        batches=len(batches),
        rows=rows,
        width=width,
        steps=steps,
        tokens=_tokens(batches, steps, config.accum),
        fill=len(dataset.train.ids) / sum(shape[0] * shape[1] for shape in shapes),
        notes=list(method.notes) + list(notes_on(dataset, config, base, steps, is_packed=is_packed)),
    )


def _memory(
    method: Method, frozen: Any, config: TrainConfig, dtype: torch.dtype, rows: int, width: int
) -> tuple[Memory, int, int]:
    """And how many parameters are trained, of how many."""
    shape = frozen.config.get_text_config()
    layers = shape.num_hidden_layers
    linear = sum(m.weight.numel() for m in _linears(frozen)) if config.load_4bit else 0
    whole = sum(parameter.numel() for parameter in frozen.parameters())
    with torch.device("meta"):
        model = attach(method, frozen, config, dtype)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    count = sum(parameter.numel() for parameter in trained)
    size = sum(parameter.numel() * parameter.element_size() for parameter in trained)
    logits = rows * width * shape.vocab_size
    inside = count if count >= whole else 0  # full fine-tuning trains the base itself
    kept = kept_bytes(model.train(), rows, width)
    if kept is not None and config.grad_ckpt:
        kept = kept // layers + layers * rows * width * shape.hidden_size * dtype.itemsize
    is_16_bit = size < 4 * count
    memory = Memory(
        base=int((whole - linear) * dtype.itemsize + linear * _NF4) - inside * dtype.itemsize,
        adapter=size,
        gradients=size + (4 * count if is_16_bit else 0),
        masters=4 * count if is_16_bit else 0,
        moments=8 * count,
        activations=kept,
        logits=_LOGITS * (logits if inside else min(logits, CHUNK_NUMBERS)),
    )
    return memory, count, whole


def _linears(model: Any) -> list[nn.Linear]:
    """What is kept in 4 bits: the head isn't."""
    head = model.get_output_embeddings()
    return [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]


def _tokens(batches: Batches, steps: int, accum: int) -> int:
    """Padding excluded; whole epochs and the part of one."""
    each = [batch.tokens for batch in batches]
    epochs, rest = divmod(steps * accum, len(each))
    return epochs * sum(each) + sum(each) * rest // len(each)
