"""What a training run left behind: the log of Transformers' Trainer, as points of a curve."""

import math
from typing import Any

from lorahub.adapters.strict_json import parse_json
from lorahub.errors import MalformedBody

STATE = "trainer_state.json"
MOST_POINTS = 1000
SERIES = ("loss", "eval_loss", "learning_rate", "grad_norm")


def points(text: str) -> list[dict[str, Any]]:
    """`{"step", "loss", …}` in order of steps; what isn't a finite number is left out. Never raises."""
    try:
        state = parse_json(text.encode() or b"{}", error=MalformedBody)
    except MalformedBody:
        return []
    history = state.get("log_history") if isinstance(state, dict) else None
    found = [_point(entry) for entry in (history if isinstance(history, list) else [])[:100_000]]
    usable = [point for point in found if point is not None]
    every = math.ceil(len(usable) / MOST_POINTS) or 1
    return usable[::every]


def _point(entry: object) -> dict[str, Any] | None:
    if not isinstance(entry, dict) or not _is_number(entry.get("step")):
        return None
    values = {name: entry[name] for name in SERIES if _is_number(entry.get(name))}
    return {"step": entry["step"], **values} if values else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
