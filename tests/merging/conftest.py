"""A base and an adapter of the real PEFT, stored on a registry."""

from collections.abc import Callable, Mapping
from pathlib import Path

import lorahub
import pytest
from corpus.merge_corpus import Stored, make_adapter, make_base
from registry_process import Registry


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., Stored]:
    """Pushes a base and an adapter for it to a registry, as a user of its own."""

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
