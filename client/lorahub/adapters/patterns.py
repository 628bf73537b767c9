"""PEFT's patterns: which modules a list of names or a regular expression means.

An expression that somebody sent is never given to `re`, whose time has no bound: RE2 matches in linear time and has
neither look-around nor back references. Names are looked up in sets by the module's endings, so that a thousand names
and a thousand modules are a thousand steps; of expressions only `MOST_EXPRESSIONS` of one setting are tried.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

MOST_EXPRESSIONS = 64
_LONGEST = 4096
_MEMORY = 1 << 20


@lru_cache(maxsize=512)
def _compiled(expression: str) -> Any:
    import re2

    if len(expression) > _LONGEST:
        return None
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY
    try:
        return re2.compile(expression, options)
    except re2.error:
        return None


def full_match(expression: str, name: str) -> bool | None:
    r"""`re.fullmatch`, or None where the expression can't be evaluated.

    >>> full_match(r".*\.(q|v)_proj", "model.layers.0.self_attn.q_proj")
    True
    >>> full_match(r"(?=x)x", "x") is None
    True
    """
    pattern = _compiled(expression)
    return None if pattern is None else pattern.fullmatch(name) is not None


def is_literal(expression: str) -> bool:
    """Made of the characters of names only; a dot stands for any character, which is one of them."""
    return all(character.isalnum() or character in "._-" for character in expression)


def endings(module: str) -> Iterator[str]:
    """The module's name, and what is left of it behind each dot.

    >>> list(endings("layers.0.q_proj"))
    ['layers.0.q_proj', '0.q_proj', 'q_proj']
    """
    while module:
        yield module
        module = module.partition(".")[2]


class Names:
    """`target_modules` and its like: a list means modules that end so, a text is an expression."""

    def __init__(self, given: Iterable[str] | str) -> None:
        self.expression = given if isinstance(given, str) else None
        self._names = frozenset() if isinstance(given, str) else frozenset(given)

    def match(self, module: str) -> bool | None:
        """None where the expression can't be evaluated."""
        if self.expression is not None:
            return full_match(self.expression, module)
        return not self._names.isdisjoint(endings(module))


class Patterns:
    r"""`rank_pattern` and `alpha_pattern`: the first key, in the file's order, that the end of a module's name matches.

    PEFT 0.21 `get_pattern_key`: `re.match(rf"(.*\.)?({key})$", module)`.
    """

    def __init__(self, values: Mapping[str, float]) -> None:
        self.values = values
        order = {key: number for number, key in enumerate(values)}
        self._literals = {key: number for key, number in order.items() if is_literal(key)}
        self._expressions = [(number, key) for key, number in order.items() if key not in self._literals]

    def __bool__(self) -> bool:
        return bool(self.values)

    def value(self, module: str, default: float) -> float:
        key = self.key(module)
        return default if key is None else self.values[key]

    def key(self, module: str) -> str | None:
        """The key that counts for this module."""
        numbers = [(self._literals[ending], ending) for ending in endings(module) if ending in self._literals]
        best = min(numbers, default=None)
        for number, key in self._expressions[:MOST_EXPRESSIONS]:
            if best is not None and best[0] < number:
                break
            if full_match(rf"(.*\.)?({key})", module):
                return key
        return None if best is None else best[1]

    def unused(self, modules: Iterable[str]) -> list[str]:
        """Keys that match none of the modules."""
        listed = list(modules)
        ends = {ending for module in listed for ending in endings(module)}
        idle = [key for key in self._literals if key not in ends]
        tried = [key for _, key in self._expressions[:MOST_EXPRESSIONS]]
        return idle + [key for key in tried if not any(full_match(rf"(.*\.)?({key})", module) for module in listed)]


def is_saved(saved: Iterable[str], module: str) -> bool:
    """Whether a module lies in one of `modules_to_save`: PEFT wraps each whose name *ends* so, dots or none.

    >>> is_saved(["norm"], "model.layers.0.input_layernorm"), is_saved(["lm_head"], "model.norm")
    (True, False)
    """
    names = tuple(saved)
    path = module
    while path:
        if path.endswith(names):
            return bool(names)
        path = path.rpartition(".")[0]
    return False


def layer_index(module: str) -> int | None:
    """The number of the layer: the first part of the name that is a number, not the first part itself.

    >>> layer_index("model.layers.12.self_attn.q_proj")
    12
    """
    for part in module.split(".")[1:]:
        if part.isascii() and part.isdecimal() and len(part) < 9:
            return int(part)
    return None
