"""Workers in processes of their own: started, killed, paused, told to end."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from registry_process import Registry, eventually
from services import preloaded


@dataclass
class Worker:
    """`lorahub worker --name NAME`. With `machine` it shares no folder with others but the stored bytes."""

    registry: Registry
    name: str
    machine: Path | None = None
    settings: dict[str, str] = field(default_factory=dict)
    process: preloaded.Process | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> "Worker":
        environment = {**os.environ, **self.registry.settings, **self.settings}
        self.process = preloaded.start(["worker", "--home", str(self._home()), "--name", self.name], environment)
        return self

    def started(self) -> "Worker":
        """When it has signed on."""
        self.start()
        eventually(lambda: self.is_known() or self.process is None or self.process.poll() is not None, 60)
        return self

    def is_known(self) -> bool:
        return self.registry.sql("select pid from workers where name = :name", name=self.name) == [(self.pid,)]

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def wake(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def tell_to_end(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 60) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    def children(self) -> list[psutil.Process]:
        """Processes that compute files."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def hold_a_file(self) -> psutil.Process:
        """Stops the process of a file in its midst, as soon as there is one."""
        eventually(self.children, 60)
        [child, *_] = self.children()
        child.suspend()
        return child

    def _home(self) -> Path:
        if self.machine is None:
            return self.registry.home
        self.machine.mkdir(exist_ok=True)
        for name in ("storage", "secret"):
            if (self.registry.home / name).exists() and not (self.machine / name).exists():
                (self.machine / name).symlink_to(self.registry.home / name)
        return self.machine
