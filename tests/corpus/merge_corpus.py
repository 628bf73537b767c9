"""Bases in several shards and adapters of the real PEFT, for merges."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import peft
import torch
import transformers
from corpus import peft_corpus


@dataclass(frozen=True)
class Stored:
    """A base and an adapter on a registry, and where they came from."""

    base: str
    adapter: str
    base_folder: Path
    adapter_folder: Path
    token: str
    namespace: str


def make_base(
    folder: Path, *, dtype: torch.dtype = torch.bfloat16, seed: int = 0, shard: str = "40KB", **sizes: int
) -> Path:
    """A tiny Llama in several shards."""
    torch.manual_seed(seed)
    model = peft_corpus.llama(**{"hidden_size": 32, "intermediate_size": 48, "vocab_size": 128} | sizes).to(dtype)
    assert isinstance(model, transformers.PreTrainedModel)
    model.save_pretrained(folder, max_shard_size=shard)
    return folder


def make_adapter(folder: Path, base: Path, named: str, *, seed: int = 1, **settings: object) -> Path:
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = peft_corpus.lora(**{"target_modules": "all-linear", **settings})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.save_pretrained(folder)
    said = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(said | {"base_model_name_or_path": named}))
    return folder
