"""The same registry in a thread of the tests' own process: nothing is started, and nothing imported anew."""

import os
import socket
import threading
from dataclasses import dataclass, field
from unittest import mock

import uvicorn
from lorahub_registry.app import create_app
from lorahub_registry.commands import serving
from lorahub_registry.commands.registry import open_backend
from registry_process import UNLIMITED, Registry


@dataclass
class ThreadedRegistry(Registry):
    """Does what a process would, but for what only a process has: signals, a log, a worker beside it, a limit."""

    server: uvicorn.Server | None = field(default=None, repr=False)
    thread: threading.Thread | None = field(default=None, repr=False)

    def start(self, *, largest_file_kb: int | None = None, **settings: str) -> "ThreadedRegistry":
        chosen = {"LORAHUB_WORKER": "false", **UNLIMITED, **self.settings, **settings}
        assert largest_file_kb is self.log is None, "only a process has a limit and a log"
        assert chosen["LORAHUB_WORKER"] == "false", "only a process has a worker beside it"
        with mock.patch.dict(os.environ, chosen):
            backend = open_backend(self.home)
            token = serving._first_admin(backend)
            app = create_app(backend)
        listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        listening = threading.Event()
        config = serving._configure(app, backend.settings)
        self.server = serving.WebServer(config, app, listening.set, drain_seconds=0)
        self.thread = threading.Thread(target=self.server.run, args=([listener],), daemon=True)
        self.thread.start()
        assert listening.wait(60), "the registry doesn't listen"
        self.port = listener.getsockname()[1]
        self.url, self.admin, self.token = f"http://127.0.0.1:{self.port}", serving.ADMIN, str(token)
        return self

    def stop(self) -> int:
        if self.server is not None and self.thread is not None:
            self.server.should_exit = True
            self.thread.join(40)
            assert not self.thread.is_alive(), "the registry doesn't end"
        self.server = self.thread = None
        return 0

    def kill(self) -> None:
        self.stop()

    def rss_bytes(self) -> int:
        raise AssertionError("a thread has no memory of its own")
