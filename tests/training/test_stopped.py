"""What a run that is cut short leaves: the exact state, and beside it adapters that load, the best and the last."""

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lorahub
import peft
import pytest
import torch
import transformers
from lorahub import TrainConfig
from lorahub.adapters.manifest import parse_manifest
from lorahub.errors import InvalidUsage, LimitExceeded, TrainingDiverged, TrainingInterrupted
from lorahub.training.checkpoint import read_checkpoint
from lorahub.training.dataset import prepare
from lorahub.training.loss import Loss
from lorahub.training.models import load_tokenizer
from lorahub.training.run import both_sides
from registry_process import LORAHUB, Registry
from services.postgres import OWN_MOUNTS, has_small_disks
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT asks transformers for what is deprecated there

SMALL: dict[str, Any] = {
    "rank": 4, "lr": 1e-2, "max_len": 96, "batch_tokens": 192, "base_name": "acme/tiny", "eval_split": 0.2,
}  # fmt: skip
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("llama", {}),
    "pissa": ("llama", {"init": "pissa"}),
    "prefix": ("llama", {"method": "prefix", "lr": 0.3}),
    "prompt": ("gpt2", {"method": "prompt", "lr": 0.1}),
    "bottleneck": ("llama", {"method": "bottleneck"}),
    "bitfit": ("gpt2", {"method": "bitfit"}),
    "ia3": ("llama", {"method": "ia3", "lr": 0.3}),
    "full": ("llama", {"method": "full"}),
}


def stopped_by(number: signal.Signals, step: int) -> Callable[[Any], None]:
    """A signal of the system to this process, as a scheduler or a terminal sends it."""

    def send(done: Any) -> None:
        if done.step == step:
            os.kill(os.getpid(), number)

    return send


def loss_on(model: nn.Module, base: Path, rows: Path, config: TrainConfig) -> float:
    """Of the rows held out, in nats a token, by the model's own loss."""
    _, batches = both_sides(prepare(rows, load_tokenizer(base), config), config, is_packed=False)
    assert batches is not None
    loss = Loss(model.eval(), is_lean=False)
    with torch.no_grad():
        found = [(float(loss(batch)), batch.supervised) for batch in batches]
    return sum(total for total, _ in found) / sum(count for _, count in found)


def base_model(base: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(base)


def loaded(base: Path, adapter: Path) -> Any:
    """As a user would: with PEFT what is PEFT's, a model as a model, the rest in a session."""
    if not (adapter / "adapter_config.json").is_file():
        return base_model(adapter)
    if json.loads((adapter / "adapter_config.json").read_bytes())["peft_type"] in peft.PeftType.__members__:
        return peft.PeftModel.from_pretrained(base_model(base), adapter)
    session = lorahub.Session(base)
    session.load("it", adapter)
    session.use("it")
    return session.model


def require_whole(adapter: Path) -> dict[str, Any]:
    """What lorahub.json says, after its digests were compared with the files."""
    told = parse_manifest((adapter / "lorahub.json").read_bytes()).raw
    for file in told["files"]:
        assert hashlib.sha256((adapter / file["path"]).read_bytes()).hexdigest() == file["sha256"]
    return told


@pytest.mark.parametrize(
    ("method", "number"),
    [("lora", signal.SIGINT), *((method, signal.SIGTERM) for method in METHODS)],
    ids=lambda value: str(getattr(value, "name", value)),
)
def test_what_a_signal_leaves_loads_and_is_what_was_trained(
    method: str, number: signal.Signals, request: pytest.FixtureRequest, rows: Path, tmp_path: Path
) -> None:
    kind, settings = METHODS[method]
    base: Path = request.getfixturevalue(kind)
    config = TrainConfig(**{**SMALL, **settings, "steps": 12, "eval_every": 1, "save_every": 5})
    seen: list[Any] = []
    stop = stopped_by(number, 7)
    with pytest.raises(TrainingInterrupted) as stopped:
        lorahub.train(base, rows, config, output=tmp_path / "out", on_step=lambda step: (seen.append(step), stop(step)))
    losses = {step.step: step.eval_loss for step in seen}
    best = min((step for step in losses if step), key=lambda step: losses[step])
    left = {role: Path(path) for role, path in stopped.value.facts["adapters"].items()}
    assert left == {"last": tmp_path / "out" / "last-00000007", "best": tmp_path / "out" / f"best-{best:08d}"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        ".training", "history.jsonl", "last-00000007", f"best-{best:08d}",
    }  # fmt: skip
    assert f"adapters that load: {left['last']} (the last), {left['best']} (the best)" in (stopped.value.hint or "")
    for role, step in (("last", 7), ("best", best)):
        told = require_whole(left[role])
        assert (told["run"]["steps"], told["run"]["stopped"]) == (step, "unfinished")
        assert told["run"]["eval_loss"]["kept"] == losses[step]
        assert loss_on(loaded(base, left[role]), base, rows, config) == pytest.approx(losses[step], rel=1e-3)


def test_it_goes_on_bit_for_bit_and_leaves_one_adapter(llama: Path, rows: Path, tmp_path: Path) -> None:
    config = TrainConfig(steps=12, eval_every=2, save_every=3, dropout=0.1, **SMALL)
    whole = lorahub.train(llama, rows, config, output=tmp_path / "whole")
    for step in (4, 8):
        with pytest.raises(TrainingInterrupted):
            lorahub.train(
                llama, rows, config, output=tmp_path / "parts", resume="auto",
                on_step=stopped_by(signal.SIGTERM, step),
            )  # fmt: skip
        assert {path.name for path in (tmp_path / "parts").glob("last-*")} == {f"last-{step:08d}"}
        assert len(list((tmp_path / "parts").glob("best-*"))) == 1
    parts = lorahub.train(llama, rows, config, output=tmp_path / "parts", resume="auto")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (parts.adapter_dir / name).read_bytes() == (whole.adapter_dir / name).read_bytes()
    assert {path.name for path in parts.adapter_dir.iterdir()} == {path.name for path in whole.adapter_dir.iterdir()}


def test_an_adapter_of_a_run_that_stopped_is_pushed_and_the_run_is_not(
    llama: Path, rows: Path, tmp_path: Path, registry: Registry
) -> None:
    config, out = TrainConfig(steps=9, eval_every=2, **SMALL), tmp_path / "out"
    with pytest.raises(TrainingInterrupted):
        lorahub.train(llama, rows, config, output=out, on_step=stopped_by(signal.SIGTERM, 4))
    name = f"stopped-{os.getpid()}"
    with lorahub.Hub(registry.url, token=registry.add_user(name)) as hub:
        with pytest.raises(InvalidUsage, match="holds a run that didn't end") as refused:
            hub.push(out, f"{name}/run")
        assert "or push best-00000004, last-00000004" in (refused.value.hint or "")
        pushed = hub.push(out / "last-00000004", f"{name}/last")
        pulled = hub.pull(f"{pushed.repository}@{pushed.version}", tmp_path / "pulled").path
    assert require_whole(pulled)["run"]["stopped"] == "unfinished"
    assert loss_on(loaded(llama, pulled), llama, rows, config) < loss_on(base_model(llama), llama, rows, config)


def test_a_memory_that_is_too_small_tells_what_loads(llama: Path, rows: Path, tmp_path: Path) -> None:
    def fill(step: Any) -> None:
        if step.step == 5:
            torch.empty(1 << 60, dtype=torch.uint8)  # what torch raises where there is no room for a batch

    config = TrainConfig(steps=9, save_every=2, **SMALL)
    with pytest.raises(LimitExceeded, match="the memory is too small") as stopped:
        lorahub.train(llama, rows, config, output=tmp_path / "out", on_step=fill)
    assert f"adapters that load: {tmp_path / 'out' / 'last-00000004'} (the last)" in (stopped.value.hint or "")


def test_an_older_checkpoint_is_gone_on_from_with_its_own_adapters(llama: Path, rows: Path, tmp_path: Path) -> None:
    config, out = TrainConfig(steps=12, save_every=2, **{**SMALL, "eval_split": 0.0}), tmp_path / "out"
    with pytest.raises(TrainingInterrupted):
        lorahub.train(llama, rows, config, output=out, on_step=stopped_by(signal.SIGTERM, 7))
    older = out / ".training" / "00000006.safetensors"
    with pytest.raises(TrainingInterrupted):
        lorahub.train(
            llama, rows, config, output=out, resume=str(older), on_step=stopped_by(signal.SIGTERM, 7)
        )  # fmt: skip
    assert [path.name for path in out.glob("last-*")] == ["last-00000007"]
    assert not list(out.glob("best-*")), "nothing was evaluated"


def test_a_loss_that_is_no_number_leaves_the_last_good_adapter(llama: Path, rows: Path, tmp_path: Path) -> None:
    config = TrainConfig(steps=50, save_every=1, warmup=1.0, clip=1e9, **{**SMALL, "lr": 2e19, "eval_split": 0.0})
    with pytest.raises(TrainingDiverged) as told:
        lorahub.train(llama, rows, config, output=tmp_path / "out")
    facts = told.value.facts
    good = read_checkpoint(Path(facts["checkpoint"]))
    last = Path(facts["adapters"]["last"])
    assert last.name == f"last-{good.progress.step:08d}"
    assert list((tmp_path / "out").glob("last-*")) == [last]
    require_whole(last)
    tensors = peft.utils.load_peft_weights(str(last), device="cpu")
    assert sorted(torch.cat([tensor.flatten() for tensor in tensors.values()]).tolist()) == sorted(
        good.tensors["0.master"].tolist()
    )


def test_a_lora_that_is_extracted_is_made_where_the_run_stops(llama: Path, rows: Path, tmp_path: Path) -> None:
    """At each checkpoint it would take longer than the steps between them."""
    config = TrainConfig(method="full", extract_lora=64, steps=9, save_every=2, eval_every=1, **SMALL)
    out, seen = tmp_path / "out", []

    def watch(step: Any) -> None:
        seen.append([path.name for path in out.glob("*-*")])
        stopped_by(signal.SIGTERM, 5)(step)

    with pytest.raises(TrainingInterrupted) as stopped:
        lorahub.train(llama, rows, config, output=out, on_step=watch)
    assert not any(seen)
    (last,) = map(Path, stopped.value.facts["adapters"].values())
    history = [json.loads(line) for line in (last / "history.jsonl").read_text().splitlines()]
    assert loss_on(loaded(llama, last), llama, rows, config) == pytest.approx(history[-1]["eval_loss"], rel=1e-3)


# --- the command ------------------------------------------------------------------------------------------------------

FLAGS = ("--rank", 4, "--max-len", 96, "--batch-tokens", 192, "--base-name", "acme/tiny", "--progress", "none")


def environment(home: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("LORAHUB_")}
    return {**own, "LORAHUB_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}


def shell(home: Path, script: str, *arguments: object, around: tuple[str, ...] = ("bash", "-c")) -> Any:
    return subprocess.run(
        [*around, script, "sh", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=240, env=environment(home),
    )  # fmt: skip


@pytest.mark.parametrize("blocks", [0, 4, 60], ids=lambda blocks: f"{blocks}k")
def test_a_disk_that_fills_is_one_sentence_and_the_run_goes_on(
    blocks: int, llama: Path, rows: Path, tmp_path: Path
) -> None:
    """A limit on the size of files stands for the disk: it refuses the history, a checkpoint, or an adapter."""
    out = tmp_path / "out"
    train = (LORAHUB, "--json", "train", llama, rows, "-o", out, *FLAGS, "--steps", 8, "--save-every", 2)
    # standard output is a pipe, which the limit leaves alone
    said = shell(tmp_path, f'ulimit -f {blocks}; exec "$@"', *train)
    assert said.returncode == 8, said.stdout + said.stderr
    error = json.loads(said.stdout)["error"]
    assert error["code"] == "DiskFull"
    assert error["message"] == f"the disk of {out} is full: File too large"
    assert error["hint"].startswith("free space, then go on with: the same command and --resume auto")
    assert "Traceback" not in said.stderr
    assert "this is a bug" not in said.stderr
    left = [path for path in out.rglob("*") if path.name.endswith(".part")]
    assert not left, "half a file takes the room that is missing"
    for path in error["facts"]["adapters"].values():
        require_whole(Path(path))
    again = shell(tmp_path, 'exec "$@"', *train, "--resume", "auto")
    assert again.returncode == 0, again.stdout + again.stderr
    assert (out / "adapter_model.safetensors").is_file()


@pytest.mark.skipif(not has_small_disks(), reason="this system lets nobody mount a small disk")
@pytest.mark.parametrize("method", ["lora", "bottleneck", "full"])
def test_a_real_disk_that_fills_keeps_what_loads(method: str, llama: Path, rows: Path, tmp_path: Path) -> None:
    """It has room for two adapters and two checkpoints; the third one, which there is for a moment, fills it."""
    copy = tmp_path / "copy"
    size = {"lora": 4750, "bottleneck": 1470, "full": 3850}[method]
    script = f'mount -t tmpfs -o size={size}k small /mnt && shift && "$@"; code=$?; cp -a /mnt/out "$COPY"; exit $code'
    train = (LORAHUB, "train", llama, rows, "-o", "/mnt/out", *FLAGS, "--method", method)
    train += ("--rank", 64, "--steps", 8, "--save-every", 1, "--eval-every", 1)
    around = (*OWN_MOUNTS[:-2], "env", f"COPY={copy}", "sh", "-c")
    said = shell(tmp_path, script, "sh", *train, around=around)
    assert said.returncode == 8, said.stdout + said.stderr
    assert "✗ the disk of /mnt/out is full: No space left on device" in said.stderr
    assert said.stderr.count("✗") == 1
    assert "Traceback" not in said.stderr
    (last,) = copy.glob("last-*")
    require_whole(last)
    logits = loaded(llama, last)(input_ids=torch.arange(60, 90)[None]).logits
    assert logits.isfinite().all()
    newest = max((copy / ".training").glob("0*.safetensors"))
    assert read_checkpoint(newest).progress.step == int(last.name.removeprefix("last-")) == 2
