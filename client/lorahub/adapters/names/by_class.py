"""What transformers' own class of a base calls its parts, and how it renames the tensors of a checkpoint.

A class renames each of its parts for itself: vision tower, projector and language model of LLaVA lie on disk as
`vision_tower.vision_model.…`, `multi_modal_projector.…` and `language_model.model.…`, and are in memory
`model.vision_tower.…`, `model.multi_modal_projector.…` and `model.language_model.…`. Adapters have the names of the
version that trained them, and PEFT gives them the same renames when it loads one. `transformers.json` is made of the
installed library by `tools/transformers_names.py`.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from lorahub.adapters.base_model import BaseLayout

Change = tuple[str, str]
"""(what to take off the front of an adapter's name, what to put there instead)."""

_DEEPEST = 8  # no class has parts of parts of parts beyond it
_LANGUAGE = ("language_model", "text_model")
_HEADS = ("ForCausalLM", "ForConditionalGeneration")


@dataclass(frozen=True, slots=True)
class Rename:
    """One of transformers' `WeightRenaming`s."""

    expression: re.Pattern[str]
    targets: tuple[str, ...]
    """One for all branches of the expression; or one for each, and then it counts where the first is found."""
    scopes: tuple[str, ...] = ("",)
    """What a name must begin with, which isn't looked at; the longest first."""

    def all(self, names: Mapping[str, str]) -> Mapping[str, str]:
        """With each value renamed."""
        if len(self.targets) > 1 and not any(self.branch(name) == 0 for name in names.values()):
            return names
        return {key: self._renamed(name) for key, name in names.items()}

    def each(self, name: str) -> list[str]:
        """The name with each of the targets; empty where it isn't meant."""
        pair = self._found(name)
        return [] if pair is None else [self._put(name, *pair, target) for target in self.targets]

    def _found(self, name: str) -> tuple[str, re.Match[str]] | None:
        scope = next((scope for scope in self.scopes if name.startswith(scope)), None)
        found = None if scope is None else self.expression.search(name[len(scope) :])
        return None if scope is None or found is None else (scope, found)

    def branch(self, name: str) -> int | None:
        pair = self._found(name)
        return None if pair is None else _number(pair[1])

    def _renamed(self, name: str) -> str:
        pair = self._found(name)
        if pair is None:
            return name
        return self._put(name, *pair, self.targets[_number(pair[1]) if len(self.targets) > 1 else 0])

    def _put(self, name: str, scope: str, found: re.Match[str], target: str) -> str:
        first = found.re.groupindex[found.lastgroup or ""]
        new = re.sub(r"\\(\d)", lambda digit: found[first + int(digit[1])] or "", target)
        return scope + name[len(scope) :].replace(found[0], new, 1)


@dataclass(frozen=True, slots=True)
class Layers:
    """One of transformers' `WeightConverter`s: layers that are `split`, or a `join` of layers, in memory."""

    kind: str
    """`other` where rows change places as well."""
    rename: Rename

    def names(self, name: str) -> list[str]:
        """What becomes of the tensor in memory; empty where it isn't meant."""
        return self.rename.each(name)

    def place(self, name: str) -> int:
        """Which of the joined layers it is."""
        return self.rename.branch(name) or 0


def _number(found: re.Match[str]) -> int:
    """Branches are groups `g0`, `g1`, …"""
    return int((found.lastgroup or "g0")[1:])


@dataclass(frozen=True, slots=True)
class ModelClass:
    """A class of transformers with the parts that a base's configuration gives it."""

    name: str
    prefix: str
    """What stands before the names of the model without its head; empty where nothing ever does."""
    parts: tuple[tuple[str, str], ...]
    """(path, the prefix that the part has as a model of its own) of the models inside."""
    text: str
    """The path of the language model, where it is one of several parts."""
    renames: tuple[Rename, ...]
    layers: tuple[Layers, ...]
    tied: tuple[tuple[str, str], ...]
    """Output heads that may be an embedding, and the name of its weight."""
    shared: tuple[tuple[str, str], ...]
    """Other modules, and owners of modules, that may have the weights of another, and its name."""

    def in_memory(self, names: Iterable[str]) -> Mapping[str, str]:
        """Name on disk, or of an older version -> name in memory."""
        found: Mapping[str, str] = {name: name for name in names}
        for rename in self.renames:
            found = rename.all(found)
        return found

    @property
    def changes(self) -> Iterator[Change]:
        """The changes of a prefix that make no difference.

        With and without its head a model has other names; and an adapter of a part alone, such as the language model of
        a composite, has the names of that part's own class, or of that class with a head.
        """
        if self.prefix:
            yield "", f"{self.prefix}."
            yield f"{self.prefix}.", ""
        for path, prefix in self.parts:
            yield "", f"{path}."
            if prefix and prefix != path:
                yield f"{prefix}.", f"{path}."


def class_of(base: BaseLayout) -> ModelClass | None:
    """None where the configuration names no class of transformers: it is code of its own, or no model of theirs."""
    name = base.architecture or _tables()["defaults"].get(base.model_type or "")
    return None if name not in _tables()["classes"] else _model_class(name, base.config)


def _model_class(name: str, config: Mapping[str, Any]) -> ModelClass:
    parts = list(_parts(name, config))
    prefix = _prefix(name)
    transforms = [(own, _scopes(path, prefix)) for path, own in _transforms(parts)]
    return ModelClass(
        name,
        prefix if _has_prefix(_type(name), prefix) else "",
        tuple((path, _prefix(part)) for path, part in parts if path),
        next((path for path, _ in parts if path.endswith(_LANGUAGE)), ""),
        tuple(_rename(row, scopes) for own, scopes in transforms for row in own["renames"]),
        tuple(Layers(kind, _rename(row, scopes)) for own, scopes in transforms for kind, *row in own["layers"]),
        tuple(_tied("tied", parts)),
        tuple(_tied("shared", parts)),
    )


def _tied(table: str, parts: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for path, name in parts:
        start = f"{path}." if path else ""
        for one, other in _tables()[table].get(name, {}).items():
            yield start + one, start + other


def _rename(row: Sequence[str], scopes: tuple[str, ...]) -> Rename:
    return Rename(_compiled(row[0]), tuple(row[1:]), scopes)


@cache
def _tables() -> Mapping[str, Any]:
    return json.loads(resources.files(__package__).joinpath("transformers.json").read_text())  # type: ignore[no-any-return]


def _type(name: str) -> str:
    return str(_tables()["classes"][name][0])


def _prefix(name: str) -> str:
    return str(_tables()["classes"][name][1])


@cache
def _has_prefix(kind: str, prefix: str) -> bool:
    """Whether a class of the type has its base model under that name: T5's don't, whatever they say."""
    return any(own == kind and prefix in parts for own, _, parts in _tables()["classes"].values())


def _parts(name: str, config: Mapping[str, Any], path: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """(path, class) of the model and of all models in it, from the outside in."""
    yield path, name
    if depth == _DEEPEST:
        return
    for own, part in _tables()["classes"][name][2].items():
        kind, key = (part, None) if isinstance(part, str) else part
        inner = config if key is None else config.get(key)
        inner = inner if isinstance(inner, dict) else {}
        if key is not None:
            kind = _of_type(inner.get("model_type"), kind)
        if kind in _tables()["classes"]:
            yield from _parts(kind, inner, f"{path}.{own}" if path else own, depth + 1)


def _of_type(kind: Any, usual: str) -> str:
    """The class that a part has by its configuration: of that type, with a head like the usual one's."""
    if not isinstance(kind, str) or kind == _type(usual):
        return usual
    head = next((head for head in _HEADS if usual.endswith(head)), None)
    with_head = (name for name in _tables()["classes"] if head and _type(name) == kind and name.endswith(_HEADS))
    return next(with_head, None) or str(_tables()["defaults"].get(kind, usual))


def _transforms(parts: Iterable[tuple[str, str]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path, what is done to the names of that part), as transformers' `get_model_conversion_mapping` gathers it: a
    class's own before its type's, and each once on the way from the outside in.
    """
    known = _tables()["transforms"]
    seen: dict[str, list[str]] = {}
    for path, name in parts:
        keys = [name] if name in known else [name, _type(name)]
        if keys[-1] in known and not any(_is_inside(path, outer) for key in keys for outer in seen.get(key, ())):
            yield path, known[keys[-1]]
            for key in keys:
                seen.setdefault(key, []).append(path)
    yield "", known["legacy"]


def _is_inside(path: str, outer: str) -> bool:
    return not outer or path.startswith(f"{outer}.")


def _scopes(path: str, prefix: str) -> tuple[str, ...]:
    """A part of the base model has the base model's prefix before its own, or hasn't."""
    if not path:
        return ("",)
    inner = path.removeprefix(prefix).removeprefix(".")
    inner = f"{inner}." if inner else ""
    return (f"{prefix}.{inner}" if prefix else inner, inner)


@cache
def _compiled(expression: str) -> re.Pattern[str]:
    """They come with this package: nobody sends one."""
    return re.compile(expression)
