"""A run that goes on with other settings, and one that goes on with an adapter that is there already."""

import json
import os
from pathlib import Path
from typing import Any

import lorahub
import pytest
from lorahub import TrainConfig
from lorahub.errors import AdapterDoesNotFit, EntryNotFound, InvalidUsage, TrainingInterrupted
from registry_process import Registry
from training.bases import save_base
from training.test_stopped import base_model, loaded, loss_on, stopped_by

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT asks transformers for what is deprecated there

SMALL: dict[str, Any] = {
    "rank": 4, "lr": 1e-2, "max_len": 96, "batch_tokens": 192, "base_name": "acme/tiny", "eval_split": 0.2,
}  # fmt: skip


def stopped(base: Path, rows: Path, out: Path, step: int, **settings: Any) -> None:
    config = TrainConfig(**{**SMALL, **settings})
    with pytest.raises(TrainingInterrupted):
        lorahub.train(base, rows, config, output=out, on_step=stopped_by(15, step))


def test_steps_evaluations_and_checkpoints_may_change(llama: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stopped(llama, rows, out, 4, steps=8, eval_every=2, save_every=3)
    notes: list[str] = []
    longer = TrainConfig(**SMALL, steps=12, eval_every=1, save_every=5)
    run = lorahub.train(llama, rows, longer, output=out, resume="auto", on_note=notes.append)
    assert "the run was to have 8 steps and has 12 now: from step 5 on the learning rate is that of 12" in notes
    assert [step.step for step in run.history] == list(range(13))
    assert [step.eval_loss is not None for step in run.history[5:]] == [True] * 8
    whole = lorahub.train(llama, rows, longer, output=tmp_path / "whole")
    assert [step.lr for step in run.history[5:]] == [step.lr for step in whole.history[5:]]
    assert run.manifest["run"]["config"]["steps"] == 12  # type: ignore[index]


def test_a_run_may_be_told_to_stop_early_when_it_goes_on(llama: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stopped(llama, rows, out, 4, steps=40, eval_every=1)
    patient = TrainConfig(**{**SMALL, "lr": 1e-2, "steps": 40, "eval_every": 1, "patience": 1, "min_delta": 9.0})
    run = lorahub.train(llama, rows, patient, output=out, resume="auto")
    assert run.manifest["run"]["stopped"] == "early-stop"  # type: ignore[index]
    assert run.manifest["run"]["steps"] == 5 + 1  # type: ignore[index]


def test_a_run_that_is_over_before_it_goes_on_is_told(llama: Path, rows: Path, tmp_path: Path) -> None:
    stopped(llama, rows, tmp_path / "out", 4, steps=8)
    with pytest.raises(InvalidUsage, match="is after step 4, and the run is to have 3") as refused:
        lorahub.train(llama, rows, TrainConfig(**SMALL, steps=3), output=tmp_path / "out", resume="auto")
    assert refused.value.hint == "ask for more --steps or --epochs"


FIRST: dict[str, dict[str, Any]] = {
    "lora": {},
    "rsLoRA of few modules": {"rslora": True, "targets": ("q_proj", "v_proj"), "alpha": 3},
    "DoRA": {"dora": True},
    "PiSSA": {"init": "pissa"},
    "ia3": {"method": "ia3", "lr": 0.1},
    "prompt": {"method": "prompt", "lr": 0.1, "virtual_tokens": 5},
    "prefix": {"method": "prefix", "lr": 0.1, "virtual_tokens": 5},
}


@pytest.mark.parametrize("case", FIRST)
def test_an_adapter_is_gone_on_with(case: str, llama: Path, rows: Path, tmp_path: Path) -> None:
    config = TrainConfig(**{**SMALL, "steps": 4, **FIRST[case]})
    first = lorahub.train(llama, rows, config, output=tmp_path / "first")
    second = lorahub.train(
        llama, rows, TrainConfig(**{**SMALL, "rank": 16, "lr": config.lr, "steps": 8}, start=str(first.adapter_dir)),
        output=tmp_path / "second",
    )  # fmt: skip
    begun, ended = second.history[0].eval_loss, second.manifest["run"]["eval_loss"]["kept"]  # type: ignore[index]
    assert begun == pytest.approx(first.manifest["run"]["eval_loss"]["kept"], rel=1e-4)  # type: ignore[index]
    assert begun is not None
    assert ended < begun
    assert loss_on(loaded(llama, second.adapter_dir), llama, rows, config) == pytest.approx(ended, rel=1e-3)
    kinds = [json.loads((run.adapter_dir / "adapter_config.json").read_bytes()) for run in (first, second)]
    for key in ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "target_modules", "num_virtual_tokens"):
        assert kinds[0].get(key) == kinds[1].get(key), key
    (weights,) = (f["sha256"] for f in first.manifest["files"] if f["path"] == "adapter_model.safetensors")  # type: ignore[attr-defined]
    assert second.manifest["parents"] == [f"sha256:{weights}"]
    assert str(tmp_path) not in json.dumps(second.manifest)


def test_an_adapter_that_cannot_be_gone_on_with_is_told(llama: Path, gpt2: Path, rows: Path, tmp_path: Path) -> None:
    def begin(base: Path, start: Path, name: str = "out") -> lorahub.Run:
        return lorahub.train(base, rows, TrainConfig(**SMALL, steps=2, start=str(start)), output=tmp_path / name)

    first = lorahub.train(llama, rows, TrainConfig(**SMALL, steps=2), output=tmp_path / "first").adapter_dir
    with pytest.raises(AdapterDoesNotFit):
        begin(gpt2, first)
    wider = save_base("llama", tmp_path / "wider", intermediate_size=80)
    with pytest.raises(AdapterDoesNotFit):
        begin(wider, first)
    with pytest.raises(EntryNotFound, match="there is no"):
        begin(llama, tmp_path / "absent")
    own = TrainConfig(**SMALL, steps=2, method="bottleneck")
    with pytest.raises(InvalidUsage, match="is no adapter that PEFT reads"):
        begin(llama, lorahub.train(llama, rows, own, output=tmp_path / "own").adapter_dir)
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_the_registry_is_remembered_by_its_name(
    llama: Path, rows: Path, tmp_path: Path, registry: Registry
) -> None:
    name = f"going-on-{os.getpid()}"
    token = registry.add_user(name)
    first = lorahub.train(llama, rows, TrainConfig(**SMALL, steps=2), output=tmp_path / "first").adapter_dir

    def hub() -> lorahub.Hub:
        return lorahub.Hub(registry.url, token=token)

    with hub() as one:
        pushed = one.push(first, f"{name}/first")
    config = TrainConfig(**SMALL, steps=2, start=f"{name}/first")
    second = lorahub.train(llama, rows, config, output=tmp_path / "second", hub=hub)
    assert second.manifest["parents"] == [f"{name}/first@{pushed.commit}"]
    with hub() as one:
        one.push(second.adapter_dir, f"{name}/second")
        told = json.loads((one.pull(f"{name}/second", tmp_path / "pulled").path / "lorahub.json").read_text())
    assert told["parents"] == second.manifest["parents"]
    assert loss_on(loaded(llama, tmp_path / "pulled"), llama, rows, config) < loss_on(
        base_model(llama), llama, rows, config
    )


def test_a_stopped_run_that_went_on_with_an_adapter_goes_on(llama: Path, rows: Path, tmp_path: Path) -> None:
    first = lorahub.train(llama, rows, TrainConfig(**SMALL, steps=2), output=tmp_path / "first").adapter_dir
    config = TrainConfig(**SMALL, steps=8, start=str(first), save_every=3)
    whole = lorahub.train(llama, rows, config, output=tmp_path / "whole")
    stopped(llama, rows, tmp_path / "parts", 4, steps=8, start=str(first), save_every=3)
    parts = lorahub.train(llama, rows, config, output=tmp_path / "parts", resume="auto")
    left, right = ((run.adapter_dir / "adapter_model.safetensors").read_bytes() for run in (whole, parts))
    assert left == right
