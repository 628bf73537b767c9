"""Starts of training that change the base: what PEFT takes from W whenever it loads such an adapter.

The one table of them. A start that isn't here leaves the base alone; the check, conversions and merges ask nobody else.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Taken(StrEnum):
    """What is subtracted from W (out, in), by the update's rank r and scale s."""

    LARGEST = "largest"  # U S V of the r largest singular values
    SMALLEST = "smallest"  # of the r smallest
    ORTHOGONAL = "orthogonal"  # s · Q[:, :r] R[:r]


@dataclass(frozen=True, slots=True)
class BaseChange:
    """`setting` is what asks for it. `taken` is None where the adapter's files don't tell, and `why` says why not."""

    setting: str
    taken: Taken | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class _Start:
    """A value of `init_lora_weights` begins with `name`."""

    name: str
    taken: Taken | None
    why: str = ""


_STARTS = (
    _Start("pissa_niter", None, "its start is a randomised decomposition, another one each time that it is loaded"),
    _Start("pissa", Taken.LARGEST),
    _Start("olora", Taken.ORTHOGONAL),
    _Start("corda", None, "the covariances that its start was made of are not in its files"),
    _Start("loftq", None, "the base was replaced by a quantised copy of itself"),
    _Start("lora_ga", None, "the gradients that its start was made of are not in its files"),
)


def base_change(init: Any, *, is_kasa: bool) -> BaseChange | None:
    """What a configuration's `init_lora_weights` and `kasa_config` ask for.

    >>> base_change("pissa", is_kasa=False).taken.value, base_change(True, is_kasa=False)
    ('largest', None)
    """
    given = init.lower() if isinstance(init, str) else ""
    start = next((one for one in _STARTS if given.startswith(one.name)), None)
    if start is None:
        return BaseChange("kasa_config", Taken.SMALLEST) if is_kasa else None
    setting = f"init_lora_weights={given}"
    if is_kasa and start.taken is not None:
        return BaseChange(setting, Taken.SMALLEST)
    return BaseChange(setting, start.taken, start.why)
