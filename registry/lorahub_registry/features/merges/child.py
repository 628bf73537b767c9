"""The process in which one file of a merge is computed: `python -m … file JOB PATH`, `publish JOB`, or
`store MERGED-ID REPOSITORY PATH`.

It has limits of its own, so that a merge that needs too much ends alone. Its exit status is 0 where the work is done or
the job is over, `service.COME_AGAIN` where something else is away; standard output has the reason.
"""

import logging
import os
import resource
import signal
import sys
import traceback
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy is imported: two threads are slower than one on small products

import numpy as np  # noqa: E402
from lorahub.errors import InvalidUsage  # noqa: E402
from lorahub.merging.devices import open_device  # noqa: E402
from lorahub.merging.plan import Device  # noqa: E402

from lorahub_registry.features.merged import service as merged  # noqa: E402
from lorahub_registry.features.merges import service  # noqa: E402
from lorahub_registry.infrastructure import failpoints, logs  # noqa: E402
from lorahub_registry.infrastructure.backend import Backend  # noqa: E402
from lorahub_registry.settings.reading import read  # noqa: E402

logger = logging.getLogger("lorahub")

_DEVICE_ADDRESSES = 16 << 30
"""What a GPU's driver maps later on for tensors there: addresses, and no memory of this machine. What it maps at the
start, hundreds of gigabytes, isn't counted at all.
"""


def main(arguments: list[str]) -> int:
    settings = read()
    logs.configure(settings.log_format, settings.log_level)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    failpoints.arm(settings.failpoint)
    backend = Backend.open(settings)
    np.ones((64, 64)) @ np.ones((64, 64))  # BLAS takes its buffers now; it ends the process where it can't
    try:
        device = None if arguments[0] == "publish" else open_device(settings.merge_device)
    except InvalidUsage as error:  # it was there when the worker began
        sys.stdout.write(error.message)
        return 1
    before = resource.getrlimit(resource.RLIMIT_AS)
    room = settings.merge_memory_bytes + (_DEVICE_ADDRESSES if device else 0)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + room, before[1]))
    try:
        _work(backend, device, *arguments)
    except MemoryError:
        resource.setrlimit(resource.RLIMIT_AS, before)  # to say so takes memory too
        reason = f"it needs more than {settings.merge_memory_bytes >> 20} MiB of memory"
        if arguments[0] != "store":
            service.fail(backend, arguments[1], reason)
        sys.stdout.write(reason)
        return int(arguments[0] == "store")
    except Exception as error:  # noqa: BLE001 (the worker is told)
        traceback.print_exc()
        sys.stdout.write(f"{type(error).__name__}: {error}")
        return service.COME_AGAIN if service.passes(error) else 1
    finally:
        backend.database.close()
    return 0


def _work(backend: Backend, device: Device | None, what: str, *names: str) -> None:
    if what == "file":
        service.compute_file(backend, *names, device=device)
    elif what == "publish":
        service.publish_result(backend, *names)
    else:
        merged_id, repository_id, path = names
        merged.store_file(backend, merged_id, int(repository_id), path, device=device)
    if device is not None:
        logger.info("merged on %s: %s", device, device.account, extra={"facts": {what: names[0], "path": names[-1]}})


def _address_space() -> int:
    """Bytes that the process has mapped before it begins."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    return pages * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
