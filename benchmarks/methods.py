"""Every method on one toy task: a model of 0.1 million parameters that knows some facts learns 64 others.

    .venv/bin/python benchmarks/methods.py

Writes the table in docs/methods.md and docs/pictures/methods.svg. Says what a method can do at all and what it costs;
nothing of which is better: the model is a toy, the learning rates are a guess, there is one seed.
"""

import json
import logging
import math
import os
import random
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import lorahub
import torch
import transformers
from lorahub import TrainConfig
from lorahub.training.devices import cpu_name
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn import functional

DOCS = Path(__file__).parent.parent / "docs"
TABLE, PICTURE = DOCS / "methods.md", DOCS / "pictures" / "methods.svg"
BEGIN, END = "<!-- benchmarks/methods.py writes from here -->", "<!-- to here -->"

STEPS, FACTS, KNOWN = 300, 64, 256
CITIES = "Accra Bergen Cusco Dakar Essen Fukui Genoa Hanoi Izmir Jaipur Kyoto Lagos Malmo Nantes Osaka Perth".split()

METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full", "lr": 2e-3},
    "full, LoRA r=16 extracted": {"method": "full", "extract_lora": 16, "lr": 2e-3},
    "lora, all, r=4": {"rank": 4, "lr": 1e-2},
    "lora, all, r=4, rsLoRA": {"rank": 4, "rslora": True, "lr": 1e-2},
    "lora, all, r=4, DoRA": {"rank": 4, "dora": True, "lr": 1e-2},
    "lora, all, r=4, PiSSA": {"rank": 4, "init": "pissa", "lr": 1e-2},
    "lora, all, r=4, LoRA+": {"rank": 4, "lora_plus": 4.0, "lr": 5e-3},
    "lora, attention, r=4": {"rank": 4, "targets": ("c_attn",), "lr": 1e-2},
    "bottleneck, Houlsby, r=8": {"method": "bottleneck", "rank": 8, "lr": 2e-2},
    "bottleneck, Pfeiffer, r=8": {"method": "bottleneck", "bottleneck": "pfeiffer", "rank": 8, "lr": 2e-2},
    "prefix, 16 tokens": {"method": "prefix", "virtual_tokens": 16, "lr": 3e-1},
    "prompt, 16 tokens": {"method": "prompt", "virtual_tokens": 16, "lr": 3e-1},
    "bitfit": {"method": "bitfit", "lr": 3e-2},
    "ia3": {"method": "ia3", "lr": 5e-2},
}

Fact = dict[str, str]


@dataclass(frozen=True)
class Result:
    method: str
    lr: float | None
    trainable: int
    bytes: int
    """Of the weights on disk."""
    seconds: float
    loss: float
    exact: float
    """The share of facts whose city is the likeliest answer, letter by letter."""


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        known, new = facts(random.Random(0))
        base = make_base(folder / "base", write(folder / "known.jsonl", known))
        rows = write(folder / "new.jsonl", new)
        model = lorahub.Session(base).model
        results = [Result("the base, untrained", None, 0, 0, 0.0, *measured(model, new))]
        show(results[0])
        for name, settings in METHODS.items():
            results.append(one(name, settings, base, rows, new, folder))
            show(results[-1])
    size = sum(parameter.numel() for parameter in model.parameters())
    publish(results, size)


def facts(dice: random.Random) -> tuple[list[Fact], list[Fact]]:
    """Those that the base learns, and others of as many letters."""
    names: dict[str, None] = {}
    while len(names) < KNOWN + FACTS:
        names["".join(dice.choice(letters) for letters in ("bdfgklmnprst", "aeiou", "bdfgklmnprst", "aeiou"))] = None
    every = [{"prompt": f"{name} lives in ", "completion": dice.choice(CITIES)} for name in names]
    return every[:KNOWN], every[KNOWN:]


def write(path: Path, rows: Sequence[Fact]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_base(folder: Path, rows: Path) -> Path:
    """A GPT-2, for it has biases; taught by full fine-tuning."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokens.add_special_tokens(["<end>"])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="<end>", pad_token="<end>")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=4, n_positions=64, bos_token_id=256, eos_token_id=256,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    untaught = folder.with_name("untaught")
    transformers.GPT2LMHeadModel(config).save_pretrained(untaught)
    tokenizer.save_pretrained(untaught)
    config_ = TrainConfig(method="full", lr=2e-3, steps=300, batch_tokens=512, max_len=48, eval_split=0.0)
    return lorahub.train(untaught, rows, config_, output=folder).adapter_dir


def one(name: str, settings: dict[str, Any], base: Path, rows: Path, new: Sequence[Fact], folder: Path) -> Result:
    config = TrainConfig(steps=STEPS, batch_tokens=512, max_len=48, eval_split=0.0, base_name="toy/base", **settings)
    run = lorahub.train(base, rows, config, output=folder / name)
    is_model = run.manifest["adapter"] is None
    session = lorahub.Session(run.adapter_dir if is_model else base)
    if not is_model:
        session.load(name, run.adapter_dir)
        session.use(name)
    size = sum(path.stat().st_size for path in run.adapter_dir.glob("*.safetensors"))
    told = run.manifest["run"]
    return Result(name, config.lr, told["parameters"], size, told["seconds"], *measured(session.model, new))


def measured(model: Any, new: Sequence[Fact]) -> tuple[float, float]:
    """Nats a letter of the cities, and how many are right in every letter."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model.name_or_path)
    lost, letters, right = 0.0, 0, 0
    for fact in new:
        prompt, answer = (tokenizer.encode(fact[key], add_special_tokens=False) for key in ("prompt", "completion"))
        with torch.inference_mode():
            said = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        wanted = torch.tensor(answer)
        lost += float(functional.cross_entropy(said, wanted, reduction="sum"))
        letters += len(answer)
        right += bool((said.argmax(-1) == wanted).all())
    return lost / letters, right / len(new)


# --- what is shown ----------------------------------------------------------------------------------------------------


def show(one: Result) -> None:
    print(f"{one.method:28} {one.trainable:>9,} parameters  loss {one.loss:.3f}  exact {one.exact:.2f}", flush=True)


def publish(results: Sequence[Result], size: int) -> None:
    head = (
        f"GPT-2 shape of {size:,} parameters, made on the spot; {FACTS} new facts, {STEPS} steps, one seed; "
        f"{cpu_name()}, one thread, float32, torch {torch.__version__}.\n\n"
        "| method | learning rate | trained | on disk | seconds | loss | exact |\n"
        f"|{' --- |' * 7}\n"
    )
    lines = [
        f"| {one.method} | {one.lr or ''} | {one.trainable or '':{',' if one.trainable else ''}} "
        f"| {f'{one.bytes / 1000:,.0f} kB' if one.bytes else ''} | {f'{one.seconds:.1f}' if one.seconds else ''} "
        f"| {one.loss:.2f} | {one.exact:.2f} |\n"
        for one in results
    ]
    before, _, rest = TABLE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    TABLE.write_text(f"{before}{BEGIN}\n\n{head}{''.join(lines)}\n{END}{after}")
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture(results[1:], results[0].loss))


def picture(results: Sequence[Result], untrained: float) -> str:
    """Loss over trained parameters, the latter in powers of ten."""
    width, height, left, top, bottom = 760, 440, 60, 70, 50
    low, high = (math.log10(edge(one.trainable for one in results)) for edge in (min, max))
    least = int(low)
    most = math.ceil(high)

    ceiling = max(untrained, *(one.loss for one in results))

    def x(parameters: float) -> float:
        return left + (math.log10(parameters) - least) / (most - least) * (width - left - 190)

    def y(loss: float) -> float:
        return height - bottom - loss / ceiling * (height - top - bottom)

    def text(across: float, up: float, words: str, anchor: str = "start") -> str:
        return f'<text x="{across:.1f}" y="{up:.1f}" text-anchor="{anchor}">{words}</text>'

    def rule(up: float, colour: str) -> str:
        return f'<line x1="{left}" y1="{up:.1f}" x2="{width - 20}" y2="{up:.1f}" stroke="{colour}"/>'

    title = f"Toy: {FACTS} new facts, {STEPS} steps, CPU, learning rates not tuned, one seed. No ranking of methods."
    quarters = [ceiling * step / 4 for step in range(5)]
    marks = [
        text(left, 18, title),
        rule(y(untrained), "#ced4da"),
        text(width - 20, y(untrained) + 14, "untrained", "end"),
        rule(y(0), "#495057"),
        *(text(x(10**power), height - 28, f"{10**power:,}", "middle") for power in range(least, most + 1)),
        *(text(left - 8, y(loss) + 4, f"{loss:.2f}", "end") for loss in quarters),
        text(width - 20, height - 10, "trained parameters", "end"),
        text(8, top - 16, "loss"),
    ]
    placed: list[tuple[float, float]] = []
    for one in sorted(results, key=lambda one: one.loss):
        across, up = x(one.trainable), y(one.loss)
        level = up + 4
        while any(abs(level - other) < 13 and abs(across - where) < 180 for where, other in placed):
            level -= 13
        placed.append((across, level))
        marks += [
            f'<circle cx="{across:.1f}" cy="{up:.1f}" r="4" fill="#1c7ed6"/>',
            f'<line x1="{across:.1f}" y1="{up:.1f}" x2="{across + 8:.1f}" y2="{level - 4:.1f}" stroke="#74c0fc"/>',
            text(across + 10, level, one.method),
        ]
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="system-ui, sans-serif" font-size="11" fill="#495057">'
    )
    return "\n".join(
        [
            opening,
            "<title>Loss after training and trained parameters, by method, on a toy task</title>",
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            *marks,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    main()
