"""A real S3 server: OpenStack Swift with its S3 interface, in four processes on this machine.

It checks signatures, sizes, checksums and conditions as AWS does. It needs a file system with extended attributes.
"""

import getpass
import itertools
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import boto3
from botocore.client import Config
from services.ports import free_port

ACCESS_KEY, SECRET_KEY, REGION = "test:tester", "testing", "us-east-1"
_BACKENDS = ("account", "container", "object")
_numbers = itertools.count(1)

_COMMON = """[DEFAULT]
swift_dir = {folder}
devices = {folder}/node
mount_check = false
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
log_name = {kind}
log_level = WARNING
log_udp_host = 127.0.0.1
log_udp_port = {log_port}
recon_cache_path = {folder}/recon
fallocate_reserve = 0
disable_fallocate = true

"""
_BACKEND = """[pipeline:main]
pipeline = {kind}-server

[app:{kind}-server]
use = egg:swift#{kind}
keep_cache_size = 0
mb_per_sync = 512
"""
_PROXY = """max_header_size = 32768

[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck s3api tempauth bulk copy slo dlo versioned_writes symlink proxy-server

[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
node_timeout = 60
conn_timeout = 5

[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
s3_acl = false
dns_compliant_bucket_names = true
check_bucket_owner = false
max_upload_part_num = 10000
cors_preflight_allow_origin = *
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
max_manifest_segments = 10000
[filter:dlo]
use = egg:swift#dlo
[filter:copy]
use = egg:swift#copy
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
[filter:symlink]
use = egg:swift#symlink
"""
_SWIFT = """[swift-hash]
swift_hash_path_prefix = lorahub
swift_hash_path_suffix = tests

[storage-policy:0]
name = default
default = yes
policy_type = replication
"""


class S3Server:
    """One server below `folder`; `start` again after `stop` finds the same objects on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ports = {kind: free_port() for kind in (*_BACKENDS, "proxy")}
        self._processes: list[subprocess.Popen[bytes]] = []
        (folder / "node" / "d1").mkdir(parents=True)
        (folder / "recon").mkdir()
        os.setxattr(folder / "node", b"user.probe", b"1")  # says at once where the file system can't
        (folder / "swift.conf").write_text(_SWIFT)
        self._write_rings()
        for kind, port in self._ports.items():
            text = _COMMON.rstrip("\n") + "\n" + _PROXY if kind == "proxy" else _COMMON + _BACKEND
            values = {"folder": folder, "user": getpass.getuser(), "kind": kind, "port": port, "log_port": free_port()}
            (folder / f"{kind}.conf").write_text(text.format(**values))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['proxy']}"

    def start(self) -> "S3Server":
        for kind in self._ports:
            program = Path(sys.executable).parent / f"swift-{kind}-server"
            with (self.folder / f"{kind}.log").open("ab") as log:
                command = [sys.executable, program, self.folder / f"{kind}.conf"]
                how: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "cwd": self.folder}
                self._processes.append(subprocess.Popen(command, **how))
        self._wait_until_ready()
        return self

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(10)
        self._processes.clear()

    def client(self) -> Any:
        """boto3's, as the owner of every bucket."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name=REGION,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    def new_bucket(self) -> str:
        name = f"test-{os.getpid()}-{next(_numbers)}"
        self.client().create_bucket(Bucket=name)
        return name

    def _write_rings(self) -> None:
        rings = [f"{kind}={self._ports[kind]}" for kind in _BACKENDS]
        writer = Path(__file__).with_name("s3_rings.py")
        subprocess.run([sys.executable, str(writer), str(self.folder), *rings], check=True, timeout=60)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 60
        for kind, port in self._ports.items():
            while not _answers(kind, port):
                assert all(process.poll() is None for process in self._processes), f"see {self.folder}/*.log"
                assert time.monotonic() < deadline, f"see {self.folder}/*.log"
                time.sleep(0.05)


def _answers(kind: str, port: int) -> bool:
    try:
        if kind == "proxy":
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthcheck", timeout=2).read()
        else:
            socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
