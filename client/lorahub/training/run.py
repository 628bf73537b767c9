"""`lorahub.train`: from a base and a file of rows to a folder that can be pushed. Its steps are those of `train`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from lorahub.adapters.base_model import BaseLayout
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
from lorahub.training.devices import DevicePlace, place_of
from lorahub.training.disk import is_full, refusal_of
from lorahub.training.history import History, TrainingStep
from lorahub.training.kept import KeptAdapters
from lorahub.training.loop import Loop, OnStep, steps_of
from lorahub.training.loss import keeps_samples_apart, loss_of, require_learning
from lorahub.training.methods import METHODS, Method
from lorahub.training.methods.continued import Continued
from lorahub.training.methods.lora import LoraMethod
from lorahub.training.models import attach, dtype_for, load_model, load_tokenizer
from lorahub.training.optimizer import FlatAdamW
from lorahub.training.provenance import code_facts, now
from lorahub.training.saving import RunRecord, require_room, save_adapter
from lorahub.training.start import StartAdapter, find_start
from lorahub.training.tokens import Samples
from lorahub.training.vocabulary import Vocabulary, vocabulary_of

_MAY_CHANGE = frozenset({"threads", "device", "steps", "epochs", "save_every", "eval_every", "patience", "min_delta"})
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
    begun, folder = now(), Path(output)
    require_room(folder, is_resumed=resume is not None)
    known = _known(base, data, config or TrainConfig(), hub, progress or Silence())
    config, method, dataset, place = known.config, known.method, known.dataset, known.place
    checkpoints, kept = Checkpoints(folder, known.fingerprint()), KeptAdapters(folder)
    resumed = None if resume is None else checkpoints.open(resume)

    with _limits(folder, kept):
        dtype = dtype_for(place, known.settings, config)
        loaded = load_model(known.base.folder, known.settings, place, config)
        known.vocabulary.grow(loaded.model, config)
        model = attach(method, loaded.model, config, dtype)
        tokens = known.vocabulary.size
        loss = loss_of(model, tokens, config.max_len)
        require_learning(loss, model, tokens, config.max_len)
        is_packed = config.pack == "best-fit" and keeps_samples_apart(model, tokens, config.max_len)
        batches, evaluation = both_sides(dataset, config, is_packed=is_packed)
        steps = steps_of(config, len(batches))
        reached = _progressed(resumed, steps, checkpoints, config)
        notes = [*method.notes, *notes_on(dataset, config, known.base, steps, is_packed=is_packed), *loaded.notes]
        notes += _notes_on_going_on(resumed, steps)
        for note in notes:
            (on_note or _nothing)(note)

        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        optimizer = optimizer_of(method, model, config)
        made = known.facts(dtype, begun, packed=is_packed, lean_loss=loss.is_lean, parameters=optimizer.parameters)
        record = RunRecord(
            folder.resolve().name, method, model, known.layout, config, place, made, len(batches), known.vocabulary
        )
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
            progress=reached,
            steps=steps,
        )
        stopped = loop.run(resumed)
        manifest = save_adapter(folder, kept, lambda part: loop.write(part, stopped))
    return Run(folder, manifest, loop.history.steps, notes)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a run before a weight is loaded."""

    base: Base
    layout: BaseLayout
    settings: Any
    config: TrainConfig
    method: Method
    start: StartAdapter | None
    dataset: Dataset
    place: DevicePlace
    vocabulary: Vocabulary

    def fingerprint(self) -> dict[str, Any]:
        """What has to be the same for a run to go on."""
        settings = {name: value for name, value in self.config.as_json().items() if name not in _MAY_CHANGE}
        settings["start"] = None if self.start is None else self.start.parent
        data = [file["sha256"] for file in self.dataset.facts["files"]]
        return {**settings, "data": data, "base": self.layout.weights_digest}

    def facts(self, dtype: torch.dtype, begun: str, **run: Any) -> dict[str, Any]:
        """As lorahub.json has them, by part."""
        quantised = {"quantisation": "nf4" if self.config.load_4bit else None}
        return {
            "origin": "trained",
            "parents": None if self.start is None else [self.start.parent],
            "base": self.base.facts(self.config.chat_template) | quantised,
            "data": self.dataset.facts,
            "run": {"began": begun, **run},
            "code": code_facts(),
            "hardware": self.place.facts(dtype),
        }


def _known(base: str | Path, data: Data, config: TrainConfig, hub: Callable[[], Hub], progress: Progress) -> _Known:
    place = place_of(config)
    found = find_base(str(base), config.base_name, hub)
    start = None if config.start is None else find_start(config.start, hub)
    method, config = method_of(config, start)
    settings, tokenizer = load_config(found.folder), load_tokenizer(found.folder)
    config = within(settings, config)
    vocabulary = vocabulary_of(tokenizer, settings, config)
    dataset = prepare(data, tokenizer, config, vocabulary.size)
    layout = found.hashed(progress)
    if start is not None:
        start.require_fit(layout)
    return _Known(found, layout, settings, config, with_tokens(method, vocabulary), start, dataset, place, vocabulary)


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


def method_of(config: TrainConfig, start: StartAdapter | None) -> tuple[Method, TrainConfig]:
    """The method, and the settings with what an adapter that it goes on with has of its own. Raises `InvalidUsage`."""
    if start is None:
        return METHODS[config.method](config), config
    method = Continued(config, start.folder)
    return method, method.config


def with_tokens(method: Method, vocabulary: Vocabulary) -> Method:
    """The method, which trains the rows of new tokens too."""
    if isinstance(method, LoraMethod):
        method.new_tokens = vocabulary.new
    return method


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


def _progressed(resumed: Checkpoint | None, steps: int, checkpoints: Checkpoints, config: TrainConfig) -> Progressed:
    """Where the run begins. Raises `InvalidUsage` where it would be over before."""
    if resumed is None:
        return Progressed(planned=steps)
    before = resumed.progress
    if before.step >= steps:
        raise InvalidUsage(
            f"{resumed.path} is after step {before.step}, and the run is to have {steps}",
            hint="ask for more --steps or --epochs",
        )
    digest = sha256_of(resumed.path)
    made = replace(before, planned=steps, resumed=[*before.resumed, *([digest] if digest else [])])
    if config.patience is not None and not checkpoints.has_best:  # it wasn't kept until now
        made = replace(made, best_loss=None, best_step=0, waited=0)
    return made


def _notes_on_going_on(resumed: Checkpoint | None, steps: int) -> list[str]:
    before = steps if resumed is None else resumed.progress.planned
    if resumed is None or before in (0, steps):
        return []
    went = f"the run was to have {before} steps and has {steps} now"
    return [f"{went}: from step {resumed.progress.step + 1} on the learning rate is that of {steps}"]


def _nothing(_: object) -> None:
    pass
