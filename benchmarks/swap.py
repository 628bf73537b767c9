"""Swapping adapters in a model of 100 million parameters, all 84 linear layers at rank 8: lorahub.Session beside PEFT.

    .venv/bin/python benchmarks/swap.py

Random weights, one thread of torch, medians; both adapters are resident, or for `hotswap_adapter` on the disk, as PEFT
has it. Afterwards 1,000 swaps, and the digest of every base weight.
"""

import hashlib
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lorahub import Session
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from transformers import LlamaConfig, LlamaForCausalLM

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ROUNDS = 15


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.bfloat16):
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder), dtype)


def compare(folder: Path, dtype: torch.dtype) -> None:
    for seed, name in enumerate("ab"):
        write_adapter(folder / name, dtype, seed)
    session = Session(base(dtype))
    for name in "ab":
        session.load(name, folder / name)
    assert not torch.equal(logits(session, "a"), logits(session, "b")), "the swap changes nothing"
    before = digest(session.model)
    ours = timed(lambda number: session.use("ab"[number % 2]), rounds=1000)
    assert digest(session.model) == before, "a swap touched the base"
    model: Any = PeftModel.from_pretrained(base(dtype), folder / "a", "a")
    model.load_adapter(folder / "b", "b")
    set_adapter = timed(lambda number: model.set_adapter("ab"[number % 2]))
    cast_down: Any = PeftModel.from_pretrained(base(dtype), folder / "a", autocast_adapter_dtype=False)
    alone: Any = PeftModel.from_pretrained(base(dtype), folder / "a")
    hotswap = timed(lambda number: hotswap_adapter(alone, str(folder / "ab"[number % 2]), "default"))
    session.use(None)
    plain = forward(session.model)
    session.use("a")
    beside = forward(session.model)
    theirs, theirs_cast_down = forward(model), forward(cast_down)
    parameters = sum(parameter.numel() for parameter in session.model.parameters())
    print(f"\n{parameters / 1e6:.1f} M parameters, {dtype}; 1,000 swaps left every base weight as it was")
    print(f"  Session.use            {ours * 1e6:10.1f} µs")
    print(f"  PEFT set_adapter       {set_adapter * 1e6:10.1f} µs  {set_adapter / ours:8.0f}×")
    print(f"  PEFT hotswap_adapter   {hotswap * 1e6:10.1f} µs  {hotswap / ours:8.0f}×   from disk")
    said = f"Session {ratio(beside, plain)}, PEFT {ratio(theirs, plain)}"
    said += f", with factors in the base's dtype {ratio(theirs_cast_down, plain)}"
    print(f"  forward of 128 tokens: base {plain * 1e3:.1f} ms, {said}")


def ratio(seconds: float, of: float) -> str:
    return f"{seconds / of - 1:+.0%}"


def timed(act: Callable[[int], object], *, rounds: int = ROUNDS) -> float:
    """Median seconds."""
    act(0)
    times = []
    for number in range(1, rounds + 1):
        begun = time.perf_counter()
        act(number)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def logits(session: Session, name: str) -> torch.Tensor:
    with torch.inference_mode(), session.using(name):
        found: torch.Tensor = session.model(input_ids=torch.arange(8)[None]).logits
        return found


def forward(model: Any) -> float:
    ids = torch.arange(128)[None] % 1000
    with torch.inference_mode():
        return timed(lambda _: model(input_ids=ids))


def digest(model: Any) -> str:
    whole = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        whole.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def base(dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000, hidden_size=640, intermediate_size=1728, num_hidden_layers=12, num_attention_heads=10,
        num_key_value_heads=10, max_position_embeddings=512, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(dtype).eval()


def write_adapter(folder: Path, dtype: torch.dtype, seed: int) -> None:
    adapted = get_peft_model(base(dtype), LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS))
    torch.manual_seed(seed + 1)  # `base` has set its own
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.01)
    adapted.save_pretrained(folder)


if __name__ == "__main__":
    main()
