"""Whole runs through the SDK and the command: what they leave behind, and what is left when they are cut short."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lorahub
import peft
import pytest
import torch
import transformers
from lorahub import TrainConfig
from lorahub.adapters.manifest import parse_manifest
from lorahub.errors import (
    AlreadyExists,
    BaseNotFound,
    InvalidConfiguration,
    InvalidTrainingData,
    InvalidUsage,
    LorahubError,
    TrainingDiverged,
    TrainingInterrupted,
)
from lorahub.training.base import find_base
from lorahub.training.checkpoint import read_checkpoint
from lorahub.training.plan import plan
from registry_process import LORAHUB
from safetensors.torch import load_file, save_file
from training.bases import WIDTH, save_base, write_rows

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT asks transformers for what is deprecated there

SMALL: dict[str, Any] = {"rank": 4, "lr": 1e-2, "max_len": 96, "batch_tokens": 192, "base_name": "acme/tiny"}


def bytes_of(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def environment(home: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("LORAHUB_")}
    return {**own, "LORAHUB_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}


def command(home: Path, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    run = subprocess.run(
        [LORAHUB, *map(str, arguments)], capture_output=True, text=True, check=False, env=environment(home), timeout=120
    )
    assert run.returncode == code, run.stdout + run.stderr
    assert "Traceback" not in run.stderr, run.stderr
    return run


FLAGS = ("--rank", 4, "--lr", 1e-2, "--max-len", 96, "--batch-tokens", 192, "--base-name", "acme/tiny")


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(input_ids=torch.arange(60, 90)[None]).logits
    return found


def base_model(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


# --- what a run leaves ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_run_learns_and_leaves_a_whole_adapter(
    kind: str, request: pytest.FixtureRequest, rows: Path, tmp_path: Path
) -> None:
    base: Path = request.getfixturevalue(kind)
    before, seen = bytes_of(base), []
    run = lorahub.train(
        base, rows, TrainConfig(steps=60, eval_split=0.1, **SMALL), output=tmp_path / "out", on_step=seen.append
    )

    losses = [step.loss for step in run.history if step.loss is not None]
    assert losses[-1] < losses[0] / 3
    assert [step.step for step in seen] == list(range(61))
    evaluated = run.manifest["run"]["eval_loss"]
    assert evaluated["last"] < evaluated["untrained"] / 3
    assert bytes_of(base) == before
    assert {path.name for path in run.adapter_dir.iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "curve.svg", "history.jsonl", "lorahub.json",
    }  # fmt: skip
    tensors = load_file(run.adapter_dir / "adapter_model.safetensors")
    assert all("lora_A" in name or "lora_B" in name for name in tensors)
    assert sum(tensor.numel() for tensor in tensors.values()) == run.manifest["run"]["parameters"]
    loaded = peft.PeftModel.from_pretrained(base_model(base), run.adapter_dir)
    assert not torch.allclose(logits(loaded), logits(base_model(base)), atol=0.1)
    merged = logits(loaded.merge_and_unload())
    session = lorahub.Session(base)
    session.load("it", run.adapter_dir)
    session.use("it")
    torch.testing.assert_close(logits(session.model), merged, rtol=1e-4, atol=1e-4)


def test_the_manifest_says_where_it_comes_from(llama: Path, rows: Path, tmp_path: Path) -> None:
    config = TrainConfig(steps=4, **SMALL)
    run = lorahub.train(llama, rows, config, output=tmp_path / "out")
    raw = (run.adapter_dir / "lorahub.json").read_bytes()
    told = run.manifest
    assert parse_manifest(raw).raw == told
    assert told["origin"] == "trained"
    assert told["base"]["name"] == "acme/tiny"
    assert told["base"]["files"] == {"model.safetensors": bytes_of(llama)["model.safetensors"]}
    assert told["base"]["tokenizer"] == bytes_of(llama)["tokenizer.json"]
    assert len(told["base"]["weights"]) == 64
    assert told["data"]["files"] == [
        {
            "name": "rows.jsonl", "rows": 64, "bytes": rows.stat().st_size,
            "sha256": hashlib.sha256(rows.read_bytes()).hexdigest(),
        }
    ]  # fmt: skip
    assert TrainConfig.of(told["run"]["config"]) == config
    assert told["run"]["steps"] == 4
    assert told["run"]["stopped"] == "done"
    assert told["run"]["history"] == bytes_of(run.adapter_dir)["history.jsonl"]
    assert [point[0] for point in told["run"]["curve"]] == [0, 1, 2, 3, 4]
    assert told["code"]["torch"] == torch.__version__
    assert told["hardware"]["dtype"] == "float32"
    assert str(tmp_path) not in raw.decode()
    assert json.loads((run.adapter_dir / "adapter_config.json").read_text())["base_model_name_or_path"] == "acme/tiny"
    assert "base_model: acme/tiny" in (run.adapter_dir / "README.md").read_text()
    assert (run.adapter_dir / "curve.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    "settings",
    [
        {"dora": True}, {"rslora": True}, {"preset": "paper"}, {"grad_ckpt": True}, {"dropout": 0.1, "accum": 2},
        {"pack": "none"}, {"dtype": "bf16"},
    ],
    ids="-".join,
)  # fmt: skip
def test_settings_take_effect_and_still_learn(
    settings: dict[str, Any], llama: Path, rows: Path, tmp_path: Path
) -> None:
    run = lorahub.train(llama, rows, TrainConfig.of({"steps": 12, **SMALL, **settings}), output=tmp_path / "out")
    losses = [step.loss for step in run.history if step.loss is not None]
    assert losses[-1] < losses[0] - 0.3
    config = json.loads((run.adapter_dir / "adapter_config.json").read_text())
    assert config["use_dora"] is bool(settings.get("dora"))
    assert config["use_rslora"] is bool(settings.get("rslora"))
    if "preset" in settings:
        assert config["target_modules"] == ["q_proj", "v_proj"]
    if "dtype" in settings:
        assert run.manifest["adapter"]["dtypes"] == ["BF16"]
    assert run.manifest["run"]["packed"] is ("pack" not in settings)


def test_the_same_run_gives_the_same_bytes(llama: Path, rows: Path, tmp_path: Path) -> None:
    config = TrainConfig(steps=5, dropout=0.1, **SMALL)
    for name in "ab":
        lorahub.train(llama, rows, config, output=tmp_path / name)
    left, right = bytes_of(tmp_path / "a"), bytes_of(tmp_path / "b")
    assert left["adapter_model.safetensors"] == right["adapter_model.safetensors"]
    assert left["adapter_config.json"] == right["adapter_config.json"]


# --- stopping early, going on -----------------------------------------------------------------------------------------


class _Killed(Exception):
    """Stands for the end of the process: nothing of the loop runs after it."""


def killed_at(step: int) -> Any:
    def check(done: Any) -> None:
        if done.step == step:
            raise _Killed

    return check


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_run_that_goes_on_gives_the_same_bits(dtype: Any, llama: Path, rows: Path, tmp_path: Path) -> None:
    config = TrainConfig(steps=20, dropout=0.1, accum=2, save_every=5, eval_every=4, dtype=dtype, **SMALL)
    whole = lorahub.train(llama, rows, config, output=tmp_path / "whole")
    with pytest.raises(_Killed):
        lorahub.train(llama, rows, config, output=tmp_path / "parts", on_step=killed_at(13))
    assert [path.name for path in sorted((tmp_path / "parts" / ".training").iterdir())] == [
        "00000005.safetensors",
        "00000010.safetensors",
    ]
    torch.rand(7)  # another process has other random numbers
    again: list[int] = []
    parts = lorahub.train(
        llama, rows, config, output=tmp_path / "parts", resume="auto", on_step=lambda step: again.append(step.step)
    )
    assert again == list(range(11, 21))
    assert weights(parts.adapter_dir) == weights(whole.adapter_dir)
    told = [[(s.step, s.tokens, s.loss, s.eval_loss, s.grad_norm) for s in run.history] for run in (parts, whole)]
    assert told[0] == told[1]
    assert len(parts.manifest["run"]["resumed_from"]) == 1


def test_a_run_goes_on_only_as_it_began(llama: Path, rows: Path, tmp_path: Path) -> None:
    config = TrainConfig(steps=6, save_every=2, **SMALL)
    out = tmp_path / "out"
    with pytest.raises(_Killed):
        lorahub.train(llama, rows, config, output=out, on_step=killed_at(3))
    with pytest.raises(AlreadyExists, match="a run that didn't end"):
        lorahub.train(llama, rows, config, output=out)
    with pytest.raises(InvalidUsage, match=r"lr 0\.01, this run has 0\.1"):
        lorahub.train(llama, rows, TrainConfig(steps=6, save_every=2, **SMALL | {"lr": 0.1}), output=out, resume="auto")
    other = write_rows(tmp_path / "other.jsonl", [{"text": "abc def"}] * 9)
    with pytest.raises(InvalidUsage, match="made with data"):
        lorahub.train(llama, other, config, output=out, resume="auto")
    with pytest.raises(InvalidUsage, match="is no checkpoint"):
        lorahub.train(llama, rows, config, output=out, resume=str(rows))
    run = lorahub.train(llama, rows, config, output=out, resume="auto")
    for resume in (None, "auto"):
        with pytest.raises(AlreadyExists, match="holds an adapter"):
            lorahub.train(llama, rows, config, output=run.adapter_dir, resume=resume)


def test_a_run_killed_before_its_first_checkpoint_begins_anew(llama: Path, rows: Path, tmp_path: Path) -> None:
    config = TrainConfig(steps=6, save_every=5, **SMALL)
    with pytest.raises(_Killed):
        lorahub.train(llama, rows, config, output=tmp_path / "out", on_step=killed_at(2))
    with pytest.raises(AlreadyExists, match="a run that didn't end"):
        lorahub.train(llama, rows, config, output=tmp_path / "out")
    run = lorahub.train(llama, rows, config, output=tmp_path / "out", resume="auto")
    assert [step.step for step in run.history] == list(range(7))
    assert run.manifest["run"]["resumed_from"] == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(AlreadyExists, match="is not empty"):
        lorahub.train(llama, rows, config, output=tmp_path / "full")


def test_it_stops_when_nothing_gets_better_and_keeps_the_best(llama: Path, rows: Path, tmp_path: Path) -> None:
    held = write_rows(tmp_path / "held", [{"prompt": f"thing {n} is ", "completion": "purple"} for n in range(4)])
    config = TrainConfig(steps=200, patience=2, eval_every=2, eval_split=str(held), **SMALL)
    run = lorahub.train(llama, rows, config, output=tmp_path / "out")
    facts = run.manifest["run"]
    evaluated = {step.step: step.eval_loss for step in run.history if step.eval_loss is not None and step.step}
    best = min(evaluated, key=lambda step: evaluated[step])
    assert facts["stopped"] == "early-stop"
    assert facts["steps"] == best + 4 < 200
    assert facts["eval_loss"]["kept"] == evaluated[best] < facts["eval_loss"]["last"]
    shorter = TrainConfig(steps=200, eval_every=2, save_every=best, eval_split=str(held), **SMALL)
    with pytest.raises(_Killed):
        lorahub.train(llama, rows, shorter, output=tmp_path / "short", on_step=killed_at(best + 1))
    kept = read_checkpoint(tmp_path / "short" / ".training" / f"{best:08d}.safetensors").tensors["0.master"]
    saved = load_file(run.adapter_dir / "adapter_model.safetensors")
    assert sorted(kept.tolist()) == sorted(torch.cat([tensor.flatten() for tensor in saved.values()]).tolist())


def test_a_loss_that_is_no_number_stops_with_its_place(llama: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = TrainConfig(steps=50, save_every=1, eval_split=0.0, warmup=1.0, clip=1e9, **SMALL | {"lr": 2e19})
    with pytest.raises(
        TrainingDiverged, match=r"the (loss|gradient) of step \d+ is not finite: batch \d+, lines \d"
    ) as told:
        lorahub.train(llama, rows, config, output=out)
    facts = told.value.facts
    checkpoint = read_checkpoint(Path(facts["checkpoint"]))
    assert checkpoint.progress.step == facts["step"] - 2, "what gave the loss isn't kept, what stood before is"
    assert [path.name for path in (out / ".training").iterdir()] == [Path(facts["checkpoint"]).name]
    assert all(tensor.isfinite().all() for tensor in checkpoint.tensors.values() if tensor.is_floating_point())
    assert not (out / "lorahub.json").exists()
    assert set(facts["lines"]) <= set(range(1, 65))


def test_a_nan_that_only_some_rows_meet_is_named_with_them(llama: Path, rows: Path, tmp_path: Path) -> None:
    """One in every row of the base is told before the first step (test_bases.py)."""
    broken = shutil.copytree(llama, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.embed_tokens.weight"][ord("g") - 33] = float("nan")  # of "green", in the vocabulary of bytes
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingDiverged, match="of step 1 is not finite: batch 1"):
        lorahub.train(broken, rows, TrainConfig(steps=5, eval_split=0.0, **SMALL), output=tmp_path / "out")
    with pytest.raises(TrainingDiverged, match="the evaluation before the first step is not finite"):
        lorahub.train(broken, rows, TrainConfig(steps=5, eval_split=0.3, **SMALL), output=tmp_path / "held")


def test_ctrl_c_keeps_what_there_is(llama: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    start = [LORAHUB, "train", llama, rows, "-o", out, *FLAGS, "--steps", 3000, "--eval-split", 0, "--progress", "json"]
    with subprocess.Popen(
        [*map(str, start)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(tmp_path)
    ) as process:
        assert process.stderr is not None
        while '"step": 5,' not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(30) == 130
    assert "✗ SIGINT: stopped after step" in said
    assert "Hint: go on with: the same command and --resume auto" in said
    assert "Traceback" not in said
    assert f"adapters that load: {out}/last-" in said
    (kept,) = sorted((out / ".training").iterdir())
    step = read_checkpoint(kept).progress.step
    assert [json.loads(line)["step"] for line in (out / "history.jsonl").read_text().splitlines()][-1] == step
    assert not (out / "adapter_config.json").exists()


def test_sigterm_stops_behind_the_step_and_handlers_are_put_back(llama: Path, rows: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    config = TrainConfig(steps=9, **SMALL)

    def terminate(step: Any) -> None:
        if step.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingInterrupted, match="SIGTERM: stopped after step 3 of 9"):
        lorahub.train(llama, rows, config, output=tmp_path / "out", on_step=terminate)
    assert signal.getsignal(signal.SIGTERM) is before
    run = lorahub.train(llama, rows, config, output=tmp_path / "out", resume="auto")
    assert [step.step for step in run.history] == list(range(10))


def test_kill_9_in_the_middle_of_saving_leaves_a_checkpoint_that_loads(llama: Path, rows: Path, tmp_path: Path) -> None:
    """Every step is saved; killed at eight moments, a run goes on each time from where it was cut off."""
    out = tmp_path / "out"
    killer = [sys.executable, "-m", "training.killer", llama, rows, out, 8]
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [*map(str, killer)], capture_output=True, text=True, check=False, timeout=120,
        env=environment(tmp_path) | {"PYTHONPATH": paths},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    rounds = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(rounds) == 8
    reached = [round_["reached"] for round_ in rounds]
    assert reached == sorted(reached)
    assert reached[-1] > reached[0] >= 1
    assert any(round_["parts"] for round_ in rounds), "no kill hit a save: the test shows nothing"
    assert all(round_["adapters"] for round_ in rounds), "there was no adapter that loads"


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_plan_runs_nothing_and_counts_what_a_run_trains(llama: Path, rows: Path, tmp_path: Path) -> None:
    config = TrainConfig(steps=6, **SMALL)
    made = plan(find_base(str(llama), None, lorahub.Hub), rows, config).as_json()
    run = lorahub.train(llama, rows, config, output=tmp_path / "out")
    assert made["trainable"] == run.manifest["run"]["parameters"]
    assert made["tokens"] == pytest.approx(run.manifest["run"]["tokens"], rel=0.1)
    assert made["steps"] == 6
    assert made["memory"]["moments"] == 8 * made["trainable"]
    assert made["memory"]["activations"] > made["rows"] * made["width"] * WIDTH * 4
    assert made["checkpoint_bytes"] == pytest.approx(
        (run.adapter_dir / "adapter_model.safetensors").stat().st_size, rel=0.2
    )
    human = command(
        tmp_path, "train", llama, rows, "-o", tmp_path / "none", *FLAGS, "--dry-run", "--dtype", "bf16"
    ).stdout
    assert "nothing was run" in human
    assert "masters" in human
    assert not (tmp_path / "none").exists()


def test_settings_come_from_a_file_and_what_is_given_wins(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('preset = "paper"\nrank = 2\nlr = 1\nmax-len = 96\n')
    config = TrainConfig.from_file(file, {"lr": 1e-3})
    assert (config.rank, config.lr, config.max_len, config.targets) == (2, 1e-3, 96, ("q,v",))
    file.write_text("rnak = 2\n")
    with pytest.raises(InvalidConfiguration, match="no setting is called 'rnak'"):
        TrainConfig.from_file(file, {})
    with pytest.raises(InvalidConfiguration, match="can't read"):
        TrainConfig.from_file(tmp_path / "absent.toml", {})


@pytest.mark.parametrize(
    ("base", "data", "settings", "error", "said"),
    [
        ("absent", "rows.jsonl", {}, BaseNotFound, "absent is no folder here"),
        ("llama", "absent.jsonl", {}, InvalidUsage, "can't read absent.jsonl"),
        ("llama", "bad.jsonl", {}, InvalidTrainingData, "1 line of bad.jsonl can't be used\n    line 2: has question"),
        ("llama", "rows.jsonl", {"targets": ("nonsense",)}, InvalidUsage, "PEFT can't put a LoRA there"),
        ("llama", "rows.jsonl", {"device": "nonsense"}, InvalidUsage, "there is no device nonsense"),
        ("llama", "rows.jsonl", {"load_4bit": True}, InvalidConfiguration, "needs bitsandbytes"),
        ("./absent", "rows.jsonl", {}, BaseNotFound, "./absent is no folder here"),
        ("rows.jsonl", "rows.jsonl", {}, BaseNotFound, "rows.jsonl is no folder here"),
        (".", "rows.jsonl", {}, BaseNotFound, "can't be loaded"),
    ],
)
def test_mistakes_have_one_clear_message(
    base: str, data: str, settings: dict[str, Any], error: type[LorahubError], said: str,
    llama: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama").symlink_to(llama)
    shutil.copy(rows, tmp_path / "rows.jsonl")
    write_rows(tmp_path / "bad.jsonl", [{"text": "a"}, {"question": "b"}])
    with pytest.raises(error) as refused:
        lorahub.train(base, data, TrainConfig(**settings))
    assert said in refused.value.message
    assert refused.value.hint
    assert not (tmp_path / "adapter").exists()


def test_without_torch_it_says_what_to_install(rows: Path, tmp_path: Path) -> None:
    program = "import sys; sys.modules['torch'] = None; from lorahub.cli.main import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", program, "train", "base", str(rows)],
        capture_output=True, text=True, check=False, env=environment(tmp_path),
    )  # fmt: skip
    assert run.returncode == 2
    assert "torch is not installed" in run.stderr
    assert "pip install 'lorahub-registry[train]'" in run.stderr


def test_torch_stays_away_from_who_does_not_train(tmp_path: Path) -> None:
    program = (
        "import sys, lorahub, lorahub.cli.main, lorahub.cli.train, lorahub.training.config, lorahub.training.data\n"
        "lorahub.TrainConfig\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'peft')))"
    )
    assert subprocess.run([sys.executable, "-c", program], env=environment(tmp_path), check=False).returncode == 0


def test_a_base_in_16_bits_gives_an_adapter_in_16_bits(rows: Path, tmp_path: Path) -> None:
    base = save_base("llama", tmp_path / "base", dtype=torch.bfloat16)
    run = lorahub.train(base, rows, TrainConfig(steps=8, dtype="bf16", **SMALL), output=tmp_path / "out")
    assert run.manifest["hardware"]["dtype"] == "bfloat16"
    assert run.manifest["run"]["lean_loss"]
    assert {tensor.dtype for tensor in load_file(run.adapter_dir / "adapter_model.safetensors").values()} == {
        torch.bfloat16
    }
