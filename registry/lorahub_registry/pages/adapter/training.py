"""What a training run left behind: its record in lorahub.json, or the log of Transformers' Trainer."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from lorahub.adapters.strict_json import parse_json
from lorahub.errors import MalformedBody

from lorahub_registry.features.catalog.service import TRAINING_LOG
from lorahub_registry.infrastructure.web import formats

STATE = TRAINING_LOG
MOST_POINTS = 1000
SERIES = ("loss", "eval_loss", "learning_rate", "grad_norm")


def recorded_points(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`{"step", "loss", "eval_loss"}`, as far as each was measured at that step."""
    curve = (record.get("run") or {}).get("curve") or []
    return [
        {"step": step} | {name: value for name, value in (("loss", loss), ("eval_loss", held)) if value is not None}
        for step, loss, held in curve
    ]


def stated(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the maker states, by what it is called; what he says nothing of is left out."""
    return [(name, _text(value)) for name, value in _statements(record) if value is not None]


def _text(value: object) -> str:
    if type(value) is int:
        return formats.exact(value)
    return formats.figure(value) if isinstance(value, float) else str(value)


def _statements(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    run, code, machine = (record.get(part) or {} for part in ("run", "code", "hardware"))
    config, rows = _object(run.get("config")), _object(_object(record.get("data")).get("train"))
    yield "Origin", record.get("origin")
    yield "Rows", rows.get("rows")
    yield "Method", config.get("method")
    yield "Learning rate", config.get("lr")
    yield "Steps", run.get("steps")
    yield "Epochs", run.get("epochs")
    yield "Tokens", run.get("tokens")
    yield "Seconds", run.get("seconds")
    yield "Trained parameters", run.get("parameters")
    yield "Stopped", run.get("stopped")
    yield "Seed", run.get("seed")
    yield "Device", machine.get("device")
    yield "Type", machine.get("dtype")
    peak = machine.get("peak_memory")
    yield "Peak memory", formats.size(peak) if _is_number(peak) else None
    for name in ("lorahub", "torch", "transformers", "peft", "python"):
        yield name, code.get(name)


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


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
