"""What a test needs, found in what it uses: its fixtures, its parameters, the functions that these call, its imports.

`process`: it starts programs, or kills a registry of its own. `torch`: it computes with PyTorch, or its module can't be
imported without. `browser`: it looks at pages. `fast`: none of these, and not `slow`. They are set by hand only where
a test's own code doesn't show it, and `make fast` holds them true: a program that is started there fails its test.
"""

import functools
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

TESTS = Path(__file__).parent
_SOURCES = (TESTS, TESTS.parent / "client")
LIBRARIES = {
    **dict.fromkeys(("torch", "peft", "transformers", "diffusers", "loralib"), "torch"),
    "subprocess": "process",
    "playwright": "browser",
}
_IMPORT = re.compile(r"^(?:from ([\w.]+) import (\([^)]*\)|[^\n]*)|import ([\w.]+))", re.MULTILINE)
_NAME = re.compile(r"\w+")
ONLY_A_PROCESS_HAS = frozenset({"rss_bytes", "process", "kill", "wait_until_dead"})
ONLY_A_PROCESS_IS_TOLD = "LORAHUB_WORKER"
WHICHEVER = "serve"
"""Of `registry_process`: it serves in a thread where no process is to be started."""


def mark(item: pytest.Function) -> None:
    fixtures = [one[-1].func for one in item._fixtureinfo.name2fixturedefs.values()]
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    used = [item.function, *fixtures, *(one for one in parameters if isinstance(one, FunctionType))]
    needs = {one.name for one in item.iter_markers() if one.name in LIBRARIES.values()}.union(*map(_needs_of, used))
    if needs_torch(item.path):
        needs.add("torch")
    for name in needs:
        item.add_marker(name)
    _share_fixtures(item)
    if not needs and not any(item.get_closest_marker(name) for name in ("slow", "soak", "sweep")):
        item.add_marker("fast")


def _share_fixtures(item: pytest.Function) -> None:
    """Tests that share what their module made run in one process: elsewhere it would be made a second time."""
    fixtures = [one[-1] for one in item._fixtureinfo.name2fixturedefs.values()]
    is_shared = any(one.scope == "module" for one in fixtures)
    if is_shared and item.get_closest_marker("xdist_group") is None:
        item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


# --- by imports -------------------------------------------------------------------------------------------------------


@functools.cache
def needs_torch(path: Path) -> bool:
    """Whether this module can't be imported without PyTorch."""
    seen, coming = set[Path](), [path]
    while coming:
        place = coming.pop()
        if place in seen:
            continue
        seen.add(place)
        for name in _imported_with(place):
            if LIBRARIES.get(name.partition(".")[0]) == "torch" or name.startswith("safetensors.torch"):
                return True
            coming.extend(modules_of(name))
    return False


@functools.cache
def _imported_with(place: Path) -> frozenset[str]:
    """Names of what a module imports when it is imported itself, and of the parts of these that it names."""
    names = set[str]()
    for module, parts, whole in _IMPORT.findall(place.read_text()):
        names |= {whole} if whole else {f"{module}.{part}" for part in _NAME.findall(parts)}
    return frozenset(names)


@functools.cache
def modules_of(name: str) -> frozenset[Path]:
    """Of the tests and of the client: `a.b.c` imports `a`, `a.b`, and `a.b.c` where that is a module."""
    parts = name.split(".")
    folders = [source.joinpath(*parts[:end]) for source in _SOURCES for end in range(1, len(parts) + 1)]
    places = [place for folder in folders for place in (folder.with_suffix(".py"), folder / "__init__.py")]
    return frozenset(place for place in places if place.is_file())


# --- by code ----------------------------------------------------------------------------------------------------------


@functools.cache
def _needs_of(thing: Any) -> frozenset[str]:
    """Of a function, or of a class of the tests: whatever it and all that it names might do."""
    seen, coming, needs = set[int](), [thing], set[str]()
    while coming:
        one = inspect.unwrap(coming.pop())
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, type):
            coming.extend(part for kind in one.__mro__ if _is_ours(kind) for part in _functions_in(kind))
        elif isinstance(one, FunctionType) and one.__name__ != WHICHEVER:
            names = set(_names_in(one.__code__))
            if names & ONLY_A_PROCESS_HAS or ONLY_A_PROCESS_IS_TOLD in _texts_in(one.__code__):
                needs.add("process")
            needs |= {LIBRARIES[root] for name in names if (root := name.partition(".")[0]) in LIBRARIES}
            if any(needs_torch(place) for name in names if "." in name for place in modules_of(name)):
                needs.add("torch")
            for named in _named(names, one.__globals__):
                if (library := _home(named).partition(".")[0]) in LIBRARIES:
                    needs.add(LIBRARIES[library])
                elif _is_ours(named):
                    coming.append(named)
    return frozenset(needs)


def _functions_in(kind: type) -> Iterator[Any]:
    for part in vars(kind).values():
        yield getattr(part, "__func__", getattr(part, "fget", part))


def _named(names: set[str], known: dict[str, Any]) -> Iterator[Any]:
    """What these names stand for; those of a module's parts too."""
    for name in names:
        if name in known:
            yield known[name]
            if isinstance(known[name], ModuleType) and _is_ours(known[name]):
                yield from (vars(known[name])[part] for part in names if part in vars(known[name]))


def _names_in(code: CodeType) -> Iterator[str]:
    """Of globals, of attributes, and of modules that are imported there."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _texts_in(code: CodeType) -> Iterator[str]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _texts_in(constant)
        elif isinstance(constant, str | tuple):
            yield from (part for part in (constant, *constant) if isinstance(part, str))


def _home(thing: Any) -> str:
    return str(getattr(thing, "__name__" if isinstance(thing, ModuleType) else "__module__", None) or "")


def _is_ours(thing: Any) -> bool:
    """Whether it is a part of the tests."""
    if not callable(thing) and not isinstance(thing, ModuleType):
        return False
    module = inspect.getmodule(thing)
    return module is not None and Path(getattr(module, "__file__", None) or "/").is_relative_to(TESTS)
