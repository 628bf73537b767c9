"""What pages show of adapters: models of the catalog together with what was measured of them. JSON-ready."""

from typing import Any

from lorahub.protocol.messages.message import wire_time

from lorahub_registry.core.access import Reader
from lorahub_registry.features.catalog import service as catalog
from lorahub_registry.features.catalog.search import Search
from lorahub_registry.features.catalog.service import Model
from lorahub_registry.features.checks.service import Recorded, recorded_of

ROWS = 30


def adapters(
    reader: Reader, search: Search, *, cursor: str | None = None, limit: int = ROWS
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of rows, and the cursor of the next one. Raises `InvalidInput` for a cursor not ours."""
    found = catalog.list_models(reader, search, cursor=cursor, limit=limit, wanted=())
    measured = recorded_of(reader.session, [model.commit.id for model in found.models])
    return [row_of(model, measured.get(model.commit.id)) for model in found.models], found.cursor


def commonest_bases(reader: Reader) -> list[dict[str, Any]]:
    """Base models by how many visible adapters name them."""
    counts = catalog.count(reader, Search()).counts["base"]
    return [{"name": name, "adapters": count} for name, count in counts.items()]


def row_of(model: Model, measured: Recorded | None) -> dict[str, Any]:
    repository, facts = model.repository, model.facts
    found = measured.facts if measured else {}
    base = found.get("base", {}).get("name") or next(iter(facts.base_models), None)
    return {
        "id": repository.full_name,
        "namespace": repository.namespace,
        "name": repository.name,
        "private": repository.is_private,
        "gated": repository.gated,
        "commit": model.commit.id,
        "createdAt": wire_time(repository.created_at),
        "updatedAt": wire_time(repository.updated_at),
        "downloads": repository.downloads,
        "likes": repository.likes,
        "task": facts.pipeline_tag,
        "library": facts.library_name,
        "parameters": (facts.safetensors or {}).get("total"),
        "base": base.removeprefix("hf:") if base else None,
        "method": measured.method if measured else None,
        "ranks": found.get("ranks", []),
        "targets": found.get("targets", []),
        "verdict": measured.verdict if measured else None,
    }
