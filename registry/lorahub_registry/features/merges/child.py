"""The process in which one merge is computed: `python -m … JOB`, or `MERGED-ID REPOSITORY` to store a merged revision.

It has limits of its own, so that a merge that needs too much ends alone. Its exit status is 0 where the job is settled
or stored, anything else asks for another try.
"""

import os
import resource
import signal
import sys
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy is imported: two threads are slower than one on small products

import numpy as np  # noqa: E402

from lorahub_registry.features.merged import service as merged  # noqa: E402
from lorahub_registry.features.merges import service  # noqa: E402
from lorahub_registry.infrastructure import failpoints  # noqa: E402
from lorahub_registry.infrastructure.backend import Backend  # noqa: E402
from lorahub_registry.settings import Settings  # noqa: E402


def main(arguments: list[str]) -> None:
    settings = Settings()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    failpoints.arm(settings.failpoint)
    backend = Backend.open(settings)
    np.ones((64, 64)) @ np.ones((64, 64))  # BLAS takes its buffers now; it ends the process where it can't
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + settings.merge_memory_bytes, before[1]))
    try:
        if len(arguments) == 1:
            service.perform(backend, arguments[0])
        else:
            merged.store(backend, arguments[0], int(arguments[1]))
    except MemoryError:
        resource.setrlimit(resource.RLIMIT_AS, before)  # to say so takes memory too
        if len(arguments) == 1:
            service.fail(backend, arguments[0], f"it needs more than {settings.merge_memory_bytes >> 20} MiB of memory")
    finally:
        backend.database.close()


def _address_space() -> int:
    """Bytes that the process has mapped before it begins."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main(sys.argv[1:])
