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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

MODULES = (
    "lorahub_registry.commands",
    "lorahub_registry.worker",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
)
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
    arguments: Sequence[str], environment: Mapping[str, str], *, stdout: IO[str] | int = 1, stderr: IO[str] | int = 2
) -> Process:
    """`lorahub ARGUMENTS…` in this environment and folder."""
    python = {name: value for name, value in environment.items() if name.startswith("PYTHON")}
    if sys.platform != "linux" or python != _OWN_PYTHON:
        command = [str(Path(sys.executable).parent / "lorahub"), *arguments]
        return subprocess.Popen(command, env=dict(environment), stdout=stdout, stderr=stderr)
    return _waiting().start(arguments, environment, [stdout, stderr])


class Forked:
    """A process whose end the one that forked it tells; its status is that of `subprocess`."""

    def __init__(self, pid: int, end: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._end = end

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
            told = self._end.recv(64)
            assert told, "the process that forks is gone"
            self.returncode = int(told)
            self._end.close()
        return self.returncode


class _Waiting:
    """The process that has imported everything, seen from the tests."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], output: Sequence[IO[str] | int]
    ) -> Forked:
        request = json.dumps({"arguments": [*arguments], "environment": {**environment}, "folder": str(Path.cwd())})
        ours, theirs = socket.socketpair()
        files = [stream if isinstance(stream, int) else stream.fileno() for stream in output]
        with theirs:
            socket.send_fds(self._socket, [request.encode()], [*files, theirs.fileno()])
        return Forked(int(self._socket.recv(64)), ours)

    def stop(self) -> None:
        self._socket.close()
        self._process.wait(20)


_started: dict[int, _Waiting] = {}


def _waiting() -> _Waiting:
    """Of this test process."""
    if os.getpid() not in _started:
        _started[os.getpid()] = _Waiting()
    return _started[os.getpid()]


def stop() -> None:
    if waiting := _started.pop(os.getpid(), None):
        waiting.stop()


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
        request, files, _, _ = socket.recv_fds(tests, _LARGEST_REQUEST, 3)
        if not request:
            return None
        stdout, stderr, end = files
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for one in (tests, noticed, notice, *ends.values()):
                one.close()
            os.close(end)
            return _become(json.loads(request), stdout, stderr)
        os.close(stdout)
        os.close(stderr)
        ends[pid] = socket.socket(fileno=end)
        tests.send(str(pid).encode())


def _tell_ends(ends: dict[int, socket.socket]) -> None:
    for pid, end in [*ends.items()]:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with suppress(BrokenPipeError), ends.pop(pid):
                end.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(request: Mapping[str, Any], stdout: int, stderr: int) -> list[str]:
    """Makes this process what `subprocess` would have made: its environment, folder, files and signals."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for file, place in ((stdout, 1), (stderr, 2)):
        os.dup2(file, place)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    arguments: list[str] = request["arguments"]
    return arguments


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, who end their programs themselves
    for name in MODULES:
        importlib.import_module(name)
    arguments = _serve(socket.socket(fileno=int(sys.argv[1])))
    if arguments is not None:
        sys.argv = ["lorahub", *arguments]
        importlib.import_module("lorahub.cli.main").main()


if __name__ == "__main__":
    _main()
