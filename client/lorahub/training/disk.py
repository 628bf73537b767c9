"""What the disk says, whoever wrote: safetensors has words of its own for it."""

import errno
import os
import re

from safetensors import SafetensorError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NUMBER = re.compile(r"\(os error (\d+)\)")


def refusal_of(error: OSError | SafetensorError) -> OSError | None:
    """The system's own error; None where safetensors means something else."""
    if isinstance(error, OSError):
        return error
    found = _NUMBER.search(str(error))
    return None if found is None else OSError(int(found[1]), os.strerror(int(found[1])))


def is_full(error: OSError) -> bool:
    return error.errno in _FULL
