"""What several methods share: which parameters are trained, and files in lorahub's own form (docs/format.md)."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
from safetensors.torch import save_file
from torch import Tensor, nn

from lorahub.adapters.reader import CONFIG
from lorahub.errors import InvalidAdapter
from lorahub.serving.failures import reason

WEIGHTS = "adapter_model.safetensors"
Named = list[tuple[str, nn.Parameter]]


def trained(model: nn.Module) -> Named:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def save_peft(model: nn.Module, folder: Path) -> None:
    """PEFT's files but for its card: there is one of ours, and a template takes longer than the rest."""
    adapted: Any = model
    adapted.create_or_update_model_card = lambda _: None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.save_pretrained(folder)


def load_peft(model: Any, folder: Path, *, is_trainable: bool = False) -> nn.Module:
    """The model with an adapter of PEFT's. Raises `InvalidAdapter` where PEFT can't load it, or not all of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made: Any = peft.PeftModel.from_pretrained(
                model, folder, is_trainable=is_trainable, autocast_adapter_dtype=False
            )
            told = made.load_adapter(  # once more: only this one tells
                folder, "default", is_trainable=is_trainable, autocast_adapter_dtype=False
            )
        except Exception as error:
            raise InvalidAdapter(
                f"PEFT can't load {folder}: {reason(error)}", hint="save it again with save_pretrained"
            ) from error
    dropped = [] if made.active_peft_config.is_prompt_learning else told.unexpected_keys  # prompts lie elsewhere
    if getattr(made.config, "tie_word_embeddings", False):  # rows of the head that are those of the embedding
        dropped = [name for name in dropped if not name.endswith("token_adapter.trainable_tokens_delta")]
    if dropped:
        raise InvalidAdapter(
            f"PEFT drops {len(dropped)} tensors of {folder}, first {dropped[0]}",
            hint="correct target_modules in adapter_config.json, or save it again with save_pretrained",
        )
    return made  # type: ignore[no-any-return]


def write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """adapter_config.json and adapter_model.safetensors."""
    told = {"base_model_name_or_path": None, "revision": None, "task_type": "CAUSAL_LM", **config}
    (folder / CONFIG).write_text(json.dumps(told, indent=2, sort_keys=True) + "\n")
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )


def is_conv1d(module: nn.Module) -> bool:
    """GPT-2's linear layer, whose weight is (in, out)."""
    return type(module).__name__ == "Conv1D"


def is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or is_conv1d(module)
