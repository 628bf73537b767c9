"""An adapter's snippets, filled in from what is known of it."""

from typing import Any

from lorahub.errors import AccessRefused, InvalidName, NotFound
from lorahub.protocol.names import RepositoryName

from lorahub_registry.core.access import Reader
from lorahub_registry.features.catalog.snippets import Subject, snippets
from lorahub_registry.pages.adapter.gathered import AdapterPage


def ways(reader: Reader, page: AdapterPage, url: str) -> list[dict[str, Any]]:
    """Empty where it is no adapter, or may not be read. The revision is the version's, else the commit."""
    shown = page.shown
    if not shown["isAdapter"] or not page.is_readable:
        return []
    trigger = shown["card"].get("instance_prompt")
    subject = Subject(
        repository=shown["id"],
        revision=shown["version"] or shown["commit"],
        url=url,
        base=shown["base"],
        base_revision=shown["baseRevision"],
        task=shown["task"],
        rank=max(shown["ranks"], default=0),
        triggers=[trigger] if isinstance(trigger, str) else [],
        is_mergeable=bool(shown["mergeable"]),
        is_base_here=_is_here(reader, shown["base"]),
        verdicts={one["runtime"]: one for one in shown["runtimes"]},
    )
    return [one.as_json() for one in snippets(subject)]


def _is_here(reader: Reader, base: str | None) -> bool:
    try:
        reader.open(RepositoryName.parse(base or "")).require_readable()
    except (AccessRefused, InvalidName, NotFound):
        return False
    return True
