"""How fast this machine is now: limits of processor time are those of a quiet one."""

import json
import time

_WORK = {f"key{n}": [n, str(n), None] for n in range(500)}
_QUIET = 0.0075  # seconds of `pace`'s work


def pace() -> float:
    """How many times longer the same work takes here and now than it did where the limits were set; at least 1.

    Processor time isn't free of what else the machine does: two threads of a core share its caches and its units.
    """
    before = time.process_time()
    for _ in range(20):
        json.loads(json.dumps(_WORK))
    return max(1.0, (time.process_time() - before) / _QUIET)
