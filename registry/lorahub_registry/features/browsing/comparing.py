"""Two adapters, or two versions of one, side by side. JSON-ready."""

from typing import Any

from lorahub.errors import InvalidInput
from lorahub.protocol.names import RepositoryName

from lorahub_registry.features.accounts.permissions import Principal
from lorahub_registry.features.browsing import adapters
from lorahub_registry.features.browsing.adapters import Opened
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.web.formats import day

_FACTS = (
    ("base", "Base model"),
    ("baseRevision", "Base revision"),
    ("method", "Method"),
    ("ranks", "Ranks"),
    ("scales", "Scales"),
    ("targets", "Targets"),
    ("modules", "Modules"),
    ("parameters", "Parameters"),
    ("dtypes", "Types"),
    ("format", "Format"),
    ("verdict", "Fit"),
    ("task", "Task"),
    ("license", "Licence"),
    ("downloads", "Downloads"),
    ("updatedAt", "Changed"),
)


def open_reference(backend: Backend, principal: Principal, reference: str) -> Opened:
    """Of `namespace/name` or `namespace/name@revision`. Raises as `open_adapter`, and `InvalidInput`."""
    name, _, revision = reference.strip().removeprefix("lorahub:").partition("@")
    if "/" not in name:
        raise InvalidInput(f"{reference[:100]!r} names no adapter", hint="write namespace/name or namespace/name@v2")
    return adapters.open_adapter(backend, principal, RepositoryName.parse(name), revision or None)


def side_by_side(first: Opened, second: Opened) -> list[dict[str, Any]]:
    rows = []
    for key, label in _FACTS:
        values = [_text(one, key) for one in (first, second)]
        if any(values):
            rows.append({"fact": label, "first": values[0], "second": values[1], "same": values[0] == values[1]})
    return rows


def _text(opened: Opened, key: str) -> str:
    value = opened.shown["card"].get("license") if key == "license" else opened.shown[key]
    if isinstance(value, list):
        return ", ".join(map(str, value[:20]))
    return day(value) if key == "updatedAt" else "" if value is None else str(value)


def label_of(opened: Opened, other: Opened) -> str:
    """As short as tells it from the other."""
    revision = opened.shown["version"] or opened.shown["commit"][:10]
    return f"{opened.shown['name']}@{revision}" if opened.name == other.name else str(opened.shown["id"])
