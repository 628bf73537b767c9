"""A runtime as lorahub knows it."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from lorahub.adapters.runtimes.facts import Reason, RuntimeFacts

Form = Literal["peft", "peft-normalized", "diffusers", "kohya", "gguf", "mlx"]
"""What adapters are converted into."""


Version = tuple[int, ...]
"""(0, 32, 0); empty of a runtime of which no version was measured."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """`name` is what users type, `label` what its makers call it.

    `formats` are those that it reads as they are, `form` the one that it loads right, into which adapters are converted
    for it. `reasons` tells of an adapter why it isn't simply loaded, at a version. `reads` and `refuses` say in words
    what is known, after which `source`: docs/runtimes.md is made of them. `versions` are those that were measured,
    newest first.
    """

    name: str
    label: str
    form: Form
    formats: Collection[str]
    reasons: Callable[[RuntimeFacts, Version], Iterator[Reason]]
    reads: str
    refuses: str
    source: str
    versions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RuntimeAtVersion:
    """A runtime at a version that was measured, and how its base is quantised; None where nobody said.

    `str` of it is what `parse_runtime` reads: vllm@0.32.0 on awq.
    """

    runtime: Runtime
    version: str | None = None
    quantisation: str | None = None

    @property
    def number(self) -> Version:
        """What stands behind a version's numbers, such as post1, doesn't count."""
        parts = (self.version or "").split(".")
        return tuple(int(part) for part in parts if part.isdecimal())

    def __str__(self) -> str:
        version = f"@{self.version}" if self.version else ""
        base = f" on {self.quantisation}" if self.quantisation else ""
        return f"{self.runtime.name}{version}{base}"
