"""Adapters of a run that hasn't ended: whatever stops it, there are some that load, beside the exact state.

<adapter>/last-00000120/   of the newest checkpoint
<adapter>/best-00000110/   of the step that evaluated best
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from lorahub.training.checkpoint import FOLDER, sync

Role = Literal["last", "best"]
ROLES: tuple[Role, ...] = ("last", "best")


class KeptAdapters:
    """One of each role, as far as there are any."""

    def __init__(self, adapter: Path) -> None:
        self._folder = adapter

    def keep(self, role: Role, step: int, write: Callable[[Path], object]) -> None:
        """`write` makes a folder, which gets its name when it is whole; then the one before it goes."""
        part, path = self._part(role), self._folder / f"{role}-{step:08d}"
        try:
            write(part)
            for file in part.iterdir():
                sync(file)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)  # half an adapter takes the room that is missing
            raise
        if path.exists():
            self._remove(path)
        part.rename(path)
        sync(self._folder)
        for other in self._all(role):
            if other != path:
                self._remove(other)

    def discard(self, *roles: Role) -> None:
        for role in roles:
            for path in self._all(role):
                self._remove(path)

    @property
    def paths(self) -> dict[Role, str]:
        return {role: str(self._all(role)[-1]) for role in ROLES if self._all(role)}

    @property
    def told(self) -> str:
        """The end of a hint."""
        some = ", ".join(f"{path} (the {role})" for role, path in self.paths.items())
        return f"; adapters that load: {some}" if some else ""

    def _all(self, role: Role) -> list[Path]:
        return sorted(path for path in self._folder.glob(f"{role}-*") if path.name.removeprefix(f"{role}-").isdecimal())

    def _remove(self, path: Path) -> None:
        """By another name first: a folder that is half gone is no adapter."""
        gone = self._part("gone")
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _part(self, name: str) -> Path:
        """A name that nothing has."""
        part = self._folder / FOLDER / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        return part
