"""`.gitignore` rules, matched without a regular expression: patterns come from clients.

The time for one rule is bounded by the length of the path times the length of the rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_RULES = 1000
MAX_RULE_LENGTH = 256


@dataclass(frozen=True, slots=True)
class Rule:
    elements: tuple[str, ...]
    """Of the pattern; `**` stands for any number of path elements."""
    is_negated: bool
    only_folders: bool


def parse_rules(text: str) -> list[Rule]:
    """The rules of a `.gitignore` (gitignore(5)). What is over the bounds is left out, so less is ignored."""
    return [rule for line in text.splitlines()[:MAX_RULES] if (rule := _parse(line)) is not None]


def _parse(line: str) -> Rule | None:
    pattern = line.rstrip()
    if not pattern or pattern.startswith("#") or len(pattern) > MAX_RULE_LENGTH:
        return None
    is_negated = pattern.startswith("!")
    pattern = pattern.removeprefix("!").removeprefix("\\")
    only_folders = pattern.endswith("/")
    is_anchored = "/" in pattern.rstrip("/")
    elements = [element for element in pattern.split("/") if element]
    if not elements:
        return None
    return Rule(tuple(elements if is_anchored else ["**", *elements]), is_negated, only_folders)


def is_ignored(path: str, rules: Sequence[Rule]) -> bool:
    """The last rule that matches the path, or a folder above it, decides."""
    elements = path.split("/")
    for depth in range(1, len(elements) + 1):
        is_folder = depth < len(elements)
        verdict = _last_verdict(elements[:depth], rules, is_folder=is_folder)
        if verdict:
            return True
    return False


def _last_verdict(elements: Sequence[str], rules: Sequence[Rule], *, is_folder: bool) -> bool:
    for rule in reversed(rules):
        if (is_folder or not rule.only_folders) and _matches(elements, rule.elements):
            return not rule.is_negated
    return False


def _matches(elements: Sequence[str], pattern: Sequence[str]) -> bool:
    """`reached[j]`: the elements so far match the first j of the pattern."""
    reached = [True] + [False] * len(pattern)
    _skip_stars(reached, pattern)
    for element in elements:
        following = [False] * (len(pattern) + 1)
        for j, part in enumerate(pattern):
            if reached[j] and part == "**":
                following[j] = True
            elif reached[j] and matches_element(element, part):
                following[j + 1] = True
        reached = following
        _skip_stars(reached, pattern)
    return reached[-1]


def _skip_stars(reached: list[bool], pattern: Sequence[str]) -> None:
    for j, part in enumerate(pattern):
        if reached[j] and part == "**":
            reached[j + 1] = True


def matches_element(text: str, pattern: str) -> bool:
    """`*` and `?` inside one path element; greedy with one point of return, so at most len(text) × len(pattern) steps.

    >>> matches_element("checkpoint-100", "checkpoint-*"), matches_element("a.txt", "?.md")
    (True, False)
    """
    i = j = 0
    star, resume = -1, 0
    while i < len(text):
        if j < len(pattern) and pattern[j] == "*":
            star, resume, j = j, i, j + 1
        elif j < len(pattern) and pattern[j] in ("?", text[i]):
            i, j = i + 1, j + 1
        elif star >= 0:
            resume += 1
            i, j = resume, star + 1
        else:
            return False
    return all(c == "*" for c in pattern[j:])
