"""PEFT's patterns: which modules a list of names or a regular expression means.

An expression that somebody sent is never given to `re`, whose time has no bound: RE2 matches in linear time and has
neither look-around nor back references. One that RE2 refuses can't be evaluated; `matches` says None then.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

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


def ends_with(module: str, name: str) -> bool:
    """Whether the last names of the module are `name`.

    >>> ends_with("a.q_proj", "q_proj"), ends_with("a.xq_proj", "q_proj")
    (True, False)
    """
    return module == name or module.endswith("." + name)


def pattern_key(patterns: Mapping[str, Any], module: str) -> str | None:
    r"""The first key, in the file's order, that `re.match(rf"(.*\\.)?({key})$", module)` accepts (PEFT 0.21
    `get_pattern_key`).
    """
    for key in patterns:
        if is_literal(key) and ends_with(module, key):
            return key
        if not is_literal(key) and full_match(rf"(.*\.)?({key})", module):
            return key
    return None


def is_target(targets: str | Iterable[str], module: str) -> bool | None:
    """Whether `target_modules` names the module: a list by name or ending, a text as an expression."""
    if isinstance(targets, str):
        return full_match(targets, module)
    return any(ends_with(module, name) for name in targets)


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
        if part.isdecimal():
            return int(part)
    return None
