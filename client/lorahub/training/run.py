"""`lorahub.train`: from a base and a file of rows to a folder that can be pushed. Its steps are those of `train`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from lorahub.errors import DiskFull, InvalidUsage
from lorahub.hub.hub import Hub
from lorahub.hub.progress import Progress, Silence
from lorahub.serving.failures import within_memory
from lorahub.serving.models import load_config, positions_of
from lorahub.training.base import Base, find_base, sha256_of
from lorahub.training.batches import Batches
from lorahub.training.checkpoint import FOLDER, Checkpoint, Checkpoints, Progressed
from lorahub.training.config import TrainConfig
from lorahub.training.dataset import Data, Dataset, prepare
from lorahub.training.devices import place_of
from lorahub.training.disk import is_full, refusal_of
from lorahub.training.history import History, TrainingStep
from lorahub.training.kept import KeptAdapters
from lorahub.training.loop import Loop, OnStep, steps_of
from lorahub.training.loss import keeps_samples_apart, loss_of, require_learning
from lorahub.training.methods import METHODS, Method
from lorahub.training.models import attach, dtype_for, load_model, load_tokenizer
from lorahub.training.optimizer import FlatAdamW
from lorahub.training.provenance import code_facts, now
from lorahub.training.saving import RunRecord, require_room, save_adapter
from lorahub.training.tokens import Samples

_MAY_CHANGE = frozenset({"threads", "save_every", "device"})
"""Settings that a run may go on with other values of."""
_FEW_STEPS = 20


@dataclass(frozen=True, slots=True)
class Run:
    """What a run left behind. `manifest` is lorahub.json, `notes` what should be looked at.

    >>> from lorahub import TrainConfig, train
    >>> run = train("./llama", "rows.jsonl", TrainConfig(rank=2, steps=1), output="./small")
    >>> run.manifest["adapter"]["rank"], [step.step for step in run.history]
    (2, [0, 1])
    """

    adapter_dir: Path
    manifest: dict[str, object]
    history: list[TrainingStep]
    notes: list[str]


def train(
    base: str | Path,
    data: Data,
    config: TrainConfig | None = None,
    *,
    output: str | Path = "adapter",
    resume: str | None = None,
    on_step: OnStep | None = None,
    on_note: Callable[[str], object] | None = None,
    hub: Callable[[], Hub] = Hub,
    progress: Progress | None = None,
) -> Run:
    """Trains an adapter of `base` on `data` into the folder `output`.

    `base` is a folder, `hf:org/name`, or a repository of the registry; `data` a file or folder of rows, several, or
    several with how often each is seen: {"a.jsonl": 1, "b.parquet": 0.5}. `on_step` is called after every step,
    `on_note` with what should be looked at, before the first. `resume` goes on with a checkpoint: `auto`, a file or a
    folder. SIGINT and SIGTERM are taken while it runs. Raises `InvalidTrainingData`, `BaseNotFound`,
    `InvalidBaseModel`, `InvalidUsage`, `AlreadyExists`; once it has begun, `TrainingDiverged`, `TrainingInterrupted`,
    `DiskFull` and `LimitExceeded`, whose hints name the adapters that it leaves.

    >>> import lorahub
    >>> run = lorahub.train("./llama", "rows.jsonl", lorahub.TrainConfig(rank=4, steps=2), output="./out")
    >>> sorted(path.name for path in run.adapter_dir.glob("adapter*"))
    ['adapter_config.json', 'adapter_model.safetensors']
    """
    begun, config, folder = now(), config or TrainConfig(), Path(output)
    require_room(folder, is_resumed=resume is not None)
    method, place = method_of(config), place_of(config)
    found = find_base(str(base), config.base_name, hub)
    settings, tokenizer = load_config(found.folder), load_tokenizer(found.folder)
    config = within(settings, config)
    vocabulary = settings.get_text_config().vocab_size
    dataset = prepare(data, tokenizer, config, vocabulary)
    described = found.hashed(progress or Silence())
    checkpoints, kept = (
        Checkpoints(folder, _fingerprint(config, dataset, described.weights_digest)),
        KeptAdapters(folder),
    )
    resumed = None if resume is None else checkpoints.open(resume)

    with _limits(folder, kept):
        loaded, dtype = load_model(found.folder, settings, place, config), dtype_for(place, settings, config)
        model = attach(method, loaded.model, config, dtype)
        loss = loss_of(model, vocabulary, config.max_len)
        require_learning(loss, model, vocabulary, config.max_len)
        is_packed = config.pack == "best-fit" and keeps_samples_apart(model, vocabulary, config.max_len)
        batches, evaluation = both_sides(dataset, config, is_packed=is_packed)
        steps = steps_of(config, len(batches))
        notes = [*method.notes, *notes_on(dataset, config, found, steps, is_packed=is_packed), *loaded.notes]
        for note in notes:
            (on_note or _nothing)(note)

        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        optimizer = optimizer_of(method, model, config)
        made = {
            "origin": "trained",
            "base": found.facts(config.chat_template) | {"quantisation": "nf4" if config.load_4bit else None},
            "data": dataset.facts,
            "run": {
                "began": begun, "packed": is_packed, "lean_loss": loss.is_lean, "parameters": optimizer.parameters,
            },
            "code": code_facts(),
            "hardware": place.facts(dtype),
        }  # fmt: skip
        record = RunRecord(folder.resolve().name, method, model, described, config, place, made, len(batches))
        torch.manual_seed(config.seed)
        loop = Loop(
            config=config,
            place=place,
            model=model,
            loss=loss.compiled() if config.compile else loss,
            optimizer=optimizer,
            batches=batches,
            evaluation=evaluation,
            checkpoints=checkpoints,
            kept=kept,
            record=record,
            history=History(folder, until=None if resumed is None else resumed.progress.step),
            on_step=on_step or _nothing,
            progress=_progressed(resumed),
            steps=steps,
        )
        stopped = loop.run(resumed)
        manifest = save_adapter(folder, kept, lambda part: loop.write(part, stopped))
    return Run(folder, manifest, loop.history.steps, notes)


@contextmanager
def _limits(folder: Path, kept: KeptAdapters) -> Iterator[None]:
    """Raises `LimitExceeded` where the memory is too small, `DiskFull` where the disk is: what is kept is told."""
    less = "try --batch-tokens 1024, --grad-ckpt, --load-4bit; --plan tells what takes how much"
    try:
        with within_memory(lambda: less + kept.told):
            yield
    except (OSError, SafetensorError) as error:
        refused = refusal_of(error)
        if refused is None:
            raise
        if not is_full(refused):
            raise refused from error
        raise DiskFull(
            f"the disk of {folder} is full: {refused.strerror}",
            hint=f"free space, then go on with: the same command and --resume auto{kept.told}",
            adapters=kept.paths,
        ) from error


# --- the steps of it --------------------------------------------------------------------------------------------------


def method_of(config: TrainConfig) -> Method:
    return METHODS[config.method](config)


def within(settings: Any, config: TrainConfig) -> TrainConfig:
    """Samples no longer than the positions that a method leaves of the model's. Raises `InvalidUsage`."""
    most = positions_of(settings)
    if most is None:
        return config
    taken = config.virtual_tokens if config.method in ("prefix", "prompt") else 0
    if most - taken < 2:
        raise InvalidUsage(
            f"the base has {most} positions"
            + (f", of which virtual tokens take {taken}" if taken else "")
            + ": there is no room for an example",
            hint="take fewer --virtual-tokens" if taken else "name a base with more",
        )
    return replace(config, max_len=min(config.max_len, most - taken))


def both_sides(dataset: Dataset, config: TrainConfig, *, is_packed: bool) -> tuple[Batches, Batches | None]:
    """What is trained on, and what is evaluated, if anything."""

    def batches(samples: Samples) -> Batches:
        return Batches(samples, max_len=config.max_len, room=config.batch_tokens, is_packed=is_packed, seed=config.seed)

    return batches(dataset.train), batches(dataset.evaluation) if len(dataset.evaluation) else None


def optimizer_of(method: Method, model: nn.Module, config: TrainConfig) -> FlatAdamW:
    return FlatAdamW(method.groups(model), lr=config.lr, weight_decay=config.weight_decay, clip=config.clip)


def notes_on(dataset: Dataset, config: TrainConfig, base: Base, steps: int, *, is_packed: bool) -> Iterator[str]:
    """What a user should look at before the first step."""
    yield from dataset.notes()
    if steps < _FEW_STEPS:
        yield f"only {steps} steps: little is learnt; try a smaller --batch-tokens, or more --epochs"
    if config.dropout:
        yield "dropout keeps every input a second time: about 1.6 times the memory of activations"
    if config.pack == "best-fit" and not is_packed:
        yield "this model lets packed samples see each other: each has a row of its own"
    if base.name is None:
        yield f"{base.folder} has no name that others know; --base-name NAME writes one into the adapter"


def _fingerprint(config: TrainConfig, dataset: Dataset, weights: str | None) -> dict[str, Any]:
    settings = {name: value for name, value in config.as_json().items() if name not in _MAY_CHANGE}
    return {**settings, "data": [file["sha256"] for file in dataset.facts["files"]], "base": weights}


def _progressed(resumed: Checkpoint | None) -> Progressed:
    if resumed is None:
        return Progressed()
    digest = sha256_of(resumed.path)
    return replace(resumed.progress, resumed=[*resumed.progress.resumed, *([digest] if digest else [])])


def _nothing(_: object) -> None:
    pass
