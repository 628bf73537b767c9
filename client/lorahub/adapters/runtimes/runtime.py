"""A runtime as lorahub knows it."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from lorahub.adapters.runtimes.facts import Reason, RuntimeFacts

Form = Literal["peft", "peft-normalized", "diffusers", "kohya", "gguf", "mlx"]
"""What adapters are converted into."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """`name` is what users type, `label` what its makers call it.

    `formats` are those that it reads as they are, `form` the one that it loads right, into which adapters are converted
    for it. `reasons` tells of an adapter why it isn't simply loaded. `reads` and `refuses` say in words what is known,
    of which `version`, where somebody noted it, and after which `source`: docs/runtimes.md is made of them.
    """

    name: str
    label: str
    form: Form
    formats: Collection[str]
    reasons: Callable[[RuntimeFacts], Iterator[Reason]]
    reads: str
    refuses: str
    source: str
    version: str | None = None
