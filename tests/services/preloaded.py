"""`lorahub serve`, `worker` and `admin`, started as processes from one that has imported them already.

An import takes longer than nearly everything that a test does with a registry. So one process of the test run imports
the programs and waits; whoever wants one sends it the arguments, the environment and where the output goes, and it
forks. What is forked is a process like any other: it gets signals, dies of `kill -9`, and has its memory to itself.

Where forking isn't safe (macOS), and where the environment says which Python runs, programs are started as usual.
"""

import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Protocol

REGISTRY = (
    "lorahub_registry.commands",
    "lorahub_registry.worker",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
)
PYTORCH = ("torch", "transformers", "lorahub.serving.session")
_LARGEST_REQUEST = 1 << 20
_OWN_PYTHON = {name: value for name, value in os.environ.items() if name.startswith("PYTHON")}


class Process(Protocol):
    """What a started program is to a test, however it was started."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


def start(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: IO[str] | int = 0,
    stdout: IO[str] | int = 1,
    stderr: IO[str] | int = 2,
    folder: Path | None = None,
    modules: tuple[str, ...] = REGISTRY,
) -> Process:
    """`lorahub ARGUMENTS…` in this environment and folder, from a process that has imported these modules."""
    python = {name: value for name, value in environment.items() if name.startswith("PYTHON")}
    if sys.platform == "linux" and python == _OWN_PYTHON:
        return _waiting(modules).start(arguments, environment, folder or Path.cwd(), [stdin, stdout, stderr])
    command = [str(Path(sys.executable).parent / "lorahub"), *arguments]
    return subprocess.Popen(command, env={**environment}, cwd=folder, stdin=stdin, stdout=stdout, stderr=stderr)


def run(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    folder: Path,
    lines: str = "",
    modules: tuple[str, ...] = REGISTRY,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` with an input, and with the output captured."""
    with TemporaryFile("w+") as said, TemporaryFile("w+") as told, TemporaryFile("w+") as asked:
        asked.write(lines)
        asked.seek(0)
        files = {"stdin": asked, "stdout": said, "stderr": told}
        process = start(arguments, environment, **files, folder=folder, modules=modules)
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        said.seek(0)
        told.seek(0)
        return subprocess.CompletedProcess([*arguments], status, said.read(), told.read())


class Forked:
    """A process whose end the one that forked it tells; its status is that of `subprocess`."""

    def __init__(self, pid: int, end: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._end = end
        self._turn = threading.Lock()

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        status = self._look(timeout)
        if status is None:
            raise subprocess.TimeoutExpired("lorahub", timeout or 0)
        return status

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._end], [], [], timeout)[0]:
            with self._turn:
                if self.returncode is None:
                    told = self._end.recv(64)
                    assert told, "the process that forks is gone"
                    self.returncode = int(told)
                    self._end.close()
        return self.returncode


class _Waiting:
    """The process that has imported everything, seen from the tests."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self._turn = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno()), *modules]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, streams: Sequence[IO[str] | int]
    ) -> Forked:
        request = json.dumps({"arguments": [*arguments], "environment": {**environment}, "folder": str(folder)})
        ours, theirs = socket.socketpair()
        files = [stream if isinstance(stream, int) else stream.fileno() for stream in streams]
        with theirs, self._turn:
            socket.send_fds(self._socket, [request.encode()], [*files, theirs.fileno()])
            pid = int(self._socket.recv(64))
        return Forked(pid, ours)

    def stop(self) -> None:
        self._socket.close()
        self._process.wait(20)


_started: dict[tuple[str, ...], _Waiting] = {}


def _waiting(modules: tuple[str, ...]) -> _Waiting:
    if modules not in _started:
        _started[modules] = _Waiting(modules)
    return _started[modules]


def stop() -> None:
    while _started:
        _started.popitem()[1].stop()


# --- the process that waits -------------------------------------------------------------------------------------------


def _serve(tests: socket.socket) -> list[str] | None:
    """Forks at each request. Returns in each child the arguments of its program, in itself None when the tests end."""
    ends: dict[int, socket.socket] = {}
    noticed, notice = socket.socketpair()
    notice.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(notice.fileno(), warn_on_full_buffer=False)
    while True:
        ready, _, _ = select.select([tests, noticed], [], [])
        if noticed in ready:
            noticed.recv(4096)
            _tell_ends(ends)
        if tests not in ready:
            continue
        request, files, _, _ = socket.recv_fds(tests, _LARGEST_REQUEST, 4)
        if not request:
            return None
        *streams, end = files
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for one in (tests, noticed, notice, *ends.values()):
                one.close()
            os.close(end)
            return _become(json.loads(request), streams)
        for stream in streams:
            os.close(stream)
        ends[pid] = socket.socket(fileno=end)
        tests.send(str(pid).encode())


def _tell_ends(ends: dict[int, socket.socket]) -> None:
    for pid, end in [*ends.items()]:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with suppress(BrokenPipeError), ends.pop(pid):
                end.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(request: Mapping[str, Any], streams: Sequence[int]) -> list[str]:
    """Makes this process what `subprocess` would have made: its environment, folder, files and signals."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
        os.close(stream)
    # anew, since those that are there know of the files before whether they can be sought in
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    arguments: list[str] = request["arguments"]
    return arguments


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, who end their programs themselves
    for name in sys.argv[2:]:
        importlib.import_module(name)
    arguments = _serve(socket.socket(fileno=int(sys.argv[1])))
    if arguments is not None:
        sys.argv = ["lorahub", *arguments]
        importlib.import_module("lorahub.cli.main").main()


if __name__ == "__main__":
    _main()
