"""What a project says of its checks: `[check]` and `[environments.NAME]` of lorahub.toml, or of pyproject.toml's
`[tool.lorahub]`.

    [check]
    fail_on = "undecided"                     # what is exit 1, where --fail-on doesn't say
    level = "shapes"
    baseline = "lorahub.baseline.json"        # findings that were there when the gate was set up
    environments = ["production"]             # those that are checked, where --env names none

    [[check.ignore]]                          # a rule that doesn't count: why, and until when
    rule = "LH402"
    adapter = "acme/sql-*"
    base = "acme/llama-*"
    runtime = "vllm"
    reason = "served with PEFT until the summer"
    until = 2027-06-30

    [environments.production]
    bases = ["acme/llama-7b@main"]
    runtimes = ["vllm@0.32"]
    max_lora_rank = 16
    max_adapters = 40
    level = "drift"                           # as deep at least
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lorahub.adapters.findings import Finding
from lorahub.adapters.rules import RULES
from lorahub.adapters.runtimes import parse_runtime
from lorahub.adapters.strict_json import parse_json
from lorahub.errors import InvalidConfiguration, InvalidUsage
from lorahub.hub import configuration
from lorahub.hub.outcomes import FAIL_ON, Checked, fingerprints, plain_name

LEVELS = ("metadata", "shapes", "drift", "load", "eval")
"""Each looks deeper than those before."""
BASELINE = "lorahub.baseline.json"
_MOST_BYTES = 16 << 20
ENVIRONMENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Ignore:
    """A rule that doesn't count where adapter, base and runtime match these patterns: why, and until when."""

    rule: str
    reason: str
    until: date
    adapter: str = "*"
    base: str = "*"
    runtime: str = "*"

    @property
    def is_expired(self) -> bool:
        return datetime.now(UTC).date() > self.until

    def covers(self, checked: Checked, found: Finding) -> bool:
        """A runtime's finding is covered by its name, with or without its version."""
        runtime = str(found.facts.get("runtime", ""))
        return (
            found.rule == self.rule
            and _matches(self.adapter, _spellings(checked.adapter))
            and _matches(self.base, _spellings(checked.base or ""))
            and (self.runtime == "*" or _matches(self.runtime, {runtime, runtime.partition("@")[0]}))
        )

    def __str__(self) -> str:
        narrower = (f"on {self.base}" if self.base != "*" else "", f"in {self.runtime}" if self.runtime != "*" else "")
        return " ".join(filter(None, (f"{self.rule} of {self.adapter}", *narrower)))


def _spellings(name: str) -> set[str]:
    """As written, without its revision, and as a path without `./`."""
    return {name, plain_name(name), name.removeprefix("./").rstrip("/")}


def _matches(pattern: str, names: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern.removeprefix("./").rstrip("/")) for name in names)


@dataclass(frozen=True, slots=True)
class Environment:
    """Where adapters are to run. `max_adapters` is how many it has room for, `level` how deep to look at least."""

    name: str
    bases: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    max_lora_rank: int | None = None
    max_adapters: int | None = None
    level: str | None = None


@dataclass(frozen=True, slots=True)
class ProjectChecks:
    """`environments` has all that are described, `checked` the names of those that are checked unasked."""

    fail_on: str | None = None
    level: str | None = None
    baseline: Path | None = None
    checked: tuple[str, ...] = ()
    ignores: tuple[Ignore, ...] = ()
    environments: Mapping[str, Environment] = field(default_factory=dict)

    def chosen(self, names: Sequence[str]) -> list[Environment]:
        """Raises `InvalidUsage` for a name that isn't described."""
        unknown = next((name for name in names if name not in self.environments), None)
        if unknown is not None:
            known = ", ".join(self.environments) or "none; [environments.NAME] in lorahub.toml describes one"
            raise InvalidUsage(f"no environment is called {unknown!r}", hint=f"there are: {known}")
        return [self.environments[name] for name in names or self.checked]


def deepest(levels: Iterable[str]) -> str:
    """Of these levels.

    >>> deepest(["drift", "shapes"])
    'drift'
    """
    return max(levels, key=LEVELS.index)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_checks() -> ProjectChecks:
    """Of the project's file, from here upwards. Raises `InvalidConfiguration` for a wrong type, key or value."""
    found = configuration.project()
    if found is None:
        return ProjectChecks()
    path, content = found
    table = _Table(content.get("check", {}), f"{path}: check")
    described = _Table(content.get("environments", {}), f"{path}: environments")
    environments = {name: _environment(name, described) for name in described.names(ENVIRONMENT_NAME)}
    baseline = table.text("baseline")
    checks = ProjectChecks(
        fail_on=table.text("fail_on", FAIL_ON),
        level=table.text("level", LEVELS),
        baseline=None if baseline is None else path.parent / baseline,
        checked=table.texts("environments"),
        ignores=tuple(_ignore(one) for one in table.tables("ignore")),
        environments=environments,
    )
    table.require_known()
    for name in checks.checked:
        if name not in environments:
            raise table.wrong("environments", f"names {name!r}, which [environments.{name}] doesn't describe")
    return checks


def _ignore(table: "_Table") -> Ignore:
    rule, reason, until = table.text("rule", tuple(RULES)), table.text("reason"), table.day("until")
    if rule is None or reason is None or not reason.strip() or until is None:
        raise InvalidConfiguration(
            f"{table.where}: it needs a known rule, a reason and an expiry date", hint="docs/rules/README.md shows one"
        )
    narrower = {key: given for key in ("adapter", "base", "runtime") if (given := table.text(key)) is not None}
    table.require_known()
    return Ignore(rule, reason, until, **narrower)


def _environment(name: str, of: "_Table") -> Environment:
    table = of.table(name)
    made = Environment(
        name,
        bases=table.texts("bases"),
        runtimes=table.texts("runtimes"),
        max_lora_rank=table.count("max_lora_rank"),
        max_adapters=table.count("max_adapters"),
        level=table.text("level", LEVELS),
    )
    table.require_known()
    for text in made.runtimes:
        try:
            parse_runtime(text)
        except InvalidUsage as error:
            raise InvalidConfiguration(f"{table.where}: {error.message}", hint=error.hint) from None
    return made


class _Table:
    """A table of TOML, of which every key is asked for once. Raises `InvalidConfiguration` for what isn't as asked."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise InvalidConfiguration(f"{where} is {_called(value)}; expected a table")
        self.where = where
        self._value = value
        self._asked: set[str] = set()

    def wrong(self, key: str, told: str) -> InvalidConfiguration:
        return InvalidConfiguration(f"{self.where}.{key} {told}")

    def _get(self, key: str) -> Any:
        self._asked.add(key)
        return self._value.get(key)

    def names(self, pattern: re.Pattern[str]) -> list[str]:
        for name in self._value:
            if not pattern.fullmatch(name):
                raise InvalidConfiguration(f"{self.where}: {name[:80]!r} is no name", hint="letters, digits and . _ -")
        return list(self._value)

    def table(self, key: str) -> "_Table":
        return _Table(self._get(key), f"{self.where}.{key}")

    def tables(self, key: str) -> list["_Table"]:
        value = self._get(key)
        if value is not None and not isinstance(value, list):
            raise self.wrong(key, f"is {_called(value)}; expected a list of tables")
        return [_Table(one, f"{self.where}.{key}[{number}]") for number, one in enumerate(value or [])]

    def text(self, key: str, choices: Sequence[str] = ()) -> str | None:
        value = self._get(key)
        if value is not None and not isinstance(value, str):
            raise self.wrong(key, f"is {_called(value)}; expected text")
        if value is not None and choices and value not in choices:
            some = ", ".join(choices[:8]) + (", …" if len(choices) > 8 else "")
            raise self.wrong(key, f"is {value[:80]!r}; expected one of: {some}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
            raise self.wrong(key, f"is {_called(value)}; expected a list of texts")
        return tuple(value)

    def count(self, key: str) -> int | None:
        value = self._get(key)
        if value is not None and (type(value) is not int or value < 1):
            raise self.wrong(key, f"is {str(value)[:40]}; expected a whole number from 1")
        return value

    def day(self, key: str) -> date | None:
        value = self._get(key)
        if isinstance(value, str):
            try:
                return date.fromisoformat(value)
            except ValueError:
                raise self.wrong(key, f"is {value[:40]!r}; expected a date: 2027-06-30") from None
        if value is not None and type(value) is not date:
            raise self.wrong(key, f"is {_called(value)}; expected a date: 2027-06-30")
        return value

    def require_known(self) -> None:
        unknown = next((key for key in self._value if key not in self._asked), None)
        if unknown is not None:
            raise InvalidConfiguration(
                f"{self.where} has no key {unknown[:80]!r}", hint=f"there are: {', '.join(sorted(self._asked))}"
            )


def _called(value: Any) -> str:
    names: dict[type, str] = {dict: "a table", list: "a list", str: "text", bool: "true or false"}
    return names.get(type(value), str(value)[:40] if isinstance(value, int | float) else type(value).__name__)


# --- a baseline -------------------------------------------------------------------------------------------------------


def read_baseline(path: Path) -> frozenset[str]:
    """The fingerprints of findings that were there before. Raises `InvalidConfiguration`."""
    try:
        with path.open("rb") as file:
            value = parse_json(file.read(_MOST_BYTES + 1), error=InvalidConfiguration, max_bytes=_MOST_BYTES)
    except OSError as error:
        raise InvalidConfiguration(
            f"can't read the baseline {path}: {error.strerror}", hint="lorahub check … --write-baseline FILE makes one"
        ) from None
    found = value.get("findings") if isinstance(value, dict) else None
    known = [one.get("fingerprint") for one in found if isinstance(one, dict)] if isinstance(found, list) else [None]
    if not all(isinstance(one, str) for one in known):
        raise InvalidConfiguration(f"{path} is no baseline", hint="remove it, then lorahub check … --write-baseline")
    return frozenset(known)  # type: ignore[arg-type]  # all are text


def write_baseline(path: Path, results: Iterable[Checked]) -> int:
    """Every finding of these results, one a line; how many they are."""
    entries = {entry["fingerprint"]: entry for checked in results for entry in _entries(checked)}
    ordered = sorted(entries.values(), key=lambda one: (one["adapter"], one["base"], one["rule"], one["fingerprint"]))
    lines = ",\n".join(f"  {json.dumps(one)}" for one in ordered)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"version": 1, "findings": [\n{lines}\n]}}\n', "utf-8")
    return len(entries)


def _entries(checked: Checked) -> Iterator[dict[str, str]]:
    """What a baseline has already stays in it; what couldn't be checked was never there before."""
    every = [*checked.findings, *(found for found, reason in checked.ignored if reason == IN_THE_BASELINE)]
    for found, fingerprint in zip(every, fingerprints(checked, every), strict=True):
        if found.rule != "LH506":
            yield {
                "rule": found.rule,
                "adapter": plain_name(checked.adapter),
                "base": plain_name(checked.base or ""),
                "says": found.message,
                "fingerprint": fingerprint,
            }


IN_THE_BASELINE = "it was there before: the baseline has it"
