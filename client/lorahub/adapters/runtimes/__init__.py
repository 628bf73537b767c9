"""Who can load an adapter, and what they need for it: one module for each runtime, one verdict from the same facts.

To add a runtime: a module with its `RUNTIME`, its place in `RUNTIMES`, and the commands that it is used with in
`lorahub_registry.features.catalog.snippets`. The document docs/runtimes.md is made of the table (`make tables`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from lorahub.adapters.adapter import Adapter
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.findings import Finding
from lorahub.adapters.runtimes import comfyui, diffusers, llama_cpp, lorax, mlx, ollama, peft, sglang, vllm
from lorahub.adapters.runtimes.facts import Loads, Reason, RuntimeFacts, reserved_rank
from lorahub.adapters.runtimes.runtime import Form, Runtime, RuntimeAtVersion
from lorahub.errors import InvalidUsage

__all__ = [
    "RUNTIMES",
    "Form",
    "Loads",
    "Runtime",
    "RuntimeAtVersion",
    "RuntimeVerdict",
    "judge_runtimes",
    "parse_runtime",
    "reserved_rank",
]

RUNTIMES: Mapping[str, Runtime] = MappingProxyType(
    {
        module.RUNTIME.name: module.RUNTIME
        for module in (peft, vllm, sglang, lorax, llama_cpp, ollama, diffusers, comfyui, mlx)
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
    """`reasons` are (rule, sentence); `needs` is an option or a command."""

    runtime: str
    loads: Loads
    reasons: tuple[tuple[str, str], ...] = ()
    needs: str | None = None

    @property
    def is_usable(self) -> bool:
        return self.loads in (Loads.YES, Loads.WITH)

    def as_json(self) -> dict[str, Any]:
        return {
            "runtime": self.runtime,
            "loads": self.loads.value,
            "reasons": [{"rule": rule, "message": message} for rule, message in self.reasons],
            "needs": self.needs,
        }


def judge_runtimes(adapter: Adapter, base: BaseLayout | None) -> Iterator[RuntimeVerdict]:
    """All of `RUNTIMES`. An adapter that can't be read gets none."""
    if not adapter.has_format:
        return
    facts = RuntimeFacts(adapter, base)
    for runtime in RUNTIMES.values():
        yield _judge(runtime, list(runtime.reasons(facts)), facts)


def loaded_by_none(judged: Iterable[RuntimeVerdict], found: Finding) -> tuple[RuntimeVerdict, ...]:
    """The same of an adapter that doesn't fit, because of what was found."""
    reason = (found.rule, found.message)
    return tuple(replace(one, loads=Loads.NO, reasons=(reason, *one.reasons), needs=None) for one in judged)


def _judge(runtime: Runtime, reasons: list[Reason], facts: RuntimeFacts) -> RuntimeVerdict:
    order = [Loads.NO, Loads.WRONG, Loads.UNKNOWN, Loads.WITH, Loads.YES]
    worst = min((loads for loads, _, _ in reasons), key=order.index, default=Loads.YES)
    needs = _needs(runtime, reasons, facts) if worst in (Loads.WITH, Loads.WRONG) else None
    return RuntimeVerdict(runtime.name, worst, tuple((rule, message) for _, rule, message in reasons), needs)


def _needs(runtime: Runtime, reasons: Iterable[Reason], facts: RuntimeFacts) -> str | None:
    rules = {rule for _, rule, _ in reasons}
    if "LH405" in rules:
        return f"lorahub pull --for {runtime.name}"
    if rules & {"LH407", "LH408"}:
        return "lorahub convert --to peft-normalized"
    if "LH401" in rules:
        return f"--max-lora-rank {reserved_rank(facts.rank)}"
    return None
