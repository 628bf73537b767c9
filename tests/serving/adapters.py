"""Adapters that move the output visibly, by the real PEFT."""

import warnings
from pathlib import Path
from typing import Any

import peft
import torch
from corpus.peft_corpus import llama, lora, make_base


def save_adapter(
    base: str, folder: Path, *, seed: int, noise: float = 0.1, hidden_size: int = 16, **lora_: Any
) -> Path:
    """Every factor is noise of its own; LoRA on q_proj and v_proj of rank 4 if nothing else is said."""
    model = make_base(base) if hidden_size == 16 else llama(hidden_size=hidden_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(model, lora(**lora_))
        generator = torch.Generator().manual_seed(seed)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = noise * torch.randn(parameter.shape, generator=generator)
        adapted.active_peft_config.base_model_name_or_path = f"acme/{base}"
        adapted.save_pretrained(folder)
    return folder
