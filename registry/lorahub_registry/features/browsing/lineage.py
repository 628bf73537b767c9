"""What an adapter was made from, and what was made from it, as far as the visitor may see."""

from typing import Any

from lorahub_registry.features.accounts.permissions import Principal
from lorahub_registry.features.browsing import service
from lorahub_registry.features.browsing.adapters import Opened
from lorahub_registry.features.catalog.search import Search
from lorahub_registry.infrastructure.backend import Backend

MOST_CHILDREN = 60


def around(backend: Backend, principal: Principal, opened: Opened) -> dict[str, Any]:
    """`parents` are names, here or elsewhere; `children` rows of this registry that name it as their base."""
    search = Search(tags=(f"base_model:{opened.shown['id']}",))
    children, more = service.adapters(backend, principal, search, limit=MOST_CHILDREN)
    named = list(dict.fromkeys(filter(None, [opened.shown["base"], *opened.model.facts.base_models])))
    return {"parents": named, "children": children, "more": more is not None}
