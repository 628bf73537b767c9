"""A base and an adapter of the real PEFT, stored on a registry."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import lorahub
import pytest
from registry_process import Registry

if TYPE_CHECKING:
    from corpus.merge_corpus import Stored


@pytest.fixture
def store(tmp_path: Path) -> "Callable[..., Stored]":
    """Pushes a base and an adapter for it to a registry, as a user of its own."""
    from corpus.merge_corpus import Stored, make_adapter, make_base  # not above: read for whatever tests are run

    def make(
        registry: Registry,
        user: tuple[str, str],
        *,
        seed: int = 0,
        sizes: Mapping[str, int] | None = None,
        **settings: object,
    ) -> Stored:
        name, token = user
        base = make_base(tmp_path / f"base-{seed}", seed=seed, **(sizes or {}))
        adapter = make_adapter(tmp_path / f"adapter-{seed}", base, f"{name}/base", seed=seed + 1, **settings)
        with lorahub.Hub(registry.url, token=token) as hub:
            hub.push(base, f"{name}/base")
            hub.push(adapter, f"{name}/sql")
        return Stored(f"{name}/base", f"{name}/sql", base, adapter, token, name)

    return make
