"""A revision's names may be any; what a folder of this machine can't hold is refused before anything is written."""

import sys
from pathlib import Path

import pytest
import wire
from lorahub import Hub
from lorahub.hub.local_names import collisions, folded, require_holdable, unholdable
from registry_process import Registry

ODD = (
    "what?.md",
    "10:30.txt",
    'say "hi".txt',
    "a<b>c|d*e.txt",
    "ends in a dot.",
    "e\u0301 is two letters.txt",
    "#1 & 50%.txt",
    "%2e%2e.txt",
    "a+b=c;d.txt",
    "sub folder?/inner:file.txt",
    "\U0001f469\u200d\U0001f4bb.txt",
    "'; DROP TABLE--.txt",
)


@pytest.fixture
def repository(registry: Registry, user: tuple[str, str]) -> tuple[str, str]:
    name, token = user
    with registry.client(token) as client:
        repo = wire.create_repo(client, f"{name}/odd")
        lines = [wire.inline(path, path.encode()) for path in ODD]
        wire.require(wire.commit(client, repo, lines))
    return repo, token


def test_names_that_the_hub_takes_come_back_as_they_went(
    registry: Registry, repository: tuple[str, str], tmp_path: Path
) -> None:
    repo, token = repository
    with Hub(registry.url, token=token) as hub:
        hub.pull(f"{repo}@main", tmp_path / "pulled")
    held = {
        path.relative_to(tmp_path / "pulled").as_posix(): path.read_text()
        for path in tmp_path.rglob("*.*")
        if path.is_file()
    }
    assert {path: held.get(path) for path in ODD} == {path: path for path in ODD}


def test_stock_clients_take_and_give_them_too(registry: Registry, user: tuple[str, str], tmp_path: Path) -> None:
    from huggingface_hub import HfApi

    name, token = user
    for path in ODD:
        (tmp_path / "sent" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sent" / path).write_text(path)
    api = HfApi(registry.url, token=token)
    api.create_repo(f"{name}/stock")
    api.upload_folder(folder_path=tmp_path / "sent", repo_id=f"{name}/stock")
    assert set(ODD) <= set(api.list_repo_files(f"{name}/stock"))
    folder = Path(api.snapshot_download(f"{name}/stock", local_dir=tmp_path / "got"))
    assert {path: (folder / path).read_text() for path in ODD} == {path: path for path in ODD}


def test_pages_lead_to_each_of_them(registry: Registry, repository: tuple[str, str]) -> None:
    import re
    from html import unescape

    repo, token = repository
    with registry.client(token) as client:
        tree = client.get(f"/{repo}/tree/main", headers={"Accept": "text/html"}).text
        links = {unescape(link) for link in re.findall(r'href="([^"]+)"', tree) if f"/{repo}/blob/" in link}
        shown = {client.get(link, headers={"Accept": "text/html"}).status_code for link in links}
    assert len(links) == len([path for path in ODD if "/" not in path]) + 1  # and .gitattributes
    assert shown == {200}


def test_windows_names_are_told_apart_from_others() -> None:
    paths = ["a?.md", "10:30.txt", "con", "aux.txt", "x/nul.tar.gz", "dot.", "space ", "fine.md", "console.txt"]
    refused = list(unholdable(paths, is_windows=True))
    assert len(refused) == 7
    assert not list(unholdable(paths, is_windows=False))


@pytest.mark.parametrize(
    "paths",
    [
        ["README.md", "readme.md"],
        ["A/x", "a/y"],
        ["a/B/x", "a/b/y"],
        ["straße", "STRASSE"],
        ["\u00e9", "e\u0301"],
        ["A", "a/b"],
    ],
)
def test_names_that_may_be_one_are_found(paths: list[str]) -> None:
    assert list(collisions(paths, key=folded))


@pytest.mark.skipif(sys.platform != "linux", reason="a file system that tells all names apart")
def test_a_folder_is_asked_how_it_tells_names_apart(tmp_path: Path) -> None:
    require_holdable(["README.md", "readme.md", "\u00e9", "e\u0301"], tmp_path / "here")
    assert not list((tmp_path / "here").iterdir())
