"""Who can load an adapter, and what they need for it: one module for each runtime, one verdict from the same facts.

To add a runtime: a module with its `RUNTIME`, its place in `RUNTIMES`, and the commands that it is used with in
`lorahub_registry.features.catalog.snippets`. The document docs/runtimes.md is made of the table (`make tables`).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any

from lorahub.adapters.adapter import Adapter
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.findings import Finding, worst_first
from lorahub.adapters.rules import Severity
from lorahub.adapters.runtimes import (
    comfyui,
    diffusers,
    llama_cpp,
    lorax,
    mlx,
    ollama,
    peft,
    sglang,
    transformers,
    vllm,
)
from lorahub.adapters.runtimes.facts import Loads, RuntimeFacts, reserved_rank
from lorahub.adapters.runtimes.runtime import Form, Runtime, RuntimeAtVersion
from lorahub.errors import InvalidUsage, NotConvertible

__all__ = [
    "RUNTIMES",
    "Form",
    "Loads",
    "Runtime",
    "RuntimeAtVersion",
    "RuntimeVerdict",
    "every",
    "judge_runtimes",
    "newest",
    "parse_runtime",
    "reserved_rank",
]

RUNTIMES: Mapping[str, Runtime] = MappingProxyType(
    {
        module.RUNTIME.name: module.RUNTIME
        for module in (peft, transformers, vllm, sglang, lorax, llama_cpp, ollama, diffusers, comfyui, mlx)
    }
)
"""By name, in the order in which they are shown."""

_ASKED = re.compile(r"(?P<name>[^@\s]+)(?:@(?P<version>[0-9][0-9A-Za-z.]*))?(?:\s+on\s+(?P<base>[a-z0-9_-]{1,40}))?")


def parse_runtime(text: str) -> RuntimeAtVersion:
    """`vllm`, `vllm@0.32`, `vllm@0.32 on awq`: the newest that was measured, or the newest 0.32.

    Raises `InvalidUsage` for a runtime that isn't known, and for a version that wasn't measured.

    >>> str(parse_runtime("ollama on gguf"))
    'ollama on gguf'
    """
    asked = _ASKED.fullmatch(text.strip())
    runtime = RUNTIMES.get(asked["name"]) if asked else None
    if asked is None or runtime is None:
        raise InvalidUsage(
            f"no runtime is called {text[:80]!r}",
            hint=f"there are: {', '.join(RUNTIMES)}; vllm@0.32 is one at a version",
        )
    version = asked["version"]
    if version is None:
        return RuntimeAtVersion(runtime, next(iter(runtime.versions), None), asked["base"])
    measured = next((one for one in runtime.versions if f"{one}.".startswith(f"{version}.")), None)
    if measured is None:
        known = ", ".join(runtime.versions) or "none yet"
        raise InvalidUsage(f"{runtime.label} {version} wasn't measured", hint=f"measured are: {known}")
    return RuntimeAtVersion(runtime, measured, asked["base"])


@dataclass(frozen=True, slots=True)
class RuntimeVerdict:
    """`version` is the one that it is true of, None where none was measured; `reasons` are (rule, sentence); `needs` is
    an option or a command.
    """

    runtime: str
    loads: Loads
    reasons: tuple[tuple[str, str], ...] = ()
    needs: str | None = None
    version: str | None = None
    quantisation: str | None = None
    """How the base was said to be kept."""

    @property
    def name(self) -> str:
        """As `parse_runtime` reads it."""
        return str(RuntimeAtVersion(RUNTIMES[self.runtime], self.version, self.quantisation))

    @property
    def is_usable(self) -> bool:
        return self.loads in (Loads.YES, Loads.WITH)

    def as_json(self) -> dict[str, Any]:
        return {
            "runtime": self.runtime,
            "version": self.version,
            "loads": self.loads.value,
            "reasons": [{"rule": rule, "message": message} for rule, message in self.reasons],
            "needs": self.needs,
        }


AskConverter = Callable[[Adapter, Form, BaseLayout | None], NotConvertible | None]
"""Why an adapter can't be converted; None where it can. It is `lorahub.conversion.refusal`, which stands on this."""


def newest() -> tuple[RuntimeAtVersion, ...]:
    """Every runtime at the newest version that was measured."""
    return tuple(RuntimeAtVersion(one, next(iter(one.versions), None)) for one in RUNTIMES.values())


def older() -> tuple[RuntimeAtVersion, ...]:
    """Every runtime at every other version that was measured, newest first."""
    return tuple(RuntimeAtVersion(one, version) for one in RUNTIMES.values() for version in one.versions[1:])


def judge_runtimes(
    adapter: Adapter,
    base: BaseLayout | None,
    findings: Iterable[Finding],
    asked: Iterable[RuntimeAtVersion],
    converter: AskConverter,
) -> Iterator[RuntimeVerdict]:
    """`findings` are those of the check of the adapter against the base. One that can't be read gets no verdicts, one
    that doesn't fit is loaded right by none.
    """
    if not adapter.has_format:
        return
    found = tuple(findings)
    error = next((one for one in worst_first(found) if one.severity is Severity.ERROR), None)
    facts_on = cache(lambda quantisation: RuntimeFacts(adapter, base, found, quantisation))
    refusal = cache(lambda form: converter(adapter, form, base))
    for one in asked:
        judged = _judged(one, facts_on(one.quantisation), refusal)
        if error is not None:
            reasons = ((error.rule, error.message), *judged.reasons)
            judged = replace(judged, loads=Loads.NO, reasons=reasons, needs=None)
        yield judged


def _judged(
    asked: RuntimeAtVersion, facts: RuntimeFacts, refusal: Callable[[Form], NotConvertible | None]
) -> RuntimeVerdict:
    """As it is, and where that won't do, as the converter would make it."""
    runtime = asked.runtime
    loads, reasons = _worst(runtime.reasons(facts, asked.number))
    rules = {rule for rule, _ in reasons}
    needs = f"--max-lora-rank {reserved_rank(facts.rank)}" if loads is Loads.WITH and "LH401" in rules else None
    if loads in (Loads.NO, Loads.WRONG):
        refused = refusal(runtime.form)
        after, _ = _worst(runtime.reasons(facts.converted(runtime.form), asked.number))
        if refused is None and after in (Loads.YES, Loads.WITH):
            loads = Loads.WITH if loads is Loads.NO else loads
            needs = f"lorahub pull --for {runtime.name}"
        elif refused is None and after is Loads.UNKNOWN:
            loads = after
        elif refused is not None and rules == {"LH405"}:
            loads = Loads.NO if facts.base is not None else Loads.UNKNOWN  # what the names are may depend on the base
            reasons = (*reasons, (refused.facts.get("rule") or "LH405", refused.message))
    return RuntimeVerdict(runtime.name, loads, reasons, needs, asked.version, asked.quantisation)


def _worst(reasons: Iterable[tuple[Loads, str, str]]) -> tuple[Loads, tuple[tuple[str, str], ...]]:
    found = list(reasons)
    order = [Loads.NO, Loads.WRONG, Loads.UNKNOWN, Loads.WITH, Loads.YES]
    worst = min((loads for loads, _, _ in found), key=order.index, default=Loads.YES)
    return worst, tuple((rule, message) for _, rule, message in found)
