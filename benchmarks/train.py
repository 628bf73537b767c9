"""lorahub train beside transformers' Trainer and TRL's SFTTrainer (both with PEFT), and beside full fine-tuning.

    .venv/bin/python benchmarks/train.py                            # lorahub, Trainer, lorahub in full; a Llama of 46M
    .venv/bin/python benchmarks/train.py --trl PATH/TO/python       # … and TRL of an environment that has it
    .venv/bin/python benchmarks/train.py --device cuda --model 1b   # on a GPU: tokens/s, peak memory, full beside LoRA

Random weights in bf16, four rows of 256 tokens a step, all trained on, so that nothing is won by packing; every row is
the same, so that losses can be compared. LoRA of rank 8 on all linear layers. Each run is a process of its own, the
trainers take turns. On a CPU: one thread, CPU time, the best step; memory is what the process grows by at most once the
model is there. On a GPU: wall time, and the memory of all tensors. Afterwards one forward of the base, of the base with
the adapter merged into it, and beside it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROWS, WIDTH = 4, 256
RANK, ALPHA, LR = 8, 16, 1e-4
WARM_UP = 1
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MODELS = {
    "46m": {"vocab_size": 8_192, "hidden_size": 512, "intermediate_size": 1_376, "num_hidden_layers": 12,
            "num_attention_heads": 8, "num_key_value_heads": 8},
    "1b": {"vocab_size": 128_256, "hidden_size": 2_048, "intermediate_size": 8_192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64},
}  # fmt: skip
SHAPES = ((1, 1), (1, 16), (1, 128), (8, 128))
NAMES = {
    "lorahub": "lorahub train",
    "trainer": "transformers Trainer + PEFT",
    "autocast": "the same with bf16=True",
    "trl": "TRL SFTTrainer + PEFT",
    "full": "lorahub train --method full",
}


def main() -> None:
    asked = _asked()
    if asked.child:
        told = CHILDREN[asked.child](asked)
        asked.told.write_text(json.dumps(told))
        return
    if asked.device == "cuda" and not _has_gpu():
        raise SystemExit(
            "there is no GPU that torch can use: nothing was measured; without --device it runs on the CPU"
        )
    with tempfile.TemporaryDirectory() as folder:
        asked.folder = Path(folder)
        _in_a_child("make", asked)
        compare(asked)
        if asked.device == "cpu":
            latency(_in_a_child("latency", asked))


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", type=Path, metavar="PYTHON", help="of an environment that has TRL")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", choices=list(MODELS), default="46m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="that are measured, of each run")
    parser.add_argument("--only", nargs="*", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--told", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


# --- the comparison ---------------------------------------------------------------------------------------------------


def compare(asked: argparse.Namespace) -> None:
    names = [name for name in asked.only if name != "trl" or asked.trl is not None]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(asked.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            runs[name].append(_in_a_child(name, asked))
    ours = runs[names[0]]
    print(f"\n{hardware(ours[0])}\n{ours[0]['parameters'] / 1e6:,.1f} M parameters, {ROWS} × {WIDTH} tokens a step")
    clock = "CPU ms" if asked.device == "cpu" else "ms"
    print(f"{'':30} {clock:>8} {'tokens/s':>9} {'ours':>7} {'each round':>14} {'MB':>8} {'ours':>6}  loss")
    for name, done in runs.items():
        if "missing" in done[0]:
            print(f"{NAMES[name]:30} {done[0]['missing']}")
            continue
        print(f"{NAMES[name]:30} {_row(done, ours)}")


def _row(done: list[dict[str, Any]], ours: list[dict[str, Any]]) -> str:
    step, own = (min(run["step"] for run in runs) for runs in (done, ours))
    memory, least = (statistics.median(run["memory"] for run in runs) for runs in (done, ours))
    ratios = [run["step"] / beside["step"] for run, beside in zip(done, ours, strict=True)]
    return (
        f"{step * 1e3:8.0f} {ROWS * WIDTH / step:9.0f} {step / own:6.2f}× {min(ratios):6.2f}–{max(ratios):.2f}× "
        f"{memory / 1e6:8.0f} {least / memory:5.2f}×  {done[0]['loss']:.4f}"
    )


def latency(told: dict[str, Any]) -> None:
    print("\none forward, CPU time beside the base's; the last column is the base beside itself")
    print(f"{'rows × tokens':16} {'base ms':>8} {'merged':>8} {'beside':>8} {'base':>8}")
    for shape, times in told.items():
        base = times["base"]
        shares = "".join(f" {times[name] / base - 1:+8.1%}" for name in ("merged", "beside", "again"))
        print(f"{shape:16} {base * 1e3:8.1f}{shares}")


def hardware(told: dict[str, Any]) -> str:
    load = "" if told["kind"] == "cuda" else f", one thread, load {os.getloadavg()[0]:.1f}"
    return f"{told['device']}{load}, torch {told['torch']}, transformers {told['transformers']}, peft {told['peft']}"


def _in_a_child(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    python = str(asked.trl) if name == "trl" else sys.executable
    told = asked.folder / f"{name}.json"
    command = [python, __file__, "--child", name, "--folder", asked.folder, "--told", told, "--device", asked.device]
    command += ["--model", asked.model, "--steps", str(asked.steps)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if asked.device == "cpu":
        environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(told.read_text())
    return found


# --- in a child: what is measured -------------------------------------------------------------------------------------


class Meter:
    """Time of each step, and how far memory grows from the first on."""

    def __init__(self, device: str) -> None:
        import torch

        torch.set_num_threads(1)
        self._cuda = torch.cuda if device == "cuda" else None
        self._times: list[float] = []
        self._before = 0

    def begin(self, *_: object) -> None:
        """The model is there, training is about to begin."""
        if self._cuda is None:
            Path("/proc/self/clear_refs").write_text("5")  # the peak is what is there now
            self._before = _status("VmRSS")

    def stepped(self, *_: object) -> None:
        if self._cuda is not None:
            self._cuda.synchronize()
        self._times.append(time.process_time() if self._cuda is None else time.perf_counter())

    def told(self, parameters: int, loss: float) -> dict[str, Any]:
        import peft
        import torch
        import transformers

        steps = [after - before for before, after in zip(self._times, self._times[1:], strict=False)][WARM_UP - 1 :]
        return {
            "step": min(steps),
            "memory": _status("VmHWM") - self._before if self._cuda is None else self._cuda.max_memory_allocated(),
            "parameters": parameters,
            "loss": loss,
            "device": _cpu() if self._cuda is None else self._cuda.get_device_name(),
            "kind": "cpu" if self._cuda is None else "cuda",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
        }


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name))) * 1024


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))


def make(asked: argparse.Namespace) -> dict[str, Any]:
    """The base and the rows: 255 letters are 256 tokens with the end."""
    import random

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    sizes: dict[str, Any] = MODELS[asked.model]
    config = LlamaConfig(**sizes, max_position_embeddings=1024, tie_word_embeddings=asked.model == "1b")
    LlamaForCausalLM(config).save_pretrained(asked.folder / "base")
    _tokenizer().save_pretrained(asked.folder / "base")
    chosen = random.Random(0)
    row = json.dumps({"text": "".join(chosen.choices("abcdefgh ", k=WIDTH - 1))})
    (asked.folder / "rows.jsonl").write_text(f"{row}\n" * ROWS * (asked.steps + WARM_UP))
    return {}


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="</s>")


# --- in a child: the trainers -----------------------------------------------------------------------------------------


def lorahub(asked: argparse.Namespace, *, method: str = "lora") -> dict[str, Any]:
    from lorahub.training.config import TrainConfig
    from lorahub.training.methods import METHODS
    from lorahub.training.run import train

    if method not in METHODS:
        return {"missing": "not in this version"}
    meter, last = Meter(asked.device), []
    settings: dict[str, Any] = {"method": method, "rank": RANK, "alpha": ALPHA, "lr": LR, "dtype": "bf16"}
    config = TrainConfig(
        **settings, device=asked.device, steps=asked.steps + WARM_UP, max_len=WIDTH, batch_tokens=ROWS * WIDTH,
        eval_split=0.0, save_every=1 << 30,
    )  # fmt: skip

    def stepped(step: Any) -> None:
        meter.stepped()
        last.append(step.loss)

    with tempfile.TemporaryDirectory() as folder:
        train(
            asked.folder / "base", asked.folder / "rows.jsonl", config, output=Path(folder) / "out",
            on_step=stepped, on_note=meter.begin,  # there is a note for so few steps: the last thing before the first
        )  # fmt: skip
        return meter.told(_parameters(asked), last[-1])


def full(asked: argparse.Namespace) -> dict[str, Any]:
    return lorahub(asked, method="full")


def trainer(asked: argparse.Namespace, *, autocast: bool = False) -> dict[str, Any]:
    from peft import get_peft_model
    from transformers import Trainer, TrainingArguments

    model: Any = get_peft_model(_model(asked), _lora())
    tokens = _tokenizer()
    rows = [json.loads(line)["text"] for line in (asked.folder / "rows.jsonl").read_text().splitlines()]
    data = [
        {"input_ids": ids, "labels": ids} for ids in ([*tokens(row)["input_ids"], tokens.eos_token_id] for row in rows)
    ]
    assert {len(row["input_ids"]) for row in data} == {WIDTH}
    with tempfile.TemporaryDirectory() as folder:
        wanted = TrainingArguments(folder, **_arguments(asked), bf16=autocast)
        return _trained(asked, Trainer(model, wanted, train_dataset=data))  # type: ignore[arg-type]


def autocast(asked: argparse.Namespace) -> dict[str, Any]:
    return trainer(asked, autocast=True)


def trl(asked: argparse.Namespace) -> dict[str, Any]:
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    with tempfile.TemporaryDirectory() as folder:
        data = load_dataset("json", data_files=str(asked.folder / "rows.jsonl"), split="train", cache_dir=folder)
        wanted = SFTConfig(folder, **_arguments(asked), max_length=WIDTH, gradient_checkpointing=False)
        made = SFTTrainer(_model(asked), wanted, train_dataset=data, processing_class=_tokenizer(), peft_config=_lora())
        return _trained(asked, made)


def _trained(asked: argparse.Namespace, trainer: Any) -> dict[str, Any]:
    from transformers import TrainerCallback

    meter = Meter(asked.device)

    class Listening(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            meter.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            meter.stepped()

    trainer.add_callback(Listening())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return meter.told(_parameters(asked), losses[-1])


def _arguments(asked: argparse.Namespace) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": ROWS, "max_steps": asked.steps + WARM_UP, "learning_rate": LR, "report_to": [],
        "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True, "use_cpu": asked.device == "cpu",
        "dataloader_pin_memory": asked.device == "cuda",
    }  # fmt: skip


def _model(asked: argparse.Namespace) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(asked.folder / "base", dtype=torch.bfloat16)


def _lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules=LINEAR)


def _parameters(asked: argparse.Namespace) -> int:
    """Of the base, in bf16."""
    return sum(path.stat().st_size for path in (asked.folder / "base").glob("*.safetensors")) // 2


# --- in a child: one forward ------------------------------------------------------------------------------------------


def forwards(asked: argparse.Namespace) -> dict[str, dict[str, float]]:
    """CPU seconds of the fastest of many forwards, the four models in turn."""
    import torch
    from lorahub import Hub
    from lorahub.merging.recipe import Ingredient, Recipe
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    beside: Any = get_peft_model(_model(asked), _lora(), autocast_adapter_dtype=False)
    for parameter in beside.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.01)
    beside.save_pretrained(asked.folder / "adapter")
    recipe = Recipe(str(asked.folder / "base"), (Ingredient(str(asked.folder / "adapter")),))
    with Hub(anonymous=True) as hub:
        hub.merge(recipe, asked.folder / "merged")
    merged = AutoModelForCausalLM.from_pretrained(asked.folder / "merged", dtype=torch.bfloat16)
    models = {"base": _model(asked), "merged": merged, "beside": beside, "again": _model(asked)}
    return {f"{rows} × {width}": _fastest(models, rows, width) for rows, width in SHAPES}


def _fastest(models: dict[str, Any], rows: int, width: int) -> dict[str, float]:
    import torch

    ids = torch.arange(rows * width).reshape(rows, width) % 256
    times: dict[str, list[float]] = {name: [] for name in models}
    with torch.no_grad():
        for _ in range(100 if width < 100 else 20):
            for name, model in models.items():
                begun = time.process_time()
                model(input_ids=ids, use_cache=False)
                times[name].append(time.process_time() - begun)
    return {name: min(found) for name, found in times.items()}


CHILDREN: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "make": make,
    "lorahub": lorahub,
    "full": full,
    "trainer": trainer,
    "autocast": autocast,
    "trl": trl,
    "latency": forwards,
}

if __name__ == "__main__":
    main()
