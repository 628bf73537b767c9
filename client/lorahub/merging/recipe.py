"""A merge as a small file: what is merged, with which weights, how.

kind: lorahub-merge-v1
base: meta/llama-3@v1
adapters:
  - {source: acme/sql@v2, weight: 0.7}
  - {source: acme/polite, weight: 0.3, layers: {"layers.[0-7]..*": 0}}
method: sum
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import yaml

from lorahub.errors import InvalidRecipe
from lorahub.merging.combinations import COMBINATIONS, PARAMETERS, Options, Parameter
from lorahub.merging.rounding import FLOATS

RECIPE = "lorahub-merge.yaml"
"""The file's name, in a repository or folder."""
KIND = "lorahub-merge-v1"
KERNEL = "lorahub-kernel-1"
"""Which arithmetic the bytes come from; another one is another digest."""
MOST_BYTES = 64 << 10
MOST_ADAPTERS = 32
MOST_LAYERS = 256
MOST_TEXT = 1024
MOST_WEIGHT = 1e6
DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", **{name: name for name in FLOATS}}
_KEYS = {"kind", "base", "adapters", "method", "dtype", *PARAMETERS}


@dataclass(frozen=True, slots=True)
class Ingredient:
    """One adapter: `weight` for every module, but for those that a pattern of `layers` names.

    >>> Ingredient("acme/sql@v2", weight=0.7, layers={"layers.[0-7]..*": 0.0}).weight
    0.7
    """

    source: str
    weight: float = 1.0
    layers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is merged, and how. `parameters` are those of the method, by name; `dtype` is a safetensors name, None for
    the base's own.

    >>> print(Recipe("acme/llama", (Ingredient("acme/sql", 0.7),)).as_yaml(), end="")
    kind: lorahub-merge-v1
    base: acme/llama
    adapters:
    - source: acme/sql
      weight: 0.7
    method: sum
    """

    base: str
    adapters: tuple[Ingredient, ...]
    method: str = "sum"
    parameters: Mapping[str, float] = field(default_factory=dict)
    dtype: str | None = None

    def as_json(self) -> dict[str, object]:
        """What differs from the defaults is left out."""
        value: dict[str, object] = {"kind": KIND, "base": self.base, "adapters": [_entry(one) for one in self.adapters]}
        value["method"] = self.method
        options = self.options()
        value |= {one.name: options.of(one) for one in COMBINATIONS[self.method].parameters}
        return value | ({"dtype": self.dtype} if self.dtype else {})

    def options(self, tensor: str = "") -> Options:
        """What the method is told about a tensor of this name."""
        return Options(self.parameters, tensor)

    def as_yaml(self) -> str:
        return yaml.safe_dump(self.as_json(), sort_keys=False, allow_unicode=True)

    def digest(self, identities: Mapping[str, object]) -> str:
        """sha256 of the recipe, the kernel, and the digests of what it names."""
        value = {"kernel": KERNEL, "recipe": self.as_json(), "of": identities}
        return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _entry(one: Ingredient) -> dict[str, Any]:
    value = asdict(one)
    return value if value["layers"] else {"source": one.source, "weight": one.weight}


def parse_recipe(text: str | bytes) -> Recipe:
    """The recipe that a text of YAML or JSON holds. Raises `InvalidRecipe`, naming the field."""
    if len(text) > MOST_BYTES:
        raise InvalidRecipe(f"the recipe is longer than {MOST_BYTES >> 10} KiB")
    try:
        value = yaml.load(text, _PlainLoader)  # noqa: S506 (a SafeLoader without aliases)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InvalidRecipe(
            f"the recipe is not YAML: {str(error).splitlines()[0]}", hint="see docs/merging.md"
        ) from None
    return recipe_of(value)


class _PlainLoader(yaml.SafeLoader):
    """Without aliases, which can grow a small file to gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not taken")
        return super().compose_node(parent, index)


def recipe_of(value: Any) -> Recipe:
    """The recipe that a parsed document holds. Raises `InvalidRecipe`."""
    if not isinstance(value, dict):
        raise InvalidRecipe("a recipe is a mapping with base and adapters", hint="see docs/merging.md")
    unknown = sorted(str(key)[:60] for key in value if key not in _KEYS)
    if unknown:
        raise InvalidRecipe(f"unknown field {unknown[0]!r}", hint=f"known are {', '.join(sorted(_KEYS))}")
    if value.get("kind", KIND) != KIND:
        raise InvalidRecipe(f"kind is {str(value['kind'])[:60]!r}; known is {KIND}")
    method = value.get("method", "sum")
    if not isinstance(method, str) or method not in COMBINATIONS:
        raise InvalidRecipe(f"unknown method {str(method)[:60]!r}", hint=f"known are {', '.join(COMBINATIONS)}")
    return Recipe(
        base=_text(value, "base"),
        adapters=_ingredients(value.get("adapters")),
        method=method,
        parameters=_parameters(method, value),
        dtype=_dtype(value.get("dtype")),
    )


def _parameters(method: str, value: Mapping[str, Any]) -> dict[str, float]:
    """Those that the method asks for, and no others."""
    given = {one.name: _given(value, one) for one in PARAMETERS.values()}
    asked = COMBINATIONS[method].parameters
    for one in PARAMETERS.values():
        if one.name in value and one not in asked:
            raise InvalidRecipe(f"the method {method} has no {one.name}")
    for one in asked:
        if not one.accepts(given[one.name]):
            told = f"the method {method} asks for a {one.name}, {one.asks}"
            raise InvalidRecipe(told if one.is_required else f"{one.name} is {given[one.name]:g}; it is {one.asks}")
    return {one.name: given[one.name] for one in asked}


def _given(value: Mapping[str, Any], parameter: Parameter) -> float:
    if parameter.kind is int:
        return _whole(value, parameter.name, int(parameter.default))
    return _number(value, parameter.name, parameter.default)


def _ingredients(value: Any) -> tuple[Ingredient, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MOST_ADAPTERS:
        raise InvalidRecipe(f"adapters is a list of 1 to {MOST_ADAPTERS} adapters")
    return tuple(_ingredient(entry, number) for number, entry in enumerate(value, 1))


def _ingredient(entry: Any, number: int) -> Ingredient:
    if isinstance(entry, str):
        entry = {"source": entry}
    if not isinstance(entry, dict) or set(entry) - {"source", "weight", "layers"}:
        raise InvalidRecipe(f"adapter {number} has source, weight and layers, and nothing else")
    layers = entry.get("layers") or {}
    if not isinstance(layers, dict) or len(layers) > MOST_LAYERS or not all(isinstance(key, str) for key in layers):
        raise InvalidRecipe(f"adapter {number}: layers maps patterns of module names to weights")
    weights = {key: _number(layers, key, 1.0) for key in layers}
    return Ingredient(_text(entry, "source"), _number(entry, "weight", 1.0), weights)


def _text(value: Mapping[str, Any], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str) or not 0 < len(text) <= MOST_TEXT:
        raise InvalidRecipe(f"{key} is missing, or isn't text", hint="name it as namespace/name@revision, or a folder")
    return text


def _number(value: Mapping[str, Any], key: str, default: float) -> float:
    number = value.get(key, default)
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise InvalidRecipe(f"{key} is no number")
    if abs(number) > MOST_WEIGHT:
        raise InvalidRecipe(f"{key} is {number:g}, beyond a million")
    return float(number)


def _whole(value: Mapping[str, Any], key: str, default: int) -> int:
    number = value.get(key, default)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 1 << 63:
        raise InvalidRecipe(f"{key} is no whole number")
    return number


def _dtype(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or value not in DTYPES:
        raise InvalidRecipe(f"unknown dtype {str(value)[:40]!r}", hint="float32, bfloat16, float16 or float64")
    return DTYPES[value]
