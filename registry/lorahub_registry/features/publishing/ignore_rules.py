"""`.gitignore` rules, as git reads them (gitignore(5), wildmatch.c), in a bounded time: they come from clients.

The rules become expressions of RE2, whose time is at most the length of a path times that of the rules. How much of
that one request may ask for has a bound, too.
"""

import re
import string
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import re2
from lorahub.errors import InvalidInput

MAX_RULES = 1000
MAX_RULE_LENGTH = 256
MAX_WORK = 1 << 30
"""Characters of rules times characters of paths, in one request: some seconds, where the rules are made to be slow."""

_RULES_OF_ONE_EXPRESSION = 16  # so many of the longest still fit into the memory of one
_ASCII = [chr(number) for number in range(128)]
_CLASSES = {
    "alnum": string.ascii_letters + string.digits,
    "alpha": string.ascii_letters,
    "blank": " \t",
    "cntrl": [character for character in _ASCII if ord(character) < 32 or ord(character) == 127],
    "digit": string.digits,
    "graph": [character for character in _ASCII if 32 < ord(character) < 127],
    "lower": string.ascii_lowercase,
    "print": [character for character in _ASCII if 32 <= ord(character) < 127],
    "punct": string.punctuation,
    "space": " \t\n\r",
    "upper": string.ascii_uppercase,
    "xdigit": string.hexdigits,
}


@dataclass(frozen=True, slots=True)
class _Rule:
    expression: str
    """Matches a path as bytes read as Latin-1; a folder's ends with a slash."""
    is_negated: bool


@dataclass
class IgnoreRules:
    """What is ignored, for the paths of one request."""

    size: int
    groups: list[tuple[Any, bool]]
    """The last rule first: an expression for neighbours that say the same, and whether they ignore."""
    folders: dict[str, bool] = field(default_factory=dict)
    work: int = 0

    def ignores(self, path: str) -> bool:
        """The last rule that matches the path decides, unless a folder above it is ignored.

        Raises `InvalidInput` where too much has been asked of these rules.
        """
        parents = [path[: end.start()] for end in re.finditer("/", path)]
        return any(self._ignores_folder(parent) for parent in parents) or self._verdict(path)

    def _ignores_folder(self, path: str) -> bool:
        if path not in self.folders:
            self.folders[path] = self._verdict(f"{path}/")
        return self.folders[path]

    def _verdict(self, text: str) -> bool:
        content = text.encode("utf-8", "surrogatepass")
        self.work += len(content) * self.size
        if self.work > MAX_WORK:
            raise InvalidInput(
                "these are too many paths to try so many rules of .gitignore on",
                hint="ask for fewer files at a time, or send a shorter .gitignore",
            )
        return next((ignores for expression, ignores in self.groups if expression.fullmatch(content)), False)


def parse_rules(text: str) -> IgnoreRules:
    """The rules of a `.gitignore`. What is over the bounds is left out, so less is ignored."""
    lines = text.removeprefix("\ufeff").split("\n")[:MAX_RULES]
    rules = [rule for line in lines if (rule := _parse(line)) is not None]
    groups: list[tuple[Any, bool]] = []
    for is_negated, found in groupby(reversed(rules), key=lambda rule: rule.is_negated):
        alike = [rule.expression for rule in found]
        starts = range(0, len(alike), _RULES_OF_ONE_EXPRESSION)
        parts = (alike[start : start + _RULES_OF_ONE_EXPRESSION] for start in starts)
        groups += [(_compiled(part), not is_negated) for part in parts]
    return IgnoreRules(sum(map(len, lines)), groups)


def is_ignored(path: str, rules: IgnoreRules) -> bool:
    return rules.ignores(path)


def _compiled(expressions: list[str]) -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.dot_nl = True
    options.log_errors = False
    return re2.compile("|".join(expressions).encode("latin-1"), options)


def _parse(line: str) -> _Rule | None:
    if len(line) > MAX_RULE_LENGTH or line.startswith("#"):
        return None
    pattern = re.sub(r"(?<!\\) +$", "", line.removesuffix("\r"))
    is_negated = pattern.startswith("!")
    pattern = pattern.removeprefix("!")
    end = "/" if pattern.endswith("/") else "/?"
    pattern = pattern.removesuffix("/")
    where = "" if "/" in pattern else "(?:.*/)?"
    expression = _expression(pattern.encode("utf-8", "surrogatepass").decode("latin-1"))
    return _Rule(where + expression.removeprefix("/") + end, is_negated) if expression else None


_SPECIAL = {*"*?[\\"}


def _expression(pattern: str) -> str:
    """The pattern for RE2; an empty text for one that never matches."""
    parts, at = [], 0
    while at < len(pattern):
        match pattern[at]:
            case "*":
                part, at = _stars(pattern, at)
            case "?":
                part, at = "[^/]", at + 1
            case "[":
                part, at = _bracket(pattern, at + 1)
            case "\\":
                part, at = re.escape(pattern[at + 1 : at + 2]), at + 2
            case character:
                part, at = re.escape(character), at + 1
        if not part:
            return ""
        parts.append(part)
    return "".join(parts)


def _stars(pattern: str, start: int) -> tuple[str, int]:
    """Two or more stars that are a whole element of the path stand for any number of elements; git takes those that
    follow nothing but plain characters for such an element.

    Gives the expression, and where the rest of the pattern begins; so does `_bracket`.
    """
    end = len(pattern) - len(pattern[start:].lstrip("*"))
    begins = start == 0 or pattern[start - 1] == "/"
    ends = pattern[end : end + 1] in ("/", "")
    if end - start > 1 and "/" in pattern and ends and (begins or not _SPECIAL & {*pattern[:start]}):
        return ("(?:.*/)?", end + 1) if end < len(pattern) else (".+" if begins else ".*", end)
    return "[^/]+" if begins and ends else "[^/]*", end


def _bracket(pattern: str, start: int) -> tuple[str, int]:
    """The characters after `[`: a `]` that comes first is one of them, and so is a `-` that has no neighbour.

    The expression is empty where the bracket doesn't end, or names an unknown class.
    """
    is_negated = pattern[start : start + 1] in ("!", "^")
    at = first = start + is_negated
    members: set[str] = set()
    before = ""
    while at < len(pattern) and (pattern[at] != "]" or at == first):
        named = re.match(r"\[:([^\]]*):\]", pattern[at:])
        is_range = before and pattern[at] == "-" and pattern[at + 1 : at + 2] not in ("", "]")
        at += bool(is_range)
        at += pattern[at] == "\\" and not named
        if named:
            if named[1] not in _CLASSES:
                return "", at
            members.update(_CLASSES[named[1]])
            before, at = "", at + named.end()
        elif at < len(pattern):
            character = pattern[at]
            members.update(map(chr, range(ord(before), ord(character) + 1)) if is_range else character)
            before, at = "" if is_range else character, at + 1
    if at >= len(pattern):
        return "", at
    members = members | {"/"} if is_negated else members - {"/"}
    listed = "".join(f"\\x{ord(member):02x}" for member in sorted(members))
    return f"[{'^' * is_negated}{listed}]" if listed else "", at + 1
