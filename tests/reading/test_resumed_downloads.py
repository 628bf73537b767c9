"""Downloads that break off, and go on after a commit has changed the file: never two versions in one file.

On a name that moves, curl and wget say what they have the beginning of, by `If-Range` and `If-Match`; aria2 compares
the whole with the digest that came with its end. lorahub and the Hub's client name the commit, which never changes.
"""

import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import lorahub
import pytest
import wire
from builders import weights_of_size
from compat.test_hub_clients import CURRENT, client_environment
from registry_process import Registry, eventually
from services.fault_proxy import Fault, FaultProxy

pytestmark = pytest.mark.xdist_group("reading")

ROUNDS, FILES = 3, 25
"""By each of four clients: 300 downloads."""


@dataclass
class Shelf:
    """A repository whose files are read through a proxy that cuts what it is told to."""

    registry: Registry
    client: httpx2.Client
    proxy: FaultProxy
    repo: str
    now: dict[str, bytes] = field(default_factory=dict)

    def change(self) -> dict[str, bytes]:
        """A commit in which four of five files are others of the same size; what they were before."""
        before = dict(self.now)
        for number in range(FILES):
            is_large = number % 3 == 1
            name = f"{number:02}.{'safetensors' if is_large else 'txt'}"
            if name not in before or number % 5:
                content = weights_of_size(80_000 + 1000 * number, seed=random.randrange(1 << 30))
                self.now[name] = content if is_large else content[-40_000:].hex().encode()
        self.commit({name: content for name, content in self.now.items() if before.get(name) != content})
        return before

    def commit(self, files: Mapping[str, bytes]) -> None:
        large = {name for name in files if name.endswith(".safetensors")}
        for name in large:
            wire.upload(self.client, self.repo, files[name])
        lines = [(wire.uploaded if name in large else wire.inline)(name, content) for name, content in files.items()]
        wire.require(wire.commit(self.client, self.repo, lines))

    def address(self, name: str, revision: str = "main") -> str:
        return f"{self.proxy.endpoint}/{self.repo}/resolve/{revision}/{name}"

    def tags(self) -> dict[str, str]:
        addresses = {name: f"/{self.repo}/resolve/main/{name}" for name in self.now}
        return {name: self.client.head(address).headers["ETag"] for name, address in addresses.items()}

    @contextmanager
    def cut(self, part: str) -> Iterator[Fault]:
        """Bodies of answers from addresses with `part` end in the middle."""
        fault = Fault("cut", "GET", part, times=1 << 30)
        self.proxy.faults.append(fault)
        yield fault
        self.proxy.faults.remove(fault)


@pytest.fixture
def shelf(registry: Registry, user: tuple[str, str]) -> Iterator[Shelf]:
    with registry.client(user[1]) as client, FaultProxy(registry.port) as proxy:
        made = Shelf(registry, client, proxy, wire.create_repo(client, f"{user[0]}/resumed"))
        made.change()
        yield made


# --- by names that move -----------------------------------------------------------------------------------------------


def run(*command: str, at: Path) -> int:
    assert shutil.which(command[0]), f"{command[0]} is missing: `make downloaders`"
    return subprocess.run(command, cwd=at, capture_output=True, check=False, timeout=60).returncode


def curl(shelf: Shelf, folder: Path, tags: Mapping[str, str]) -> set[str]:
    how = ("curl", "--silent", "--fail", "--continue-at", "-", "--remote-name", "--header")
    return {name for name, tag in tags.items() if run(*how, f"If-Range: {tag}", shelf.address(name), at=folder) == 0}


def wget(shelf: Shelf, folder: Path, tags: Mapping[str, str]) -> set[str]:
    """It takes the end of a whole file for the part that is missing, so it mustn't be sent one."""
    how = ("wget", "--quiet", "--tries=1", "--continue", "--header")
    return {name for name, tag in tags.items() if run(*how, f"If-Match: {tag}", shelf.address(name), at=folder) == 0}


def aria2(shelf: Shelf, folder: Path, tags: Mapping[str, str]) -> set[str]:
    """What doesn't have the digest keeps its list of parts, and is fetched anew when asked for again."""
    (folder / "list").write_text("".join(f"{shelf.address(name)}\n" for name in tags))
    run("aria2c", "--quiet", "--max-tries=1", "--continue", "--input-file=list", at=folder)
    return {name for name in tags if not (folder / f"{name}.aria2").exists()}


Client = Callable[[Shelf, Path, Mapping[str, str]], set[str]]
"""Fetches into a folder, or goes on there, what had these tags when it began; the names of what it calls complete."""
CLIENTS: tuple[Client, ...] = (curl, wget, aria2)


def test_a_download_that_goes_on_after_a_commit_is_of_one_version(shelf: Shelf, tmp_path: Path) -> None:
    for number in range(ROUNDS):
        folders = {client: tmp_path / f"{client.__name__}{number}" for client in CLIENTS}
        for folder in folders.values():
            folder.mkdir()
        tags = shelf.tags()
        with shelf.cut("/resolve/main/"), ThreadPoolExecutor() as pool:
            assert not any(pool.map(lambda client: client(shelf, folders[client], tags), CLIENTS))  # noqa: B023
        old = shelf.change()
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda client: goes_on(client, shelf, folders[client], tags, old), CLIENTS))  # noqa: B023


def goes_on(client: Client, shelf: Shelf, folder: Path, tags: Mapping[str, str], old: Mapping[str, bytes]) -> None:
    sizes = {name: (folder / name).stat().st_size for name in tags}
    assert all(0 < size < len(old[name]) for name, size in sizes.items()), "each was cut"
    complete = client(shelf, folder, tags)
    spliced = {name for name in complete if (folder / name).read_bytes() != shelf.now[name]}
    assert not spliced, f"{client.__name__} calls complete what is of no version"
    assert complete == {name for name in tags if old[name] == shelf.now[name]}, "what hadn't changed went on"
    for name in tags.keys() - complete if client is not aria2 else ():
        assert (folder / name).read_bytes() == old[name][: sizes[name]], "what was there was left alone"
        (folder / name).unlink()
    assert client(shelf, folder, {name: tag for name, tag in shelf.tags().items() if name not in complete})
    assert {name: (folder / name).read_bytes() for name in tags} == shelf.now


# --- by commits -------------------------------------------------------------------------------------------------------


PLAINLY = [
    ("curl", "--silent", "--fail", "--continue-at", "-", "--remote-name"),
    ("wget", "--quiet", "--tries=1", "--continue"),
    ("aria2c", "--quiet", "--max-tries=1", "--continue"),
]


@pytest.mark.parametrize("command", PLAINLY, ids=lambda command: command[0])
@pytest.mark.parametrize("name", ["01.safetensors", "02.txt"])
def test_by_a_commit_nothing_else_has_to_be_said(
    shelf: Shelf, tmp_path: Path, command: tuple[str, ...], name: str
) -> None:
    address = shelf.address(name, wire.head(shelf.client, shelf.repo))
    with shelf.cut("/resolve/"):
        assert run(*command, address, at=tmp_path) != 0
    old = shelf.change()
    assert 0 < (tmp_path / name).stat().st_size < len(old[name])
    assert run(*command, address, at=tmp_path) == 0
    assert (tmp_path / name).read_bytes() == old[name]


@contextmanager
def commits(shelf: Shelf) -> Iterator[None]:
    """One after the other, many in the time that a client waits before it goes on."""
    is_over = threading.Event()

    def go_on() -> None:
        while not is_over.is_set():
            shelf.commit({name: os.urandom(10_000).hex().encode() for name in shelf.now if name.endswith(".txt")})

    with ThreadPoolExecutor() as pool:
        done = pool.submit(go_on)
        try:
            yield
        finally:
            is_over.set()
        done.result()


@pytest.mark.slow
def test_our_client_gets_one_version_whatever_is_committed_meanwhile(
    shelf: Shelf, user: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with commits(shelf):
        for number in range(ROUNDS):
            folder, faults = tmp_path / str(number), [Fault("cut", "GET", f"/{name}") for name in shelf.now]
            monkeypatch.setenv("LORAHUB_HOME", str(tmp_path / f"home{number}"))
            shelf.proxy.faults[:] = faults
            with lorahub.Hub(shelf.proxy.endpoint, token=user[1]) as hub:
                commit = hub.pull(f"{shelf.repo}@main", folder).revision.commit
            assert all(fault.done for fault in faults), "each was cut once"
            got = {name: wire.sha256((folder / name).read_bytes()) for name in shelf.now}
            assert wire.files(shelf.client, shelf.repo, commit).items() >= got.items()


@pytest.mark.slow
def test_an_import_gets_one_version_whatever_is_committed_meanwhile(
    shelf: Shelf, user: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry stands for the public Hub."""
    monkeypatch.setenv("LORAHUB_HF_ENDPOINT", shelf.proxy.endpoint)
    monkeypatch.setenv("LORAHUB_HOME", str(tmp_path / "home"))
    target = f"{shelf.repo}-imported"
    with lorahub.Hub(shelf.registry.url, token=user[1]) as hub, commits(shelf):
        shelf.proxy.faults[:] = faults = [Fault("cut", "GET", f"/{name}") for name in list(shelf.now)[:6]]
        hub.import_from_hub(f"hf:{shelf.repo}", target)
        assert all(fault.done for fault in faults), "each was cut once"
    with shelf.registry.client(user[1]) as client:
        commit = client.get(f"/api/models/{target}/commits/main").json()[0]["title"].partition("@")[2]
        got = wire.files(client, target)
        assert {name: got[name] for name in shelf.now}.items() <= wire.files(client, shelf.repo, commit).items()


READ_ONE = """
import sys, huggingface_hub
print(huggingface_hub.hf_hub_download(sys.argv[1], sys.argv[2], cache_dir=sys.argv[3]))
"""


@pytest.mark.parametrize("version", [CURRENT, "0.36.2"])
@pytest.mark.parametrize("name", ["01.safetensors", "02.txt"])
def test_the_stock_client_goes_on_with_what_it_began(
    shelf: Shelf, user: tuple[str, str], tmp_path: Path, version: str, name: str
) -> None:
    """The older one gives up, and is asked again."""
    environment = client_environment(shelf.registry, user[1], version, tmp_path / "hf")
    environment["HF_ENDPOINT"] = shelf.proxy.endpoint
    command = [sys.executable, "-c", READ_ONE, shelf.repo, name, str(tmp_path / "cache")]
    reading = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with shelf.cut("/resolve/") as fault:
        eventually(lambda: fault.done, 30)
        old = shelf.change()
    found, _ = reading.communicate(timeout=60)
    if version == CURRENT:
        assert Path(found.strip()).read_bytes() == old[name]
    else:
        assert reading.returncode
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        assert Path(found.strip()).read_bytes() == shelf.now[name]
