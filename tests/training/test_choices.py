"""Schedules, targets by pattern, noise on embeddings, and settings in YAML."""

import json
from pathlib import Path
from typing import Any

import lorahub
import pytest
import torch
import transformers
from lorahub import TrainConfig
from lorahub.errors import InvalidConfiguration, TrainingInterrupted
from lorahub.training.optimizer import schedule
from training.conftest import Said
from training.test_stopped import loaded, loss_on, stopped_by

pytestmark = pytest.mark.filterwarnings("ignore")

SMALL: dict[str, Any] = {
    "rank": 4, "lr": 1e-2, "max_len": 96, "batch_tokens": 192, "base_name": "acme/tiny", "eval_split": 0.2,
}  # fmt: skip
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("linear", {}),
    "cosine": ("cosine", {}),
    "constant": ("constant", {}),
    "wsd": ("warmup_stable_decay", {"decay_type": "linear", "num_decay_steps": 8}),
}


@pytest.mark.parametrize("name", THEIRS)
def test_a_schedule_is_that_of_transformers(name: str) -> None:
    kind, more = THEIRS[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = transformers.get_scheduler(
        kind, optimizer, num_warmup_steps=0, num_training_steps=40, scheduler_specific_kwargs=more
    )
    for step in range(40):
        assert schedule(step, 40, 0.0, name) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9), step  # type: ignore[arg-type]
        optimizer.step()
        theirs.step()
    rising = [schedule(step, 40, 0.1, name) for step in range(5)]  # type: ignore[arg-type]
    assert rising == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_settings_in_yaml_are_those_in_toml(llama: Path, rows: Path, tmp_path: Path, lorahub_command: Any) -> None:
    (tmp_path / "run.yaml").write_text("lr: 1e-3\nmax-len: 96\ntargets: [q_proj, v_proj]\nschedule: cosine\nsteps: 2\n")
    (tmp_path / "run.toml").write_text(
        'lr = 1e-3\nmax-len = 96\ntargets = ["q_proj", "v_proj"]\nschedule = "cosine"\nsteps = 2\n'
    )
    read = [TrainConfig.from_file(tmp_path / name, {"steps": 3}) for name in ("run.yaml", "run.toml")]
    assert read[0] == read[1] == TrainConfig(
        lr=1e-3, max_len=96, targets=("q_proj", "v_proj"), schedule="cosine", steps=3
    )  # fmt: skip
    said: Said = lorahub_command(
        "--json", "train", llama, rows, "-o", tmp_path / "out", "--config", tmp_path / "run.yaml", "--progress", "none"
    )
    assert json.loads(said.out)["result"]["run"]["config"]["schedule"] == "cosine"
    (tmp_path / "empty.yml").write_text("")
    assert TrainConfig.from_file(tmp_path / "empty.yml", {}) == TrainConfig()
    for content, message in (("- a\n", "no list of settings"), ("a: [", "can't read"), ("lr: x\n", "lr is 'x'")):
        (tmp_path / "bad.yaml").write_text(content)
        with pytest.raises(InvalidConfiguration, match=message):
            TrainConfig.from_file(tmp_path / "bad.yaml", {})


def test_targets_may_be_a_pattern(llama: Path, rows: Path, tmp_path: Path, lorahub_command: Any) -> None:
    pattern = r"re:.*layers\.(1|2,3)\..*(q|v)_proj"
    out = tmp_path / "out"
    said: Said = lorahub_command(
        "train", llama, rows, "-o", out, "--targets", pattern, "--steps", 1, "--max-len", 96, "--progress", "none"
    )
    assert said.code == 0, said.err
    names = json.loads((out / "lorahub.json").read_bytes())["adapter"]
    assert names["modules"] == 2, names
    (checked,) = lorahub.check(str(out), str(llama))
    assert (checked.verdict.value, checked.report.matched) == ("fits", 2)


def test_noise_is_for_training_alone_and_goes_on_bit_for_bit(llama: Path, rows: Path, tmp_path: Path) -> None:
    config = TrainConfig(**SMALL, steps=8, neftune=20.0, save_every=3)
    whole = lorahub.train(llama, rows, config, output=tmp_path / "whole")
    plain = lorahub.train(llama, rows, TrainConfig(**SMALL, steps=8), output=tmp_path / "plain")
    assert whole.history[0].eval_loss == plain.history[0].eval_loss
    assert whole.history[1].loss != plain.history[1].loss
    with pytest.raises(TrainingInterrupted):
        lorahub.train(llama, rows, config, output=tmp_path / "parts", on_step=stopped_by(15, 4))
    parts = lorahub.train(llama, rows, config, output=tmp_path / "parts", resume="auto")
    left, right = ((run.adapter_dir / "adapter_model.safetensors").read_bytes() for run in (whole, parts))
    assert left == right
    assert loss_on(loaded(llama, whole.adapter_dir), llama, rows, config) == pytest.approx(
        whole.history[-1].eval_loss, rel=1e-3
    )
