"""The topology of docker-compose.yml as processes on this machine: PostgreSQL, S3, nginx, API processes, workers.

PYTHONPATH=tests .venv/bin/python -m services.cluster        # runs it until Ctrl-C: `make cluster`
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from registry_process import Registry, eventually
from services import preloaded, production
from services.ports import free_port

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"

_NGINX = """
daemon off;
worker_processes 2;
{user}
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream lorahub {{ {servers} keepalive 32; }}
  server {{ listen 127.0.0.1:{port}; include {deploy}/nginx/lorahub.conf; }}
}}
"""


@dataclass
class Cluster(Registry):
    """A registry of several processes behind nginx; each API process and each worker has a home of its own."""

    api_count: int = 2
    worker_count: int = 2
    apis: list[Registry] = field(default_factory=list)
    workers: list[preloaded.Process] = field(default_factory=list)
    nginx: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = {
            "LORAHUB_DATABASE_URL": production.postgres().new_database(),
            **production.storage_settings(production.s3()),
            "LORAHUB_SECRET": secrets.token_hex(24),
            "LORAHUB_PUBLIC_URL": self.url,
            "LORAHUB_FIRST_ADMIN": "false",
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
        self._start_nginx()
        eventually(lambda: len(self.admin_command("jobs")["workers"]) == self.worker_count, seconds=30)
        return self

    def start_worker(self, name: str) -> preloaded.Process:
        arguments = ["worker", "--home", str(self.home / name), "--name", name]
        process = preloaded.start(arguments, {**os.environ, **self.settings})
        self.workers.append(process)
        return process

    def stop(self) -> int:
        for process in (self.nginx, *self.workers):
            if process is not None:
                process.send_signal(signal.SIGTERM)
        statuses = [api.stop() for api in self.apis]
        for process in (self.nginx, *self.workers):
            if process is not None:
                process.wait(timeout=40)
        self._forget()
        return max(statuses, default=0)

    def kill(self) -> None:
        for process in (self.nginx, *self.workers):
            if process is not None:
                process.kill()
                process.wait()
        for api in self.apis:
            api.kill()
        self._forget()

    def _forget(self) -> None:
        self.nginx = None
        self.workers.clear()
        self.apis.clear()

    def _start_nginx(self) -> None:
        servers = " ".join(f"server 127.0.0.1:{api.port};" for api in self.apis)
        user = "user root;" if os.geteuid() == 0 else ""  # else its workers can't reach a private folder
        text = _NGINX.format(folder=self.home, user=user, servers=servers, port=self.port, deploy=DEPLOY)
        (self.home / "nginx.conf").write_text(text)
        nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        assert nginx, "nginx is missing: `make nginx`"
        early = self.home / "nginx.log"  # where it writes before it has read its configuration
        self.nginx = subprocess.Popen([nginx, "-e", str(early), "-c", str(self.home / "nginx.conf")])
        deadline = time.monotonic() + 20
        while True:
            try:
                httpx2.get(f"{self.url}/livez").raise_for_status()
            except httpx2.HTTPError:
                assert self.nginx.poll() is None, early.read_text()
                assert time.monotonic() < deadline, early.read_text()
                time.sleep(0.05)
            else:
                return


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="lorahub-cluster-"))
    cluster = Cluster(folder / "cluster")
    try:
        cluster.start()
        print(json.dumps({"url": cluster.url, "admin": cluster.admin, "token": cluster.token}), flush=True)
        print(
            f"echo {cluster.token} | lorahub login {cluster.url} --token-file -      Ctrl-C stops it", file=sys.stderr
        )
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
