"""The real loader's word: PEFT loads the adapter onto the base's shape, without any weights of the base."""

import json
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.files import Files
from lorahub.adapters.findings import Evidence, Finding, finding
from lorahub.errors import InvalidBaseModel, InvalidConfiguration

_LOADED = ("adapter_config.json", "adapter_model.safetensors")


def load_findings(files: Files, base: BaseLayout) -> list[Finding]:
    """LH310 for every tensor that PEFT drops, or makes anew because the file has none; LH506 for what isn't PEFT's.

    The base is built from its config.json on torch's meta device, so it needs no memory. Raises
    `InvalidConfiguration` where peft isn't installed, `InvalidBaseModel` where nobody knows that config.json.
    """
    if base.model_type is None:
        raise InvalidBaseModel(
            "the base's config.json is not known, and --level load builds the model from it",
            hint="name a folder or a repository that has it",
        )
    try:
        import peft
        import torch
        import transformers
    except ModuleNotFoundError as error:
        raise InvalidConfiguration(
            f"--level load runs PEFT, and {error.name} is not installed",
            hint="pip install 'lorahub-registry[train]'",
        ) from None
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        copies = [name for name in _LOADED if name in files.sizes]
        for name in copies:
            (Path(folder) / name).write_bytes(files.read(name, 0, files.sizes[name]))
        if len(copies) < len(_LOADED):
            return [finding("LH506", f"PEFT reads {' and '.join(_LOADED)}, and they are not both there")]
        try:
            with torch.device("meta"):
                model = _model(transformers, base)
                adapted = peft.get_peft_model(model, peft.PeftConfig.from_pretrained(folder))
            weights = peft.utils.save_and_load.load_peft_weights(folder, device="cpu")
            result = peft.set_peft_model_state_dict(adapted, weights, low_cpu_mem_usage=True)
        except Exception as error:  # noqa: BLE001 (whatever the loader says is the finding)
            return [finding("LH310", f"PEFT refuses it: {str(error)[:500]}", [Evidence(type(error).__name__)])]
    return list(_disagreements(result))


def _model(transformers: Any, base: BaseLayout) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(base.config))
        config = transformers.AutoConfig.from_pretrained(folder)
    named = getattr(transformers, (config.architectures or ["AutoModelForCausalLM"])[0])
    return named(config)


def _disagreements(result: Any) -> Iterable[Finding]:
    dropped = [str(name) for name in result.unexpected_keys]
    fresh = [str(name) for name in result.missing_keys if "lora_" in name or "modules_to_save" in name]
    if dropped:
        yield finding("LH310", f"PEFT drops {len(dropped)} tensors, first {dropped[0]}", map(Evidence, dropped))
    if fresh:
        yield finding(
            "LH310", f"PEFT finds no tensor for {len(fresh)} parameters, first {fresh[0]}", map(Evidence, fresh)
        )
