"""What a pipeline's denoiser gives for the same noise and the same words."""

from collections.abc import Mapping
from typing import Any

import torch


def answer(parts: Mapping[str, Any]) -> Any:
    """All values, flat."""
    generator = torch.Generator().manual_seed(5)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    with torch.no_grad():
        if "unet" in parts:
            words = parts["text_encoder"](torch.tensor([[1, 17, 5, 42, 7, 2]])).last_hidden_state
            found = parts["unet"](noise(1, 4, 8, 8), torch.tensor([10]), encoder_hidden_states=words).sample
        else:
            found = parts["transformer"](
                hidden_states=noise(1, 4, 16),
                encoder_hidden_states=noise(1, 3, 32),
                pooled_projections=noise(1, 32),
                timestep=torch.tensor([0.5]),
                img_ids=torch.zeros(4, 3),
                txt_ids=torch.zeros(3, 3),
            ).sample
    return found.flatten().double().numpy()
