"""A real registry in a process of its own: started, killed, restarted, as an operator would."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

BIN = Path(sys.executable).parent
LORAHUB = str(BIN / "lorahub")


@dataclass
class Registry:
    """`lorahub serve --home HOME --port PORT --json`, and who may use it."""

    home: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    admin: str = ""
    token: str = ""
    port: int = 0
    process: subprocess.Popen[str] | None = None

    def start(self, *, largest_file_kb: int | None = None, **settings: str) -> "Registry":
        """`largest_file_kb` stands for a full disk: the system refuses to write a file beyond it."""
        environment = {**os.environ, "LORAHUB_WORKER": "false", **self.settings, **settings}
        limit = "unlimited" if largest_file_kb is None else str(largest_file_kb)
        serve = [LORAHUB, "serve", "--home", str(self.home), "--port", str(self.port), "--json"]
        self.process = subprocess.Popen(
            ["bash", "-c", f'ulimit -f {limit}; exec "$@"', "bash", *serve],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the registry ended with {self.process.wait()} before it listened"
        said = json.loads(line)
        self.url, self.admin, self.token = said["url"], said["admin"], said["token"]
        self.port = int(self.url.rpartition(":")[2])
        return self

    def kill(self) -> None:
        """As the out-of-memory killer does it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self._close()

    def stop(self) -> int:
        """As an operator does it; the exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=40)
        self._close()
        return status

    def _close(self) -> None:
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None

    def wait_until_dead(self, seconds: float = 20) -> int:
        assert self.process is not None
        status = self.process.wait(timeout=seconds)
        self._close()
        return status

    def admin_command(self, *arguments: str) -> Any:
        """The JSON that `lorahub admin …` prints; it may run beside the server."""
        result = subprocess.run(
            [LORAHUB, "admin", *arguments, "--home", str(self.home), "--json"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.stdout, result.stderr
        return json.loads(result.stdout)

    def add_user(self, name: str) -> str:
        """The new user's token."""
        return str(self.admin_command("user", "add", name)["token"])

    def assert_sound(self) -> None:
        """Every invariant holds, every stored byte hashed."""
        report = self.admin_command("fsck", "--deep")
        assert report["ok"], report["problems"]

    def client(self, token: str | None = "", timeout: float = 60) -> httpx2.Client:
        """Plain HTTP; as the admin, as the bearer of `token`, or anonymous with None."""
        bearer = self.token if token == "" else token
        headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=timeout)

    def rss_bytes(self) -> int:
        import psutil

        assert self.process is not None
        return int(psutil.Process(self.process.pid).memory_info().rss)


def eventually(condition: Any, seconds: float = 10) -> None:
    """Waits until `condition()` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)
