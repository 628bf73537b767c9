"""A base, with an adapter beside it, and with the adapter folded in: how well each predicts the same rows."""

import hashlib
import math
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn
from torch.nn import functional

from lorahub.adapters.adapter import Adapter
from lorahub.adapters.adapter_config import parse_adapter_config
from lorahub.adapters.base_model import read_base
from lorahub.adapters.evaluation import EVALUATION, Evaluation, Score, parse_evaluation, regressions
from lorahub.adapters.files import FolderFiles
from lorahub.adapters.findings import Evidence, Finding, finding
from lorahub.adapters.reader import CONFIG, read_adapter
from lorahub.errors import InvalidAdapter, InvalidBaseModel, InvalidUsage, NotMergeable
from lorahub.hub.hub import Hub
from lorahub.hub.sources import may_look_up
from lorahub.merging.recipe import Ingredient, Recipe
from lorahub.serving.failures import within_memory
from lorahub.serving.models import load_config
from lorahub.serving.session import Session, folder_of
from lorahub.training.base import Base, find_base
from lorahub.training.batches import IGNORED, Batches, TokenBatch
from lorahub.training.config import TrainConfig
from lorahub.training.dataset import prepare
from lorahub.training.devices import DevicePlace, place_of
from lorahub.training.methods.trained import load_peft
from lorahub.training.models import dtype_for, load_model
from lorahub.training.run import within
from lorahub.training.start import require_fit
from lorahub.training.tokens import Samples
from lorahub.training.vocabulary import vocabulary_with

EVALUATED = ("base", "adapter", "merged")
_RECORDED = ("max_len", "train_on", "dtype", "batch_tokens")
"""Settings that the numbers depend on; the comparison takes them from what is recorded."""

_SHORT = {torch.bfloat16: "bf16", torch.float32: "fp32"}


def evaluate(
    adapter: str | Path,
    data: str | Path,
    config: TrainConfig | None = None,
    *,
    base: str | None = None,
    models: Iterable[str] = EVALUATED,
    hub: Callable[[], Hub] = Hub,
) -> Evaluation:
    """Measures `models` of base, adapter and merged on every row of the file `data`.

    `adapter` is a folder or a reference; `base` the one that it names, if nothing else is said. Of the settings those
    about rows, device and dtype count. A model that can't be merged has no score of that. Raises
    `InvalidTrainingData`, `BaseNotFound`, `InvalidBaseModel`, `AdapterDoesNotFit`, `InvalidUsage`, `LimitExceeded`.
    """
    wanted, folder = list(models), folder_of(adapter, hub)
    files = FolderFiles(folder)
    read = read_adapter(files)
    found = find_base(base or _named(read, folder), None, hub)
    require_fit(read, read_base(FolderFiles(found.folder), name=found.name))
    config = TrainConfig.of({**(config or TrainConfig()).as_json(), "eval_split": 0.0, "method": "lora"})
    place, settings = place_of(config), load_config(found.folder)
    config = within(settings, config)
    vocabulary = vocabulary_with(folder, found.folder, settings)
    dataset = prepare(Path(data), vocabulary.tokenizer, config, vocabulary.size)
    measure = _Measure(dataset.train, config, place)

    with within_memory(lambda: "try a smaller --batch-tokens, --no-merged, or --device cpu"):
        model = load_model(found.folder, settings, place, config).model
        vocabulary.grow(model, config)
        scores = {"base": measure("base", model)} if "base" in wanted else {}
        if "adapter" in wanted:
            scores["adapter"] = measure("adapter", adapted(model, folder))
        del model
        if "merged" in wanted and (score := _merged(found, folder, settings, measure, hub)) is not None:
            scores["merged"] = score
    file = dataset.facts["files"][0]
    return Evaluation(
        scores,
        weights_of(files, read),
        {"name": file["name"], "sha256": file["sha256"], "format": dataset.facts["format"], **dataset.facts["train"]},
        {"name": found.name or read.claim.name, "revision": found.revision},
        {"dtype": _SHORT[dtype_for(place, settings, config)]}
        | {name: getattr(config, name) for name in _RECORDED if name != "dtype"},
    )


def compared(adapter: str, base: str, data: Path, tolerance: float, *, hub: Callable[[], Hub] = Hub) -> list[Finding]:
    """LH504 where the adapter on this base is worse than its eval.json says, LH505 where that says nothing of it."""
    place = folder_of(adapter, hub) / EVALUATION
    if not place.is_file():
        return [finding("LH505", f"{adapter} has no {EVALUATION}", [Evidence(EVALUATION)])]
    recorded = parse_evaluation(place.read_bytes())
    config = TrainConfig.of({key: recorded.settings[key] for key in _RECORDED if key in recorded.settings})
    now = evaluate(adapter, data, config, base=base, models=["adapter"], hub=hub)
    return regressions(recorded, now, tolerance)


def weights_of(files: FolderFiles, adapter: Adapter) -> str:
    """The sha256 of the adapter's weights. Raises `InvalidUsage` where it has none."""
    if adapter.weights_file is None:
        raise InvalidUsage("there are no weights of an adapter", hint="name a folder with adapter_model.safetensors")
    with files.path(adapter.weights_file).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _named(adapter: Adapter, folder: Path) -> str:
    if adapter.claim.name is None or not may_look_up(adapter.claim.name):
        raise InvalidUsage(f"the adapter in {folder} names no base", hint="say which: --base BASE")
    return adapter.claim.name


# --- one model --------------------------------------------------------------------------------------------------------


def adapted(model: Any, folder: Path) -> nn.Module:
    """The model with the adapter beside its weights: as PEFT loads its own methods, as `lorahub.Session` all others.

    Raises `NotConvertible`, `AdapterDoesNotFit`, `InvalidAdapter`.
    """
    config = folder / CONFIG
    kind = parse_adapter_config(config.read_bytes()).peft_type if config.is_file() else None
    if kind not in peft.PeftType.__members__:
        session = Session(model)
        session.load("adapter", folder)
        session.use("adapter")
        return model  # type: ignore[no-any-return]
    return load_peft(model, folder)


def _merged(base: Base, folder: Path, settings: Any, measure: "_Measure", hub: Callable[[], Hub]) -> Score | None:
    """The score of the model that `lorahub merge` writes; None where the adapter is no update to weights."""
    from lorahub.hub.merging import Merger

    recipe = Recipe(str(base.folder.resolve()), (Ingredient(str(folder.resolve())),))
    with (
        tempfile.TemporaryDirectory(prefix="lorahub-eval-") as place,
        hub() as registry,
        Merger(registry.sources) as merger,
    ):
        try:
            made = merger.write(merger.plan(recipe), Path(place) / "merged")
        except NotMergeable:
            return None
        return measure("merged", load_model(made, settings, measure.place, measure.config).model)


class _Measure:
    """The score of a model on the same batches: one row a sample, none sees another."""

    def __init__(self, samples: Samples, config: TrainConfig, place: DevicePlace) -> None:
        self.config = config
        self.place = place
        self._batches = Batches(samples, max_len=config.max_len, room=config.batch_tokens, is_packed=False)

    def __call__(self, name: str, model: nn.Module) -> Score:
        """Raises `InvalidAdapter`, `InvalidBaseModel` for a loss that isn't a finite number."""
        model.eval()
        loss, tokens, exact, rows = 0.0, 0, 0, 0
        with torch.no_grad():
            for batch in self._batches:
                of_batch, is_exact = _score(model, batch.to(self.place.device))
                if not math.isfinite(of_batch):
                    raise (InvalidBaseModel if name == "base" else InvalidAdapter)(
                        f"the loss of the {name} is not finite on line {batch.lines[0]}",
                        hint="look for NaN in its weights; try --dtype fp32",
                        lines=list(batch.lines),
                    )
                loss += of_batch
                tokens += batch.supervised
                exact += int(is_exact.sum())
                rows += len(is_exact)
        return Score(loss / tokens, exact / rows)


def _score(model: Any, batch: TokenBatch) -> tuple[float, Tensor]:
    """The summed loss, and (rows) whether every token that counts is the most likely one."""
    logits = model(input_ids=batch.ids, use_cache=False).logits[:, -batch.ids.shape[1] :][:, :-1]
    wanted = batch.labels[:, 1:]
    counts = wanted != IGNORED
    loss = functional.cross_entropy(logits[counts].float(), wanted[counts], reduction="sum")
    return float(loss), ((logits.argmax(-1) == wanted) | ~counts).all(1)
