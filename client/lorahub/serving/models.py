"""A base as transformers loads it: whole, and able to continue text, or refused. What can be tried is tried on it."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lorahub.adapters.patterns import layer_index
from lorahub.adapters.reader import CONFIG
from lorahub.errors import BaseNotFound, InvalidBaseModel, InvalidConfiguration, LimitExceeded
from lorahub.serving.failures import is_out_of_memory, reason

_TRIED = 8  # tokens
_SEES_AHEAD = 1e-3
"""The share of what later tokens change at their own places that, at earlier ones, is no rounding any more. It is 0 for
the causal models of transformers, and 3e-3 or more for encoders, even with random weights."""
_CAUSAL = "name a model that continues text, a causal one"
_REPAIRED = "fetch or write its files again, or name another model that transformers knows as a causal one"
_EDITED = "its config.json is another model's, or was edited: take the one that it was saved with"
_LOCAL = {"trust_remote_code": False, "local_files_only": True}
"""No code of the base's is run, and nobody else is asked: it is a folder."""
_LEFTOVERS = ("masked_bias",)
"""Constants that models of transformers once kept beside their weights."""


def load_config(base: str | Path) -> Any:
    """Raises `BaseNotFound`, `InvalidBaseModel`."""
    _refuse_adapter(base)
    with _read_by_transformers(base):
        settings: Any = AutoConfig.from_pretrained(str(base), **_LOCAL)
        vocabulary = getattr(settings.get_text_config(), "vocab_size", None)
    if settings.is_encoder_decoder:
        raise InvalidBaseModel(f"{base} is a {settings.model_type}, an encoder with a decoder", hint=_CAUSAL)
    if not isinstance(vocabulary, int) or vocabulary < 2:
        raise InvalidBaseModel(f"{base} is a {settings.model_type} with a vocabulary of {vocabulary}", hint=_CAUSAL)
    return settings


def load_tokenizer(base: str | Path) -> Any:
    """Raises `BaseNotFound` where there is none, `InvalidBaseModel`."""
    hint = "save one beside the model: tokenizer.save_pretrained(folder)"
    try:
        return AutoTokenizer.from_pretrained(str(base), **_LOCAL)
    except Exception as error:
        if not any(Path(base).glob("tokenizer*")):
            raise BaseNotFound(f"{base} has no tokenizer", hint=hint) from error
        raise InvalidBaseModel(f"the tokenizer of {base} can't be read: {reason(error)}", hint=hint) from error


def load_model(base: str | Path, **options: Any) -> tuple[Any, list[str]]:
    """The causal model, with every weight from its files, and notes of what has no place in it.

    `options` are those of `from_pretrained`. Raises `BaseNotFound`, `InvalidBaseModel`, `InvalidConfiguration` for a
    library that it needs, `LimitExceeded`.
    """
    with _read_by_transformers(base):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(base), output_loading_info=True, ignore_mismatched_sizes=True, **_LOCAL, **options
        )
    model, told = loaded
    _refuse_other_shapes(base, told["mismatched_keys"])
    _refuse_missing(base, model, told["missing_keys"])
    _refuse_unread(base, model, told["unexpected_keys"])
    left = sorted(told["unexpected_keys"])
    what = f"{_counted(left, 'tensor')} of the base left out, no part of {type(model).__name__}: {_some(left)}"
    return model, [what] if left else []


def model_of_shapes(base: str | Path, settings: Any) -> Any:
    """The same without weights. Raises `InvalidBaseModel`."""
    with torch.device("meta"), _read_by_transformers(base):
        return AutoModelForCausalLM.from_config(settings, trust_remote_code=False)  # type: ignore[no-untyped-call]


def require_continuing(base: str | Path, model: Any) -> None:
    """Runs a few tokens. Raises `InvalidBaseModel` where it can't continue text: it computes no finite numbers, or
    lets a token see those behind it.
    """
    settings = model.config.get_text_config()
    half = max(min(_TRIED, positions_of(settings) or _TRIED) // 2, 1)
    first = (torch.arange(2 * half, device=model.device) * 31 + 7) % settings.vocab_size
    second = first.clone()
    second[half:] = (second[half:] + 1) % settings.vocab_size
    was_training = model.training
    model.eval()
    with torch.no_grad(), _read_by_transformers(base, "run", "try without 4 bits, or name another base"):
        logits: Tensor = model(input_ids=torch.stack([first, second]), use_cache=False).logits.float()
    model.train(was_training)
    if not logits.isfinite().all():
        raise _not_finite(base, model)
    change = (logits[0] - logits[1]).abs().amax(-1)
    if change[:half].max() > _SEES_AHEAD * change[half:].max():
        raise InvalidBaseModel(
            f"{base} can't continue text: in {type(model).__name__} a token sees those behind it",
            hint=f"{_CAUSAL}; this is an encoder, or set to look both ways",
        )


def positions_of(settings: Any) -> int | None:
    """How many tokens a model has positions for; None where it says no number."""
    most = getattr(settings.get_text_config(), "max_position_embeddings", None)
    return most if isinstance(most, int) and most > 0 else None


# --- what is refused --------------------------------------------------------------------------------------------------


@contextmanager
def _read_by_transformers(base: str | Path, what: str = "loaded", hint: str = _REPAIRED) -> Iterator[None]:
    """Whatever transformers raises, as one sentence: files of other people break it in as many ways as it has lines."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImportError as error:
        raise InvalidConfiguration(
            f"{base} can't be {what}: {reason(error)}", hint="install what it needs, or take another base"
        ) from error
    except Exception as error:
        if is_out_of_memory(error):
            raise LimitExceeded(
                f"the memory is too small: {reason(error)}", hint=f"{base} can't be {what} here: take a smaller one"
            ) from error
        is_there = (Path(base) / "config.json").is_file()
        raise (InvalidBaseModel if is_there else BaseNotFound)(
            f"{base} can't be {what}: {reason(error)}",
            hint=hint if is_there else "name a folder with config.json",
        ) from error


def _refuse_adapter(base: str | Path) -> None:
    """Else the base that the adapter names would be loaded, with the adapter on it."""
    if (Path(base) / CONFIG).is_file():
        raise InvalidBaseModel(
            f"{base} holds an adapter ({CONFIG}), no base",
            hint="name its base, or fold the adapter into it: lorahub merge BASE ADAPTER -o FOLDER",
        )


def _refuse_other_shapes(base: str | Path, mismatched: Iterable[tuple[str, Any, Any]]) -> None:
    others = sorted(mismatched)
    if others:
        name, there, asked = others[0]
        raise InvalidBaseModel(
            f"{base} has {_counted(others, 'weight')} of another shape than its config.json asks for, first {name}: "
            f"{list(there)} instead of {list(asked)}",
            hint=_EDITED,
        )


def _refuse_missing(base: str | Path, model: Any, missing: Iterable[str]) -> None:
    names = sorted(missing)
    if not names:
        return
    kind, saved = type(model).__name__, (model.config.architectures or [None])[0]
    hint = "the copy is incomplete: fetch it again"
    if saved not in (None, kind):
        hint = f"it was saved as {saved}: {_CAUSAL}"
    raise InvalidBaseModel(
        f"{base} lacks {_counted(names, 'weight')} of {kind}, which would be random: {_some(names)}", hint=hint
    )


def _refuse_unread(base: str | Path, model: nn.Module, unread: Iterable[str]) -> None:
    """A head or a tower that the causal model leaves out is fine; what belongs into its own layers isn't."""
    modules, buffers = dict(model.named_modules()), dict(model.named_buffers())
    inside = sorted(
        name
        for name in unread
        if _is_inside(modules, name) and name not in buffers and name.rpartition(".")[2] not in _LEFTOVERS
    )
    if inside:
        raise InvalidBaseModel(
            f"{base} has {_counted(inside, 'tensor')} that {type(model).__name__} doesn't read: {_some(inside)}",
            hint=_EDITED,
        )


def _is_inside(modules: dict[str, nn.Module], name: str) -> bool:
    """Whether a tensor of this name would be a part of one of the modules, or one of their layers."""
    above = name.rpartition(".")[0]
    if above in modules:
        return True
    while above not in modules:
        above = above.rpartition(".")[0]
    return isinstance(modules[above], nn.ModuleList) or layer_index(above) is not None


def _not_finite(base: str | Path, model: nn.Module) -> InvalidBaseModel:
    weights = [(name, weight) for name, weight in model.named_parameters() if weight.dtype.itemsize > 1]
    names = [name for name, weight in weights if not weight.isfinite().all()]
    where = f"NaN or infinity in {_some(names)}" if names else f"they overflow {next(model.parameters()).dtype}"
    return InvalidBaseModel(
        f"{base} computes no finite numbers: {where}",
        hint="fetch it again, and compare its sha256" if names else "try it in float32",
    )


def _counted(things: Sequence[object], name: str) -> str:
    return f"1 {name}" if len(things) == 1 else f"{len(things)} {name}s"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
