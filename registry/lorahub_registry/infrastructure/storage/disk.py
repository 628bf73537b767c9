"""Room on a disk: what stays free, so that the database, the logs and whoever makes room can go on writing."""

import shutil
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, cast

from lorahub.errors import DiskFull

from lorahub_registry.infrastructure import metrics


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk that a folder is on. `reserve_bytes` stay free on it, or a tenth of a small one."""

    folder: Path
    reserve_bytes: int = 0

    def require(self, size: int) -> None:
        """Raises `DiskFull` where so many bytes more would touch the reserve; `OSError` where there is no such disk."""
        usage = shutil.disk_usage(self.folder)
        reserve = min(self.reserve_bytes, usage.total // 10)
        if self.reserve_bytes and usage.free - size < reserve:
            metrics.STORAGE_FAULTS.labels("Reserve").inc()
            raise DiskFull(
                f"the registry's disk has {max(usage.free - reserve, 0)} bytes left for files, {size} more are too "
                "many; nothing of this is kept",
                hint="free space on the registry, then try again",
            )

    def guarded(self, file: BinaryIO) -> BinaryIO:
        """The same file; what is written to it is asked about first."""
        return cast(BinaryIO, _Guarded(self, file))


class _Guarded(RawIOBase):
    def __init__(self, disk: Disk, file: BinaryIO) -> None:
        self._disk = disk
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self._disk.require(len(piece))
        return self._file.write(piece)
