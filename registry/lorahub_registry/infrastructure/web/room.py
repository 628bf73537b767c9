"""How many connections and requests this process has room for: each takes a descriptor, of which there are so many."""

import logging
import resource
from dataclasses import dataclass

from lorahub_registry.settings import Settings

logger = logging.getLogger("lorahub")

_OWN_FILES = 256
"""For the database, the storage's connections, libraries and logs."""


@dataclass(frozen=True, slots=True)
class ProcessRoom:
    connections: int
    requests: int


def make_room(settings: Settings) -> None:
    """Raises the process's limit of open files to what its connections need, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.connections + settings.requests_at_once + _OWN_FILES
    if _is_below(soft, needed):
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    room = room_for(settings)
    if room.connections < settings.connections:
        logger.warning(
            "this process may have %d open files, which is room for %d connections and %d requests at once; %d are "
            "needed for LORAHUB_CONNECTIONS and LORAHUB_REQUESTS_AT_ONCE (ulimit -n)",
            hard,
            room.connections,
            room.requests,
            needed,
        )


def room_for(settings: Settings) -> ProcessRoom:
    """As many as are set, or the same share of both."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.connections + settings.requests_at_once
    if not _is_below(files, wanted + _OWN_FILES):
        return ProcessRoom(settings.connections, settings.requests_at_once)
    share = max(files - _OWN_FILES, files // 2) / wanted
    return ProcessRoom(max(int(settings.connections * share), 1), max(int(settings.requests_at_once * share), 1))


def _is_below(limit: int, needed: int) -> bool:
    return limit != resource.RLIM_INFINITY and limit < needed
