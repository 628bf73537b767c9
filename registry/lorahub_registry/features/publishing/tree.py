"""The files of a revision while the operations of a commit change them, one after the other.

Each costs about the same, however many files there are: 10,000 deletions among 10,000 files are no more than that.
"""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Generic, TypeVar

File = TypeVar("File")


class Tree(Generic[File]):
    def __init__(self, files: Mapping[str, File]) -> None:
        self.files = dict(files)
        self._paths = sorted(self.files)
        """In order; also some that were deleted."""

    def put(self, path: str, file: File) -> None:
        if path not in self.files:
            place = bisect_left(self._paths, path)
            if self._paths[place : place + 1] != [path]:
                self._paths.insert(place, path)
        self.files[path] = file

    def delete(self, path: str) -> list[str]:
        """The file, or else the folder, of this path. What went; nothing if there was neither."""
        return [path] if self.files.pop(path, None) is not None else self.delete_folder(path)

    def delete_folder(self, path: str | None) -> list[str]:
        """What went. `path` None is everything."""
        if path is None:
            gone = list(self.files)
            self.files.clear()
            return gone
        start = bisect_left(self._paths, f"{path}/")
        stop = bisect_left(self._paths, f"{path}0", lo=start)  # the character behind the slash
        gone = [each for each in self._paths[start:stop] if each in self.files]
        del self._paths[start:stop]
        for each in gone:
            del self.files[each]
        return gone
