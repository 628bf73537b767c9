"""What libraries raise, in one line, and memory that is too small, for which they have no one class."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from lorahub.errors import LimitExceeded


def reason(error: BaseException) -> str:
    """What a library says; its kind too, where the message alone says little."""
    told = " ".join(str(error).split())
    if not isinstance(error, OSError | RuntimeError) and type(error) is not ValueError:
        told = f"{type(error).__name__}: {told}"
    return told if len(told) <= 200 else f"{told[:199]}…"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of a GPU, or of the machine, didn't suffice."""
    is_own = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return is_own or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


@contextmanager
def within_memory(hint: Callable[[], str]) -> Iterator[None]:
    """Raises `LimitExceeded` where there is too little."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise LimitExceeded(f"the memory is too small: {reason(error)}", hint=hint()) from error
