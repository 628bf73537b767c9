"""A runtime's loading code without what it stands on: any other module of its package is an empty one."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any


class _Anything(type):
    """A class of which every attribute is another one, that can be called, or decorate."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _made(name)


def _made(name: str) -> Any:
    def new(cls: Any, *arguments: Any, **_: Any) -> Any:
        is_decorator = cls.__bases__ == (object,) and len(arguments) == 1 and callable(arguments[0])
        return arguments[0] if is_decorator else object.__new__(cls)

    body = {"__new__": new, "__init__": lambda *_, **__: None, "__getattr__": lambda _, key: _made(key)}
    return _Anything(name, (object,), body)


class _Empty(ModuleType):
    __path__: Sequence[str] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _made(name)


class Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands before all else: of `package` only `kept` are the real ones, with the packages that they are in."""

    def __init__(self, package: str, kept: Sequence[str]) -> None:
        self._package = package
        self._kept = kept

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> Any:
        if name.partition(".")[0] != self._package or name in self._kept:
            return None
        is_parent = any(one.startswith(f"{name}.") for one in self._kept)
        spec = importlib.machinery.ModuleSpec(name, self, is_package=True)
        if is_parent:
            spec.submodule_search_locations = list(_places(name))
        return spec

    def create_module(self, spec: Any) -> ModuleType:
        module = _Empty(spec.name)
        module.__path__ = spec.submodule_search_locations or []
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is in it."""


def _places(package: str) -> Sequence[str]:
    folder = package.replace(".", "/")
    return [f"{place}/{folder}" for place in sys.path]
