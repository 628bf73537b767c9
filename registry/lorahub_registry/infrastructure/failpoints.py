"""Named places in a publication at which a crash test kills the process: `LORAHUB_FAILPOINT=<name>`."""

import os
import signal

_armed: str | None = None

NAMES = (
    "upload-opened",
    "bytes-received",
    "bytes-verified",
    "blob-moved",
    "blob-recorded",
    "staging-removed",
    "commit-parsed",
    "adapter-inspected",
    "transaction-begun",
    "commit-inserted",
    "reference-moved",
    "transaction-ready",
    "transaction-committed",
)


def arm(name: str | None) -> None:
    """Raises `ValueError` for a name that no step has."""
    global _armed  # noqa: PLW0603 (one process, one failpoint)
    if name is not None and name not in NAMES:
        raise ValueError(f"unknown failpoint {name!r}; there are: {', '.join(NAMES)}")
    _armed = name


def reach(name: str) -> None:
    """Dies here, as by `kill -9`, if this failpoint is armed."""
    if _armed == name:
        os.kill(os.getpid(), signal.SIGKILL)
