"""Every method: it learns, and what it leaves computes what was trained, wherever it is loaded."""

from pathlib import Path
from typing import Any

import lorahub
import pytest
import torch
import transformers
from lorahub import TrainConfig
from lorahub.training.dataset import prepare
from lorahub.training.loss import Loss
from lorahub.training.methods import METHODS
from lorahub.training.models import attach, load_tokenizer
from lorahub.training.run import both_sides
from registry_process import Registry
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT asks transformers for what is deprecated there

IDS = torch.arange(60, 90)[None]
SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "pissa": {"init": "pissa"},
    "pissa-rslora-dora": {"init": "pissa", "rslora": True, "dora": True},
    "olora": {"init": "olora"},
    "lora-plus": {"lora_plus": 8.0},
    "prefix": {"method": "prefix"},
    "prompt": {"method": "prompt"},
    "houlsby": {"method": "bottleneck"},
    "pfeiffer": {"method": "bottleneck", "bottleneck": "pfeiffer"},
    "bitfit": {"method": "bitfit"},
    "ia3": {"method": "ia3"},
}


def config_of(case: str, **more: Any) -> TrainConfig:
    return TrainConfig(**{"rank": 4, "virtual_tokens": 5, **SETTINGS[case], **more})


def load(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder).requires_grad_(False)


def logits(model: nn.Module) -> torch.Tensor:
    """Of the tokens; PEFT gives those of virtual tokens too."""
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits
    return found[:, -IDS.shape[1] :].clone()


def stirred(model: nn.Module) -> nn.Module:
    """As if it had learnt something."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


REFUSED = {("llama", "bitfit"): "no biases", ("gpt2", "olora"): "mistakes inputs for outputs"}
EVERYWHERE = [(kind, case) for case in SETTINGS for kind in ("llama", "gpt2") if (kind, case) not in REFUSED]


@pytest.mark.parametrize(("kind", "case"), EVERYWHERE)
def test_what_is_saved_computes_what_was_trained(
    kind: str, case: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    base: Path = request.getfixturevalue(kind)
    config = config_of(case)
    method = METHODS[config.method](config)
    model = stirred(attach(method, load(base), config, torch.float32))
    method.save(model, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors", ".md"}

    session = lorahub.Session(base)
    plain = logits(session.model)
    session.load("it", tmp_path)
    session.use("it")

    trained = logits(model)
    assert not torch.allclose(trained, plain, atol=0.05)
    torch.testing.assert_close(logits(session.model), trained, rtol=1e-4, atol=1e-4)
    session.close()
    assert torch.equal(logits(session.model), plain)


# --- whole runs -------------------------------------------------------------------------------------------------------

LEARNING = {"prefix": 3e-1, "prompt": 3e-1, "ia3": 1e-1, "bitfit": 3e-2, "houlsby": 1e-2, "pfeiffer": 1e-2}
"""Learning rates, where LoRA's 1e-2 isn't right."""
RUN: dict[str, Any] = {"steps": 40, "max_len": 96, "batch_tokens": 256, "base_name": "acme/tiny"}
NEVER_MERGED = ("prefix", "prompt", "houlsby", "pfeiffer")


def evaluated(model: nn.Module, base: Path, rows: Path, config: TrainConfig) -> float:
    """The loss of the rows held out, in nats a token, by the model's own loss."""
    _, batches = both_sides(prepare(rows, load_tokenizer(base), config), config, is_packed=False)
    assert batches is not None
    loss = Loss(model.eval(), is_lean=False)
    with torch.no_grad():
        found = [(float(loss(batch)), batch.supervised) for batch in batches]
    return sum(total for total, _ in found) / sum(count for _, count in found)


@pytest.mark.parametrize(("kind", "case"), EVERYWHERE)
def test_every_method_learns_and_is_published(
    kind: str,
    case: str,
    request: pytest.FixtureRequest,
    rows: Path,
    tmp_path: Path,
    registry: Registry,
    user: tuple[str, str],
) -> None:
    base: Path = request.getfixturevalue(kind)
    config = config_of(case, lr=LEARNING.get(case, 1e-2), eval_split=0.2, **RUN)
    run = lorahub.train(base, rows, config, output=tmp_path / "out")
    losses = run.manifest["run"]["eval_loss"]
    print(kind, case, losses)
    assert losses["last"] < losses["untrained"] / 2
