"""Pictures of what pages show, drawn from the pages' own data."""

from collections.abc import Mapping, Sequence
from typing import Any

from lorahub_registry import pictures


def of_weights(found: Mapping[str, Any], module: str | None) -> dict[str, Any]:
    """Of statistics that are done: the map, the map relative to the base's weights, and the spectrum of one module."""
    modules: Mapping[str, Mapping[str, Any]] = (found["statistics"] or {}).get("modules", {})
    relative = {name: one["relative"] for name, one in modules.items() if one.get("relative") is not None}
    chosen = module if module in modules else _largest(modules)
    one = modules[chosen] if chosen is not None else None
    return {
        "norms": pictures.norm_map({name: one["frobenius"] for name, one in modules.items()}),
        "relative": pictures.norm_map(relative, title="‖ΔW‖ / ‖W‖ by layer and module") if relative else None,
        "shown": pictures.spectrum(chosen, one["singular_values"], one["effective_rank"]) if one and chosen else None,
        "shown_module": chosen,
    }


def _largest(modules: Mapping[str, Mapping[str, Any]]) -> str | None:
    return max(modules, key=lambda name: modules[name]["frobenius"] or 0.0, default=None)


def of_training(points: Sequence[Mapping[str, Any]]) -> pictures.Picture:
    return pictures.curve(points)


def of_lineage(name: str, around: Mapping[str, Any]) -> pictures.Picture:
    return pictures.lineage(name, around["parents"], [row["id"] for row in around["children"]])
