"""The cache: what it holds is what is listed, and what nobody uses goes away, whoever fills it meanwhile."""

import hashlib
import itertools
import json
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import lorahub
import pytest
from builders import write_adapter
from hub.test_names import Cli, small_hub
from lorahub.hub.configuration import load
from lorahub.hub.upkeep import Held, clear
from lorahub.merging.recipe import Ingredient, Recipe
from registry_process import Registry
from serving.adapters import save_adapter
from serving.text_model import save_text_model

pytestmark = pytest.mark.xdist_group("cache")

ROUNDS = 100


@pytest.fixture
def cli(registry: Registry, user: tuple[str, str], tmp_path: Path) -> Cli:
    return Cli(tmp_path / "home", LORAHUB_ENDPOINT=registry.url, LORAHUB_TOKEN=user[1])


@pytest.fixture
def hub(registry: Registry, user: tuple[str, str], tmp_path: Path) -> Iterator[lorahub.Hub]:
    """With the same cache as `cli`."""
    settings = load({"endpoint": registry.url, "cache": str(tmp_path / "home" / "cache")})
    with lorahub.Hub(settings=settings, token=user[1]) as hub:
        yield hub


def disk_usage(folder: Path) -> int:
    """What `du` says."""
    said = subprocess.run(["du", "-s", "-B1", folder], capture_output=True, check=True, text=True).stdout
    return int(said.split()[0])


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_hundred_pulls_merges_and_chats_leave_no_more_than_one(
    cli: Cli, hub: lorahub.Hub, user: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in cli.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LORAHUB_HOME", str(cli.home))
    base, sql = f"{user[0]}/base", f"{user[0]}/sql"
    hub.push(save_text_model(tmp_path / "base"), base)
    hub.push(save_adapter("llama", tmp_path / "sql", seed=1), sql)
    hub.pull(base, tmp_path / "pulled")
    model = lorahub.Session(tmp_path / "base")
    after: list[list[Path]] = []
    for number in range(ROUNDS):
        hub.pull(sql)
        hub.merge(Recipe(base, (Ingredient(sql, 1 + number / 100),)), tmp_path / f"merged-{number}")
        model.load("sql", sql)
        model.unload("sql")
        after.append(files(cli.home / "cache"))
    assert after[0] == after[-1]

    kinds = [(one["kind"], one["repository"]) for one in is_as_large_as_listed(cli)]
    assert kinds == [("revision", base), ("revision", sql)]
    assert cli("cache", "prune").result == {"files": 0, "bytes": 0, "kinds": {}}
    assert after[0] == files(cli.home / "cache")


def fill(cli: Cli, hub: lorahub.Hub, owner: str, tmp_path: Path) -> None:
    """Revisions that share files, headers, a base that a registry knows."""
    folder = write_adapter(tmp_path / "one")
    hub.push(folder, f"{owner}/one")
    hub.push(folder, f"{owner}/two")
    (folder / "README.md").write_text("# Changed\n")
    hub.push(folder, f"{owner}/two")
    hub.push(save_text_model(tmp_path / "base"), f"{owner}/base")
    weights = (tmp_path / "base" / "model.safetensors").read_bytes()
    assert cli("cache", "ls").result == []
    for reference in (f"{owner}/one", f"{owner}/two@v1", f"{owner}/two@v2"):
        cli("pull", reference)
    cli("pull", f"{owner}/two@v2", "--include", "README.md", tmp_path / "elsewhere")
    cli("base", "info", f"{owner}/base")
    with small_hub({"config.json": b"{}", "model.safetensors": weights}) as (url, _):
        cli("base", "info", "hf:gpt2", LORAHUB_HF_ENDPOINT=url)


def test_what_is_listed_is_what_du_says(cli: Cli, hub: lorahub.Hub, user: tuple[str, str], tmp_path: Path) -> None:
    """Before and after leftovers are pruned, and when each of the others is removed."""
    cache, owner = cli.home / "cache", user[0]
    fill(cli, hub, owner, tmp_path)
    filled = is_as_large_as_listed(cli)
    known = [("revision", f"{owner}/{name}") for name in ("one", "two", "two")]
    known += [("revision", "gpt2"), ("base", f"{owner}/base")]
    assert sorted((one["kind"], one["repository"]) for one in filled) == sorted(known)
    before = files(cache)

    plant_leftovers(cache, f"{owner}/two")
    assert is_as_large_as_listed(cli)[-1]["kind"] == "unused"
    assert " of it unused: lorahub cache prune" in cli.shown("cache", "ls")
    planted = disk_usage(cache)
    pruned = cli("cache", "prune").result
    assert pruned["kinds"] == {"locks": 1, "unfinished": 4, "unused": 6}
    assert (pruned["files"], pruned["bytes"]) == (11, planted - disk_usage(cache))
    assert files(cache) == before
    assert is_as_large_as_listed(cli) == filled
    assert cli("cache", "prune").result["files"] == 0

    for name in (f"{owner}/two", "hf:gpt2", f"{owner}/base"):
        cli("cache", "rm", name, "--yes")
        assert name.removeprefix("hf:") not in [one["repository"] for one in is_as_large_as_listed(cli)]
    cli("pull", f"{owner}/one@v1", "--offline")
    cli("cache", "rm", "--all", "--yes")
    assert files(cache) == [cache / ".lock"]
    assert cli("cache", "ls").result == []


def is_as_large_as_listed(cli: Cli) -> list[dict[str, Any]]:
    """What is listed."""
    listed: list[dict[str, Any]] = cli("cache", "ls").result
    assert sum(one["disk"] for one in listed) == disk_usage(cli.home / "cache")
    return listed


def plant_leftovers(cache: Path, repository: str) -> None:
    """Of pulls that were killed, of old versions, and of revisions that were removed by hand."""
    [host] = [path for path in cache.iterdir() if (path / repository).is_dir()]
    blob = next(path for path in (host / "blobs").iterdir() if path.stat().st_nlink > 1)
    commit = next(path for path in (host / repository).iterdir() if path.is_dir() and path.name != "names")
    other = hashlib.sha256(b"other").hexdigest()
    (commit / f".{blob.name}.123.new").hardlink_to(blob)  # what the version before left with every pull
    (host / "blobs" / f".{other}.123-456.new").write_bytes(b"half")
    (host / "blobs" / f"{other}.part").write_bytes(b"half")
    (host / repository / ".x.json.7-8.new").write_bytes(b"half")
    (host / "blobs" / f"{other}.lock").touch()
    (host / "blobs" / other).write_bytes(b"other")
    (host / "blobs" / f"{other}.head").write_bytes(b"oth")
    (host / repository / f"{'ab' * 20}.json").write_text(json.dumps({"sha": "ab" * 20, "siblings": []}))
    (host / repository / "names" / "gone").write_text("ab" * 20)
    (host / repository / "names" / "nonsense").write_text("nonsense")
    (cache / "bases").mkdir()
    (cache / "bases" / f"{other}.json").write_text("{}")


def test_prune_leaves_other_peoples_files_alone(cli: Cli) -> None:
    cache = cli.home / "cache"
    theirs = [
        cache / "notes.txt",
        cache / "blobs" / "photo.jpg",
        cache / "a" / "b" / "c" / "d.txt",
        cache / "x" / "blobs" / "y",
    ]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    cli("cache", "prune")
    cli("cache", "rm", "--all", "--yes")
    assert files(cache) == sorted([*theirs, cache / ".lock"])


def everything(_: Held) -> bool:
    return True


def nothing(_: Held) -> bool:
    return False


def test_pulls_while_somebody_clears_up(registry: Registry, user: tuple[str, str], tmp_path: Path) -> None:
    """Each of 60 pulls has all of its files, right, while the cache is pruned without a pause."""
    home, repos = tmp_path / "home", [f"{user[0]}/a{number}" for number in range(4)]
    settings = load({"endpoint": registry.url, "cache": str(home / "cache")})
    with lorahub.Hub(settings=settings, token=user[1]) as hub:
        for number, repo in enumerate(repos):
            hub.push(write_adapter(tmp_path / repo.rpartition("/")[2], seed=number), repo)
        is_over = threading.Event()

        def prune() -> int:
            for rounds in itertools.count():
                if is_over.is_set():
                    return rounds
                clear(home / "cache", everything if rounds % 3 == 0 else nothing, patience=20, on_wait=lambda: None)
            raise AssertionError

        def pull(number: int) -> None:
            repo = repos[number % len(repos)]
            folder = hub.pull(repo, tmp_path / f"out{number}").path
            for path in (tmp_path / repo.rpartition("/")[2]).iterdir():
                assert (folder / path.name).read_bytes() == path.read_bytes()

        with ThreadPoolExecutor(5) as pool:
            pruning = pool.submit(prune)
            try:
                list(pool.map(pull, range(60)))
            finally:
                is_over.set()
            assert pruning.result() > 3
    assert not [
        path for path in files(home / "cache") if path.suffix in (".part", ".new") or path.name.endswith(".new")
    ]


def test_prune_waits_for_a_pull_and_then_for_nobody(cli: Cli) -> None:
    is_asked, may_go = threading.Event(), threading.Event()
    with small_hub({"model.safetensors": b"x" * 1000}) as (url, handler):
        answer = handler.answer

        def slow(self: Any, body: bytes, **how: Any) -> None:
            if "/resolve/" in self.path:
                is_asked.set()
                assert may_go.wait(30)
            answer(self, body, **how)

        handler.answer = slow  # type: ignore[method-assign]
        settings = load({"cache": str(cli.home / "cache"), "hf_endpoint": url})
        with lorahub.Hub(settings=settings) as hub, ThreadPoolExecutor(1) as pool:
            pulling = pool.submit(hub.pull, "hf:a/b")
            assert is_asked.wait(30)
            told = cli("cache", "prune", "--timeout", "1", code=8)
            may_go.set()
            pulled = pulling.result()
    assert "another lorahub fills the cache; waiting" in told.said
    assert told.error["retryable"]
    assert cli("cache", "prune").result["files"] == 0
    assert (pulled.path / "model.safetensors").read_bytes() == b"x" * 1000


def test_a_file_system_without_hard_links(cli: Cli, hub: lorahub.Hub, user: tuple[str, str], adapter: Path) -> None:
    hub.push(adapter, f"{user[0]}/adapter")
    with mock.patch("os.link", side_effect=OSError("not here")):
        path = Path(cli("pull", f"{user[0]}/adapter@v1").result["path"])
        cli("pull", f"{user[0]}/adapter@v1")
    is_as_large_as_listed(cli)
    assert cli("cache", "prune").result["kinds"] == {"unused": len(files(path))}
    assert cli("pull", f"{user[0]}/adapter@v1", "--offline").result["path"] == str(path)
