"""The merging tests' base and adapter, here too."""

from merging.conftest import store

__all__ = ["store"]
