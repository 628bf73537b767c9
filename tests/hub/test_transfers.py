"""Transfers that break off, and registries that lie."""

import hashlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import wire
from builders import weights_of_size, write_adapter
from lorahub.protocol.digests import FileEntry, Sha256, revision_digest
from registry_process import LORAHUB, Registry

MB = 1_000_000


def environment(home: Path, registry: Registry) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("LORAHUB_", "HF_"))},
        "LORAHUB_HOME": str(home),
        "LORAHUB_ENDPOINT": registry.url,
        "LORAHUB_TOKEN": registry.token,
        "LORAHUB_PROGRESS": "none",
    }


@pytest.fixture
def big(user: tuple[str, str], tmp_path: Path) -> tuple[str, Path]:
    """A repository with a file of 90 MB, and the folder it came from."""
    folder = write_adapter(tmp_path / "big")
    (folder / "big.safetensors").write_bytes(weights_of_size(90 * MB, seed=len(user[0])))
    return f"owner/{user[0]}-big", folder


def _wait_for_bytes(process: subprocess.Popen[bytes], home: Path) -> None:
    """Until the pull has some of the file, or is over."""
    while process.poll() is None and not any(path.stat().st_size for path in home.rglob("*.part")):
        time.sleep(0.005)


def test_a_pull_that_is_killed_goes_on_where_it_stopped(
    registry: Registry, big: tuple[str, Path], tmp_path: Path
) -> None:
    repo, folder = big
    variables = environment(tmp_path / "home", registry)
    subprocess.run([LORAHUB, "push", str(folder), repo], env=variables, check=True, capture_output=True)
    target = tmp_path / "pulled"
    chance, resumed = random.Random(1), 0
    for _ in range(6):
        process = subprocess.Popen([LORAHUB, "pull", repo, str(target)], env=variables, stdout=subprocess.DEVNULL)
        _wait_for_bytes(process, tmp_path / "home")
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.wait()
        resumed += any(path.stat().st_size for path in (tmp_path / "home").rglob("*.part"))
        for path in target.rglob("*") if target.exists() else ():
            if not path.name.startswith("."):
                assert path.read_bytes() == (folder / path.name).read_bytes(), "a wrong file under its final name"
    subprocess.run([LORAHUB, "pull", repo, str(target)], env=variables, check=True, capture_output=True)
    assert (target / "big.safetensors").read_bytes() == (folder / "big.safetensors").read_bytes()
    assert resumed, "no pull was killed while it ran: the test proves nothing"


def test_a_push_that_is_killed_sends_only_the_missing_parts_again(folder_registry: Registry, tmp_path: Path) -> None:
    # on a folder, where parts can be watched; tests/uploads/test_storage_addresses.py has the same on a bucket
    folder = write_adapter(tmp_path / "big")
    (folder / "big.safetensors").write_bytes(weights_of_size(300 * MB, seed=3))
    variables = environment(tmp_path / "home", folder_registry)
    command = [LORAHUB, "push", str(folder), "owner/parts"]
    staging = folder_registry.home / "storage" / "staging"
    process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(staging.glob("*/part-0000[3-9]")):
        assert process.poll() is None, "the push ended before it could be killed"
        time.sleep(0.005)
    process.kill()
    process.wait()
    time.sleep(0.3)
    here = {path: path.stat().st_mtime_ns for path in staging.glob("*/part-*")}
    assert len(here) >= 3
    with folder_registry.client() as client:
        target = batch_with_parts(client, "owner/parts", (folder / "big.safetensors").read_bytes())
    done = json.loads(target["actions"]["upload"]["header"]["done"])
    assert len(done) == len(here)
    watched: list[bool] = []
    process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        watched += [path.stat().st_mtime_ns == before for path, before in here.items() if path.exists()]
        time.sleep(0.05)
    assert process.returncode == 0
    assert watched
    assert all(watched), "a part that was there was sent again"
    with folder_registry.client() as client:
        content = (folder / "big.safetensors").read_bytes()
        assert wire.files(client, "owner/parts", "v1")["big.safetensors"] == wire.sha256(content)
    folder_registry.assert_sound()


def batch_with_parts(client: Any, repo: str, content: bytes) -> dict[str, Any]:
    wanted = {"oid": wire.sha256(content), "size": len(content)}
    body = {"operation": "upload", "transfers": ["basic", "multipart"], "objects": [wanted], "hash_algo": "sha256"}
    answer: dict[str, Any] = client.post(f"/{repo}.git/info/lfs/objects/batch", json=body).json()["objects"][0]
    return answer


@pytest.mark.slow
def test_two_gigabytes_pass_through_a_bounded_memory(own_registry: Registry, tmp_path: Path) -> None:
    size, chunk = 2_000 * MB, os.urandom(1 << 20)
    folder = write_adapter(tmp_path / "big")
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with (folder / "big.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, size, len(chunk)):
            file.write(chunk[: min(len(chunk), size - start)])
    variables = environment(tmp_path / "home", own_registry)
    subprocess.run(
        [LORAHUB, "push", str(write_adapter(tmp_path / "small")), "owner/warm"],
        env=variables, check=True, capture_output=True,
    )  # fmt: skip
    assert own_registry.process is not None
    server = psutil.Process(own_registry.process.pid)
    for arguments in (["push", str(folder), "owner/large"], ["pull", "owner/large", str(tmp_path / "pulled")]):
        before, server_peak, client_peak = server.memory_info().rss, 0, 0
        process = subprocess.Popen([LORAHUB, *arguments], env=variables, stdout=subprocess.DEVNULL)
        client = psutil.Process(process.pid)
        while process.poll() is None:
            server_peak = max(server_peak, server.memory_info().rss - before)
            try:
                client_peak = max(client_peak, client.memory_info().rss)
            except psutil.Error:
                break
            time.sleep(0.02)
        assert process.wait() == 0
        assert server_peak < 64 << 20, f"{arguments[0]}: the server grew by {server_peak / MB:.0f} MB"
        assert client_peak < 100 << 20, f"{arguments[0]}: the client took {client_peak / MB:.0f} MB"
    with (folder / "big.safetensors").open("rb") as sent, (tmp_path / "pulled/big.safetensors").open("rb") as got:
        assert hashlib.file_digest(sent, "sha256").digest() == hashlib.file_digest(got, "sha256").digest()


# --- registries that lie ----------------------------------------------------------------------------------------------


class Liar(BaseHTTPRequestHandler):
    """A registry that answers what the test tells it to, and remembers what it was told."""

    revision: dict[str, Any]
    content: bytes = b""
    redirect: str | None = None
    endless = False
    seen: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Authorization")))
        if "/revisions/" in self.path:
            self.answer(json.dumps(self.revision).encode())
        elif self.redirect:
            self.send_response(302)
            self.send_header("Location", self.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.endless:
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"x" * 65536)
            except OSError:
                return
        else:
            self.answer(self.content)

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def lying(**says: Any) -> Iterator[tuple[str, type[Liar]]]:
    handler = type("ThisLiar", (Liar,), {**says, "seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        server.server_close()


def revision(*files: tuple[str, bytes], digest: str | None = None, **changes: Any) -> dict[str, Any]:
    entries = [FileEntry(path, len(content), Sha256(wire.sha256(content))) for path, content in files]
    return {
        "id": "a/b",
        "commit": "0" * 40,
        "digest": digest or f"sha256:{revision_digest(entries)}",
        "version": "v1",
        "aliases": [],
        "yanked": None,
        "createdAt": "2026-01-01T00:00:00.000Z",
        "author": "x",
        "message": "x",
        "files": [{"path": e.path, "size": e.size, "sha256": e.sha256, "lfs": True} for e in entries],
        **changes,
    }


def pull(url: str, home: Path, *, token: str = "lh_secret") -> subprocess.CompletedProcess[str]:
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("LORAHUB_", "HF_"))},
        "LORAHUB_HOME": str(home / "home"),
        "LORAHUB_ENDPOINT": url,
        "LORAHUB_TOKEN": token,
        "LORAHUB_PROGRESS": "none",
    }
    result = subprocess.run(
        [LORAHUB, "--json", "pull", "a/b", str(home / "target")],
        env=variables, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert "Traceback" not in result.stderr
    return result


def written(home: Path) -> list[str]:
    """Files under their own names: in the target, or in a revision's folder in the cache."""
    snapshots = home.glob("home/cache/*/*/*/*/**/*")
    found = [*(home / "target").rglob("*"), *(path for path in snapshots if "names" not in path.parts)]
    return sorted(str(path.relative_to(home)) for path in found if path.is_file())


def test_other_bytes_than_the_promised_ones_get_no_name(tmp_path: Path) -> None:
    with lying(revision=revision(("f.txt", b"right")), content=b"wrong") as (url, _):
        result = pull(url, tmp_path)
    assert result.returncode == 7
    assert json.loads(result.stdout)["error"]["code"] == "DigestMismatch"
    assert written(tmp_path) == []


def test_endless_bytes_are_cut_off(tmp_path: Path) -> None:
    with lying(revision=revision(("f.txt", b"short")), endless=True) as (url, _):
        result = pull(url, tmp_path)
    assert json.loads(result.stdout)["error"]["code"] == "SizeMismatch"
    assert written(tmp_path) == []
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 1000


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "..\\x", "C:\\x", "a//b", ".git/config", "a\u202eb"])
def test_a_path_out_of_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    with lying(revision=revision((path, b"x")), content=b"x") as (url, _):
        result = pull(url, tmp_path)
    assert result.returncode == 8
    assert json.loads(result.stdout)["error"]["code"] == "RegistryFailed"
    assert written(tmp_path) == []


@pytest.mark.parametrize(
    "lie",
    [
        {"digest": "sha256:" + "0" * 64},
        {"commit": "main"},
        {"files": [{"path": "a", "size": -1, "sha256": "0" * 64}]},
        {"files": [{"path": "a", "size": 1, "sha256": "../../x"}]},
        {"files": "x"},
        {"files": None},
    ],
    ids=str,
)
def test_a_revision_that_cannot_be_right_is_refused(tmp_path: Path, lie: dict[str, Any]) -> None:
    with lying(revision=revision(("a", b"x"), **lie)) as (url, _):
        result = pull(url, tmp_path)
    assert json.loads(result.stdout)["error"]["code"] == "RegistryFailed"
    assert written(tmp_path) == []


def broken_off(content: bytes, rest: Callable[[Liar], None]) -> Callable[[Liar], None]:
    """Sends the first half, and does as `rest` says when it is asked for the other."""

    def do_get(self: Liar) -> None:
        self.seen.append((self.path, self.headers.get("Range")))
        if "/revisions/" in self.path:
            self.answer(json.dumps(self.revision).encode())
        elif self.headers.get("Range"):
            rest(self)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])

    return do_get


def test_a_whole_file_instead_of_its_rest_is_taken_as_that(tmp_path: Path) -> None:
    content = os.urandom(100_000)
    with lying(revision=revision(("f.txt", content))) as (url, handler):
        handler.do_GET = broken_off(content, lambda liar: liar.answer(content))  # type: ignore[method-assign]
        result = pull(url, tmp_path)
    assert result.returncode == 0, result.stdout
    assert (tmp_path / "target/f.txt").read_bytes() == content
    assert [asked for path, asked in handler.seen if "/resolve/" in path] == [None, "bytes=50000-"], "once is enough"


def test_another_range_than_was_asked_for_is_refused(tmp_path: Path) -> None:
    content = os.urandom(100_000)

    def another(liar: Liar) -> None:
        liar.send_response(206)
        liar.send_header("Content-Range", "bytes 0-49999/100000")
        liar.send_header("Content-Length", "50000")
        liar.end_headers()
        liar.wfile.write(content[50_000:])

    with lying(revision=revision(("f.txt", content))) as (url, handler):
        handler.do_GET = broken_off(content, another)  # type: ignore[method-assign]
        result = pull(url, tmp_path)
    assert json.loads(result.stdout)["error"]["code"] == "RegistryFailed"
    assert "other bytes of a file than it was asked for" in json.loads(result.stdout)["error"]["message"]
    assert written(tmp_path) == []


def test_a_redirect_to_another_host_gets_the_bytes_but_not_the_token(tmp_path: Path) -> None:
    with (
        lying(revision={}, content=b"right") as (elsewhere, other),
        lying(revision=revision(("f.txt", b"right")), redirect=f"{elsewhere}/f") as (url, own),
    ):
        result = pull(url, tmp_path)
    assert result.returncode == 0, result.stderr
    assert {token for _, token in own.seen} == {"Bearer lh_secret"}
    assert other.seen == [("/f", None)]
    assert (tmp_path / "target/f.txt").read_bytes() == b"right"


def test_nothing_is_written_through_a_symbolic_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "sub").symlink_to(outside)
    with lying(revision=revision(("sub/f.txt", b"right")), content=b"right") as (url, _):
        result = pull(url, tmp_path)
    assert result.returncode == 2
    assert list(outside.iterdir()) == []


def test_ctrl_c_ends_a_transfer_at_once_and_keeps_what_arrived(tmp_path: Path) -> None:
    def dribble(self: Liar) -> None:
        if "/revisions/" in self.path:
            self.answer(json.dumps(self.revision).encode())
            return
        self.send_response(200)
        self.end_headers()
        for _ in range(600):
            self.wfile.write(b"x" * 100_000)
            time.sleep(0.1)

    with lying(revision=revision(("f.txt", b"x" * 60 * MB))) as (url, handler):
        handler.do_GET = dribble  # type: ignore[method-assign]
        variables = {**os.environ, "LORAHUB_HOME": str(tmp_path / "home"), "LORAHUB_ENDPOINT": url}
        process = subprocess.Popen(
            [LORAHUB, "pull", "a/b", str(tmp_path / "target")], env=variables, stderr=subprocess.PIPE, text=True
        )
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, stderr = process.communicate(timeout=20)
    assert time.monotonic() - started < 3
    assert process.returncode == 130
    assert "Traceback" not in stderr
    [part] = (tmp_path / "home").rglob("*.part")
    assert part.stat().st_size > 0
    assert not (tmp_path / "target").exists()


def test_something_that_is_no_registry_is_said_in_a_sentence(tmp_path: Path) -> None:
    with lying(revision=revision(), content=b"") as (url, handler):
        handler.do_GET = lambda self: self.answer(b"<html>hello")  # type: ignore[method-assign]
        result = pull(url, tmp_path)
    assert json.loads(result.stdout)["error"]["code"] == "RegistryFailed"
