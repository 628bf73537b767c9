"""The base as a model to train, with its tokenizer: loaded in one dtype, in 4 bits, or as shapes alone."""

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lorahub.errors import InvalidConfiguration, InvalidUsage
from lorahub.serving import models
from lorahub.training.attention import use_short_rows
from lorahub.training.config import TrainConfig
from lorahub.training.devices import DevicePlace
from lorahub.training.fused import fuse
from lorahub.training.methods import Method


@dataclass(frozen=True, slots=True)
class LoadedBase:
    """A base, frozen, on its device, and what a user should know of it."""

    model: Any
    notes: list[str]


def load_tokenizer(folder: Path) -> Any:
    """Raises `BaseNotFound`, `InvalidBaseModel`, `InvalidUsage`."""
    tokenizer = models.load_tokenizer(folder)
    if not tokenizer.is_fast:
        raise InvalidUsage(f"the tokenizer of {folder} has no tokenizer.json", hint="save it with transformers, fast")
    return tokenizer


def dtype_for(place: DevicePlace, settings: Any, config: TrainConfig) -> torch.dtype:
    return place.dtype(config.dtype, str(getattr(settings, "dtype", None)).removeprefix("torch."))


def load_model(folder: Path, settings: Any, place: DevicePlace, config: TrainConfig) -> LoadedBase:
    """Raises `BaseNotFound`, `InvalidBaseModel`, `InvalidConfiguration`, `LimitExceeded`."""
    dtype = dtype_for(place, settings, config)
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": _attention(place, dtype, config)}
    if config.load_4bit:
        options |= {"quantization_config": _four_bits(dtype), "device_map": {"": str(place.device)}}
    model, notes = models.load_model(folder, **options)
    if not config.load_4bit:
        model = model.to(place.device)
    models.require_continuing(folder, model)
    return LoadedBase(_frozen(model), notes)


def shape_model(folder: Path, settings: Any) -> Any:
    """The same without weights: nothing is read, nothing computed. Raises `InvalidBaseModel`."""
    return _frozen(models.model_of_shapes(folder, settings))


def attach(method: Method, model: Any, config: TrainConfig, dtype: torch.dtype) -> nn.Module:
    """The model to train. What is trained has the dtype that the base computes in; the optimizer keeps its master."""
    torch.manual_seed(config.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = method.attach(model)
        if config.grad_ckpt:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    if config.neftune is not None:
        model.get_input_embeddings().register_forward_hook(_noisy(config.neftune))
    if not config.compile:  # which fuses by itself
        fuse(adapted)
    if config.attention == "auto" and model.device.type == "cpu" and dtype is torch.bfloat16:
        use_short_rows(model)
    return adapted


def _noisy(size: float) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """NEFTune (arXiv 2310.05914): what the embedding gives, with noise while the model trains."""

    def add(module: nn.Module, _: Any, embedded: Tensor) -> Tensor:
        if not module.training:
            return embedded
        most = size / (embedded.shape[-2] * embedded.shape[-1]) ** 0.5
        return embedded + torch.empty_like(embedded).uniform_(-most, most)

    return add


def _frozen(model: Any) -> Any:
    return model.requires_grad_(requires_grad=False)


def _attention(place: DevicePlace, dtype: torch.dtype, config: TrainConfig) -> str | None:
    if config.attention != "auto":
        return config.attention
    has_flash = importlib.util.find_spec("flash_attn") is not None
    return "flash_attention_2" if place.device.type == "cuda" and dtype is torch.bfloat16 and has_flash else None


def _four_bits(dtype: torch.dtype) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InvalidConfiguration(
            "--load-4bit needs bitsandbytes, which is not installed", hint="pip install bitsandbytes"
        )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
