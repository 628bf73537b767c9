"""A real registry in a process of its own: started, killed, restarted, as an operator would."""

import io
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO
from unittest import mock

import httpx2
import sqlalchemy
from lorahub.cli.main import main as lorahub
from services import preloaded, production
from services.preloaded import Process

BIN = Path(sys.executable).parent
LORAHUB = str(BIN / "lorahub")

_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Tests speak plain HTTP; reading the system's certificates for each client takes longer than most requests."""

UNLIMITED = {f"LORAHUB_RATE_LIMIT_{kind}": "0" for kind in ("API", "RESOLVE", "PAGES", "LOGIN")}
"""A test asks more in a minute than a user in an hour."""

IN_A_FOLDER = {"LORAHUB_STORAGE": "", "LORAHUB_STORAGE_ENDPOINT": "", "LORAHUB_STORAGE_PUBLIC_ENDPOINT": ""}
"""Whatever other registries stand on: for what happens to bytes that pass the registry itself."""


@dataclass
class Registry:
    """`lorahub serve --home HOME --port PORT --json`, and who may use it."""

    home: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    admin: str = ""
    token: str = ""
    port: int = 0
    log: Path | None = None
    """Where standard error goes; None: the tests' own."""
    process: Process | None = None
    program: str = LORAHUB
    """Any other than our own is started anew, and not forked from one that has imported everything."""
    _said: TextIO | None = field(default=None, repr=False)
    """Its standard output."""

    def __post_init__(self) -> None:
        self.settings = {**production.settings_for(self.home), **self.settings}

    def start(
        self, *, largest_file_kb: int | None = None, open_files: int | None = None, **settings: str
    ) -> "Registry":
        """`largest_file_kb` stands for a full disk: the system refuses to write a file beyond it."""
        environment = {**os.environ, "LORAHUB_WORKER": "false", **UNLIMITED, **self.settings, **settings}
        serve = ["serve", "--home", str(self.home), "--port", str(self.port), "--json"]
        reading, writing = os.pipe()
        self._said = os.fdopen(reading)
        with os.fdopen(writing, "w") as output, nullcontext(2) if self.log is None else self.log.open("a") as errors:
            if self.program == LORAHUB and largest_file_kb is open_files is None:
                self.process = preloaded.start(serve, environment, stdout=output, stderr=errors)
            else:
                limits = f"ulimit -f {largest_file_kb or 'unlimited'}; ulimit -n {open_files or '$(ulimit -n)'}"
                limited = ["bash", "-c", f'{limits}; exec "$@"', "bash", self.program, *serve]
                self.process = subprocess.Popen(limited, stdout=output, stderr=errors, env=environment)
        line = self._said.readline()
        if not line:
            status = self.process.wait()
            self._close()
            raise AssertionError(f"the registry ended with {status} before it listened")
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
        if self._said is not None:
            self._said.close()
        self.process = self._said = None

    def wait_until_dead(self, seconds: float = 20) -> int:
        assert self.process is not None
        status = self.process.wait(timeout=seconds)
        self._close()
        return status

    def admin_command(self, *arguments: str) -> Any:
        """What `lorahub admin …` says as JSON, beside the server; in this process, since a start takes seconds.

        The result, or the whole document of what was refused.
        """
        said = io.StringIO()
        with mock.patch.dict(os.environ, self.settings), redirect_stdout(said), suppress(SystemExit):
            lorahub(["admin", *arguments, "--home", str(self.home), "--json"])
        document = json.loads(said.getvalue())
        assert document.keys() == {"schema", "ok", "exit_code", "result", "error"}
        return document["result"] if document["error"] is None else document

    def add_user(self, name: str) -> str:
        """The new user's token."""
        return str(self.admin_command("user", "add", name)["token"])

    def assert_sound(self) -> None:
        """Every invariant holds, every stored byte hashed."""
        report = self.admin_command("fsck", "--deep")
        assert report["ok"], report["problems"]

    @contextmanager
    def database(self) -> Iterator[sqlalchemy.Connection]:
        """The registry's own database, behind its back; committed at the end."""
        url = self.settings.get("LORAHUB_DATABASE_URL") or f"sqlite:///{self.home / 'registry.db'}"
        patience = {"timeout": 60} if url.startswith("sqlite") else {}  # while the registry itself writes
        engine = sqlalchemy.create_engine(url, connect_args=patience)
        try:
            with engine.begin() as connection:
                yield connection
        finally:
            engine.dispose()

    def sql(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """The rows of one question to the registry's database."""
        with self.database() as connection:
            return [tuple(row) for row in connection.execute(sqlalchemy.text(statement), values)]

    @property
    def objects(self) -> "Objects":
        """What the registry has stored, behind its back."""
        return Objects(self.home / "storage", self.settings)

    def client(self, token: str | None = "", timeout: float = 60) -> "Client":
        """Plain HTTP; as the admin, as the bearer of `token`, or anonymous with None."""
        bearer = self.token if token == "" else token
        headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        return Client(base_url=self.url, headers=headers, timeout=timeout, verify=_NO_CERTIFICATES)

    def rss_bytes(self) -> int:
        import psutil

        assert self.process is not None
        return int(psutil.Process(self.process.pid).memory_info().rss)


def serve(home: Path, settings: Mapping[str, str] | None = None, *, port: int = 0) -> Registry:
    """A registry in a process of its own; in a thread of this one where tests are run `--services threads`."""
    if "threads" in production.chosen:
        from registry_thread import ThreadedRegistry

        return ThreadedRegistry(home, settings or {}, port=port).start()
    return Registry(home, settings or {}, port=port).start()


@dataclass(frozen=True)
class Objects:
    """Stored objects by key, in the folder or the bucket that a registry was given."""

    folder: Path
    settings: Mapping[str, str]

    def list(self, prefix: str = "") -> list[str]:
        if self._bucket is None:
            found = (path for path in self.folder.rglob("*") if path.is_file())
            return sorted(key for path in found if (key := path.relative_to(self.folder).as_posix()).startswith(prefix))
        client, bucket, start = self._bucket
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=start + prefix)
        return sorted(row["Key"].removeprefix(start) for page in pages for row in page.get("Contents", []))

    def read(self, key: str) -> bytes:
        if self._bucket is None:
            return (self.folder / key).read_bytes()
        client, bucket, start = self._bucket
        return bytes(client.get_object(Bucket=bucket, Key=start + key)["Body"].read())

    def write(self, key: str, content: bytes) -> None:
        if self._bucket is None:
            (self.folder / key).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / key).write_bytes(content)
            return
        client, bucket, start = self._bucket
        client.put_object(Bucket=bucket, Key=start + key, Body=content)

    def delete(self, key: str) -> None:
        if self._bucket is None:
            (self.folder / key).unlink()
            return
        client, bucket, start = self._bucket
        client.delete_object(Bucket=bucket, Key=start + key)

    @property
    def _bucket(self) -> tuple[Any, str, str] | None:
        """Client, bucket, and what every key begins with."""
        if not self.settings.get("LORAHUB_STORAGE"):
            return None
        bucket, _, prefix = self.settings["LORAHUB_STORAGE"].removeprefix("s3://").partition("/")
        return production.s3().client(), bucket, f"{prefix}/"


class Client(httpx2.Client):
    """Follows an answer that leads to the registry's storage, as every client does, and no other."""

    def send(self, request: httpx2.Request, **how: Any) -> httpx2.Response:
        response = super().send(request, **how)
        leads_to = response.next_request
        if response.status_code == 302 and leads_to and leads_to.url.netloc != self.base_url.netloc:
            response.read()
            return super().send(leads_to, **how)
        return response


def eventually(condition: Any, seconds: float = 10) -> None:
    """Waits until `condition()` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)
