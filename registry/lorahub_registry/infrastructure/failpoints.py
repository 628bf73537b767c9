"""Places at which a crash test kills the process: `LORAHUB_FAILPOINT=<name>`."""

import os
import signal

from lorahub.errors import InvalidConfiguration

_armed: str | None = None

PUBLICATION = (
    "upload-opened",
    "bytes-received",
    "blob-moved",
    "bytes-verified",
    "blob-recorded",
    "commit-parsed",
    "files-stored",
    "files-verified",
    "files-recorded",
    "adapter-inspected",
    "transaction-begun",
    "commit-inserted",
    "reference-moved",
    "transaction-ready",
    "transaction-committed",
)
MERGE = ("merge-file-computed", "merge-computed", "merge-published")
UPSTREAM = ("upstream-part", "upstream-fetched")


def arm(name: str | None) -> None:
    """Raises `InvalidConfiguration` for a name that no step has."""
    global _armed  # noqa: PLW0603 (one process, one failpoint)
    if name is not None and name not in PUBLICATION + MERGE + UPSTREAM:
        raise InvalidConfiguration(
            f"LORAHUB_FAILPOINT is {name!r}",
            hint=f"it is the name of a step: {', '.join(PUBLICATION + MERGE + UPSTREAM)}",
        )
    _armed = name


def reach(name: str) -> None:
    """Dies here, as by `kill -9`, if this failpoint is armed."""
    if _armed == name:
        os.kill(os.getpid(), signal.SIGKILL)
