"""nginx before processes of the registry, with the configuration that we deploy it with."""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from services.ports import free_port

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"

_CONFIGURATION = """
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
class Nginx:
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, ports: list[int]) -> "Nginx":
        """Before the processes that listen on `ports` of this machine."""
        servers = " ".join(f"server 127.0.0.1:{port};" for port in ports)
        user = "user root;" if os.geteuid() == 0 else ""  # else its workers can't reach a private folder
        told = _CONFIGURATION.format(folder=self.folder, servers=servers, port=self.port, deploy=DEPLOY, user=user)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "nginx.conf").write_text(told)
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        assert program, "nginx is missing: `make nginx`"
        early = self.folder / "nginx.log"  # where it writes before it has read its configuration
        self.process = subprocess.Popen([program, "-e", str(early), "-c", str(self.folder / "nginx.conf")])
        deadline = time.monotonic() + 20
        while True:
            try:
                httpx2.get(f"{self.url}/livez").raise_for_status()
            except httpx2.HTTPError:
                assert self.process.poll() is None, early.read_text()
                assert time.monotonic() < deadline, early.read_text()
                time.sleep(0.05)
            else:
                return self

    def end(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=40)
            self.process = None
