"""The topology of docker-compose.yml as processes on this machine: PostgreSQL, S3, nginx, API processes, workers.

PYTHONPATH=tests .venv/bin/python -m services.cluster        # runs it until Ctrl-C: `make cluster`
"""

import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from registry_process import Registry, eventually
from services import preloaded, production
from services.nginx import Nginx


@dataclass
class Cluster(Registry):
    """A registry of several processes behind nginx; each API process and each worker has a home of its own."""

    api_count: int = 2
    worker_count: int = 2
    apis: list[Registry] = field(default_factory=list)
    workers: list[preloaded.Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.nginx = Nginx(self.home / "nginx")
        self.port, self.url = self.nginx.port, self.nginx.url
        self.settings = {
            "LORAHUB_DATABASE_URL": production.postgres().new_database(),
            **production.storage_settings(production.s3()),
            "LORAHUB_SECRET": secrets.token_hex(24),
            "LORAHUB_PUBLIC_URL": self.url,
            "LORAHUB_FIRST_ADMIN": "false",
            "LORAHUB_TRUSTED_PROXIES": "127.0.0.1",
            **self.settings,
        }

    def start(self, *, largest_file_kb: int | None = None, **settings: str) -> "Cluster":
        self.settings = {**self.settings, **settings}
        self.home.mkdir(parents=True, exist_ok=True)
        self.admin_command("migrate")
        if not self.token:
            self.admin = "owner"
            self.token = str(self.admin_command("user", "add", "owner", "--admin")["token"])
        for number in range(self.api_count):
            api = Registry(self.home / f"api-{number}", self.settings)
            self.apis.append(api.start(largest_file_kb=largest_file_kb))
        for number in range(self.worker_count):
            self.start_worker(f"worker-{number}")
        self.nginx.start([api.port for api in self.apis])
        eventually(lambda: len(self.admin_command("jobs")["workers"]) == self.worker_count, seconds=120)
        return self

    def start_worker(self, name: str) -> preloaded.Process:
        arguments = ["worker", "--home", str(self.home / name), "--name", name]
        process = preloaded.start(arguments, {**os.environ, **self.settings})
        self.workers.append(process)
        return process

    def stop(self) -> int:
        self.nginx.end()
        for process in self.workers:
            process.send_signal(signal.SIGTERM)
        statuses = [api.stop() for api in self.apis]
        for process in self.workers:
            process.wait(timeout=40)
        self._forget()
        return max(statuses, default=0)

    def kill(self) -> None:
        self.nginx.end()
        for process in self.workers:
            process.kill()
            process.wait()
        for api in self.apis:
            api.kill()
        self._forget()

    def _forget(self) -> None:
        self.workers.clear()
        self.apis.clear()


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="lorahub-cluster-"))
    cluster = Cluster(folder / "cluster")
    try:
        cluster.start()
        print(json.dumps({"url": cluster.url, "admin": cluster.admin, "token": cluster.token}), flush=True)
        print(f"token {cluster.token}, for: lorahub login {cluster.url}      Ctrl-C stops it", file=sys.stderr)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        cluster.stop()
        preloaded.stop()
        production.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
