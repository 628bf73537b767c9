"""How an adapter came to be, as its maker wrote it into lorahub.json: stated, not measured; bounded, so that it can be
stored and shown. Other tools may write less, and more that isn't read here.
"""

import math
from collections.abc import Mapping
from typing import Any

from lorahub.errors import InvalidAdapterConfig

PARTS = ("data", "run", "code", "hardware")
MOST_POINTS = 200

_MOST_TEXT = 1000  # characters
_MOST_ITEMS = 256
_MOST_DEPTH = 4
_COUNTS = {"run": ("steps", "tokens", "parameters", "seed"), "data": ("rows", "truncated", "empty", "masked")}
_AMOUNTS = {"run": ("seconds", "epochs")}
_LOSSES = ("loss", "eval_loss")


def training_record(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """Origin, parents, data, run with its curve, code and hardware; None where the maker says nothing of them.

    Raises `InvalidAdapterConfig` for what isn't such a record.
    """
    said = {part: _object(part, raw.get(part)) for part in PARTS if raw.get(part) is not None}
    if not said:
        return None
    for table, is_good, wanted in ((_COUNTS, _is_count, "a whole number"), (_AMOUNTS, _is_amount, "a number")):
        for part, names in table.items():
            for name in names:
                value = said.get(part, {}).get(name)
                if value is not None and not is_good(value):
                    raise _refused(f"{part}.{name}", wanted)
    run = said.get("run", {})
    for name in _LOSSES:
        losses = run.get(name)
        if losses is not None and not (isinstance(losses, dict) and all(map(_is_loss, losses.values()))):
            raise _refused(f"run.{name}", "an object of numbers")
    if run.get("curve") is not None:
        _check_curve(run["curve"])
    return {"origin": raw.get("origin"), "parents": _bounded("parents", raw.get("parents"), 0), **said}


def _check_curve(curve: Any) -> None:
    """[step, loss, evaluation loss], steps rising."""
    wanted = f"a list of at most {MOST_POINTS} points [step, loss, eval loss]"
    if not isinstance(curve, list) or len(curve) > MOST_POINTS:
        raise _refused("run.curve", wanted)
    before = -1
    for point in curve:
        if not (isinstance(point, list) and len(point) == 3 and _is_count(point[0]) and all(map(_is_loss, point[1:]))):
            raise _refused("run.curve", wanted)
        if point[0] <= before:
            raise _refused("run.curve", "points in the order of their steps")
        before = point[0]


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refused(name, "an object, or null")
    found: dict[str, Any] = _bounded(name, value, 0)
    return found


def _bounded(name: str, value: Any, depth: int) -> Any:
    if isinstance(value, str) and len(value) > _MOST_TEXT:
        raise _refused(name, f"text of at most {_MOST_TEXT} characters")
    if not isinstance(value, dict | list):
        return value
    if depth >= _MOST_DEPTH or len(value) > _MOST_ITEMS:
        raise _refused(name, f"at most {_MOST_DEPTH} levels of at most {_MOST_ITEMS} values")
    if isinstance(value, list):
        return [_bounded(name, item, depth + 1) for item in value]
    return {key[:_MOST_TEXT]: _bounded(f"{name}.{key[:60]}", item, depth + 1) for key, item in value.items()}


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_amount(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def _is_loss(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and math.isfinite(value))


def _refused(name: str, wanted: str) -> InvalidAdapterConfig:
    return InvalidAdapterConfig(
        f"{name[:200]} in lorahub.json is not {wanted}", hint="delete the file; lorahub push writes it anew"
    )
