"""The worker: runs background jobs until it is told to stop, or whoever started it is gone.

`lorahub serve` starts one beside itself; `lorahub worker` is another, on this machine or on any that reaches the
database and the storage.
"""

import os
import signal
import sys
import threading
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy is imported: two threads are slower than one on small products

from lorahub_registry.features.merges import tasks as merges  # noqa: E402
from lorahub_registry.features.statistics import tasks as statistics  # noqa: E402
from lorahub_registry.infrastructure.backend import Backend  # noqa: E402
from lorahub_registry.infrastructure.jobs import launch, shut_down  # noqa: E402
from lorahub_registry.settings import Settings  # noqa: E402

POLL_SECONDS = 1.0


def run(backend: Backend, *, name: str, parent: int | None = None) -> None:
    """Until SIGTERM, SIGINT, or until the process `parent` is no longer ours."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    statistics.use(backend)
    merges.use(backend)
    launch(backend.settings, name=name)
    try:
        while not stop.is_set() and (parent is None or os.getppid() == parent):
            if not statistics.start_wanted(backend) + merges.start_wanted(backend):
                stop.wait(POLL_SECONDS)
    finally:
        merges.stop()
        shut_down()
        backend.database.close()


def main(home: str, parent: str) -> None:
    """The child of `lorahub serve`."""
    run(Backend.open(Settings(registry_home=Path(home))), name="serve", parent=int(parent))


if __name__ == "__main__":
    main(*sys.argv[1:])
