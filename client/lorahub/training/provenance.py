"""What only its maker knows of an adapter, as lorahub.json keeps it. What isn't known is null, never guessed."""

import hashlib
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lorahub.training.checkpoint import Progressed
from lorahub.training.config import TrainConfig
from lorahub.training.history import TrainingStep, curve

_DISTRIBUTIONS = ("torch", "transformers", "peft", "tokenizers", "safetensors")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def run_facts(
    config: TrainConfig, history: Path, steps: list[TrainingStep], done: Progressed, *, stopped: str, kept: float | None
) -> dict[str, Any]:
    """What a run has reached. `kept` is the evaluation loss of what is kept, `history` the file of its steps."""
    losses = [step.loss for step in steps if step.loss is not None]
    evaluated = [step.eval_loss for step in steps if step.eval_loss is not None]
    settings = config.as_json()
    for name in ("start", "eval_split", "chat_template"):
        if isinstance(path := settings[name], str) and Path(path).exists():
            settings[name] = Path(path).name  # where it lies is nobody's business
    return {
        "config": settings,
        "seed": config.seed,
        "steps": done.step,
        "tokens": done.tokens,
        "seconds": round(done.seconds, 3),
        "ended": now(),
        "loss": {"first": _at(losses, 0), "last": _at(losses, -1), "best": min(losses, default=None)},
        "eval_loss": {
            "untrained": steps[0].eval_loss if steps and steps[0].step == 0 else None,
            "last": _at(evaluated, -1),
            "best": min(evaluated, default=None),
            "kept": kept,
        },
        "curve": curve(steps),
        "history": hashlib.sha256(history.read_bytes()).hexdigest(),
        "resumed_from": done.resumed,
        "stopped": stopped,
    }


def code_facts() -> dict[str, Any]:
    commit = _git("rev-parse", "HEAD")
    changes = None if commit is None else _git("status", "--porcelain")
    return {
        "lorahub": _version("lorahub-registry"),
        "python": platform.python_version(),
        **{name: _version(name) for name in _DISTRIBUTIONS},
        "git": None if commit is None else {"commit": commit, "dirty": None if changes is None else bool(changes)},
    }


def _at(values: list[float], place: int) -> float | None:
    return values[place] if values else None


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git says of the folder that the run was started in."""
    git = shutil.which("git")
    if git is None:
        return None
    try:
        said = subprocess.run([git, *arguments], capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip()
