"""Files of merged revisions that cost too much for a read: a worker makes each once, whoever waits for it."""

import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import huggingface_hub
import lorahub
import pytest
from corpus.merge_corpus import Stored
from jobs.worker_process import Worker
from lorahub.merging.recipe import recipe_of
from registry_process import Registry, eventually

FILE = "model-00001-of-00002.safetensors"


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Registry]:
    """A registry whose workers a test starts itself."""
    running = Registry(tmp_path / "idle").start()
    yield running
    running.stop()
    running.assert_sound()


@pytest.fixture
def stored(idle: Registry, store: Callable[..., Stored]) -> Stored:
    return store(idle, ("ana", idle.add_user("ana")), seed=random.randrange(1 << 30))


@pytest.fixture
def worker(idle: Registry) -> Iterator[Worker]:
    made = Worker(idle, "one")
    yield made
    if made.process is not None:
        made.kill()


def _push_recipe(registry: Registry, stored: Stored, tmp_path: Path, **recipe: Any) -> str:
    """A repository with this recipe."""
    folder = tmp_path / "recipe"
    folder.mkdir(exist_ok=True)
    whole = {"base": stored.base, "adapters": [{"source": f"{stored.adapter}@v1", "weight": 0.5}], **recipe}
    (folder / "lorahub-merge.yaml").write_text(json.dumps(whole))
    api = huggingface_hub.HfApi(endpoint=registry.url, token=stored.token)
    api.create_repo(f"{stored.namespace}/mix", exist_ok=True)
    api.upload_folder(repo_id=f"{stored.namespace}/mix", folder_path=folder)
    return f"{stored.namespace}/mix"


def _local(registry: Registry, stored: Stored, folder: Path, **recipe: Any) -> Path:
    own = {"base": str(stored.base_folder), "adapters": [{"source": str(stored.adapter_folder), "weight": 0.5}]}
    with lorahub.Hub(registry.url, token=stored.token) as hub:
        return hub.merge(recipe_of({**own, **recipe}), folder)


def _wanted(registry: Registry) -> int:
    [(count,)] = registry.sql("select count(*) from merged_revisions where wanted_at is not null")
    return int(count)


def _stored(registry: Registry) -> int:
    [(count,)] = registry.sql("select count(*) from merged_revisions where stored_at is not null")
    return int(count)


def test_a_read_says_when_to_come_again(idle: Registry, stored: Stored, tmp_path: Path) -> None:
    mix = _push_recipe(idle, stored, tmp_path, method="ties", density=0.5)
    with idle.client(stored.token) as client:
        listed = client.get(f"/api/models/{mix}/tree/merged", params={"recursive": "true"}).json()
        sizes = {entry["path"]: entry["size"] for entry in listed}
        address = f"/{mix}/resolve/merged/{FILE}"
        head, whole = client.head(address), client.get(address)
        last = client.get(address, headers={"Range": "bytes=-1"})
        for answer in (head, whole, last):
            assert (answer.status_code, answer.headers["x-error-code"]) == (503, "BeingMade")
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert "etag" not in answer.headers
        assert whole.json()["hint"].startswith("no worker is running")
        begin = client.get(address, headers={"Range": "bytes=0-7"})
        assert begin.status_code == 206
        header = client.get(address, headers={"Range": f"bytes=8-{7 + int.from_bytes(begin.content, 'little')}"})
        assert header.status_code == 206
        assert header.json()["__metadata__"]
        assert begin.headers["content-range"].endswith(f"/{sizes[FILE]}")
        assert client.get(f"/{mix}/resolve/merged/config.json").status_code == 200
    assert _wanted(idle) == 1


def test_an_authors_recipes_take_turns(idle: Registry, stored: Stored, tmp_path: Path) -> None:
    """A hundred recipes, a byte of each, are no hundred merges."""
    commits = []
    for number in range(5):
        mix = _push_recipe(idle, stored, tmp_path, method="ties", density=0.1 + number / 10)
        with idle.client(stored.token) as client:
            assert client.get(f"/{mix}/resolve/merged/{FILE}").status_code == 503
            commits.append(client.get(f"/{mix}/resolve/merged/config.json").headers["x-repo-commit"])
    assert len(set(commits)) == 5
    assert _wanted(idle) == 2


def test_a_page_says_so(idle: Registry, stored: Stored, tmp_path: Path) -> None:
    mix = _push_recipe(idle, stored, tmp_path, method="ties", density=0.5)
    with idle.client(stored.token) as client:
        shown = client.get(f"/{mix}/blob/merged/{FILE}", headers={"Accept": "text/html"})
        assert shown.status_code == 200, shown.text
        assert "A worker makes this file" in shown.text
        refused = client.get(f"/{mix}/resolve/merged/{FILE}", headers={"Accept": "text/html"})
        assert refused.status_code == 503
        assert refused.headers["content-type"].startswith("text/html")
        assert "is being made" in refused.text
        assert "Come back" in refused.text


def test_however_many_ask_it_is_made_once_and_the_stock_client_waits(
    idle: Registry, stored: Stored, worker: Worker, tmp_path: Path
) -> None:
    mix = _push_recipe(idle, stored, tmp_path, method="ties", density=0.5)
    with idle.client(stored.token) as client, ThreadPoolExecutor(16) as pool:
        asked = pool.map(lambda _: client.get(f"/{mix}/resolve/merged/{FILE}").status_code, range(32))
        assert set(asked) == {503}
    worker.started()
    fetched = huggingface_hub.snapshot_download(
        mix, revision="merged", endpoint=idle.url, token=stored.token, local_dir=tmp_path / "fetched"
    )
    local = _local(idle, stored, tmp_path / "local", method="ties", density=0.5)
    for path in local.glob("*.safetensors"):
        assert (Path(fetched) / path.name).read_bytes() == path.read_bytes()
    with idle.client(stored.token) as client:
        made = client.head(f"/{mix}/resolve/merged/{FILE}")
    assert made.headers["etag"].strip('"').startswith("merged-")
    assert made.headers["repr-digest"]
    assert idle.sql("select count(*) from merge_outputs") == [(len(list(local.glob("*.safetensors"))),)]


def test_an_adapter_that_takes_from_its_base_is_made_too(
    idle: Registry, store: Callable[..., Stored], worker: Worker
) -> None:
    """PiSSA: a decomposition of the whole weight, though the method is a sum of one."""
    user = ("bob", idle.add_user("bob"))
    stored = store(idle, user, seed=random.randrange(1 << 30), init_lora_weights="pissa")
    with idle.client(stored.token) as client:
        address = f"/{stored.adapter}/resolve/merged/{FILE}"
        assert client.get(address).status_code == 503
        worker.started()
        eventually(lambda: client.head(address).status_code == 200, 60)
        assert len(client.get(address).content) == int(client.head(address).headers["content-length"])


def test_why_it_could_not_be_made_is_said_and_it_is_tried_again_later(
    idle: Registry, store: Callable[..., Stored], worker: Worker, tmp_path: Path
) -> None:
    """By a worker that was given less memory than the registry believes."""
    user, sizes = ("bob", idle.add_user("bob")), {"vocab_size": 65_536}
    stored = store(idle, user, seed=random.randrange(1 << 30), sizes=sizes, target_modules=["embed_tokens"])
    mix = _push_recipe(idle, stored, tmp_path, method="ties", density=0.5)
    worker.settings["LORAHUB_MERGE_MEMORY_BYTES"] = str(64 << 20)
    with idle.client(stored.token) as client:
        listed = client.get(f"/api/models/{mix}/tree/merged").json()
        addresses = [f"/{mix}/resolve/merged/{entry['path']}" for entry in listed]
        [address] = [one for one in addresses if client.head(one).status_code == 503]
        worker.started()
        eventually(lambda: client.get(address).status_code == 422, 120)
        refused = client.get(address)
        assert refused.headers["x-error-code"] == "NotMergeable"
        assert "more than 64 MiB of memory" in refused.json()["error"]
        with idle.database() as connection:
            connection.exec_driver_sql("update merged_revisions set failed_at = '2026-01-01 00:00:00'")
        assert client.get(address).status_code == 503
    assert _wanted(idle) == 1


def test_what_was_read_longest_ago_makes_room(tmp_path: Path, store: Callable[..., Stored]) -> None:
    room = {"LORAHUB_MERGED_STORE_BYTES": "100000", "LORAHUB_WORKER": "true"}  # for one of them
    registry = Registry(tmp_path / "full", room).start()
    try:
        stored = store(registry, ("ana", registry.add_user("ana")), seed=random.randrange(1 << 30))
        mix = _push_recipe(registry, stored, tmp_path, method="ties", density=0.5)
        first = f"/{mix}/resolve/merged/{FILE}"
        with registry.client(stored.token) as client:
            assert client.head(first).status_code == 503
            eventually(lambda: _stored(registry) == 1, 60)
            content, commit = client.get(first).content, client.head(first).headers["x-repo-commit"]
            _push_recipe(registry, stored, tmp_path, method="ties", density=0.25)
            eventually(lambda: client.head(first).status_code == 200, 60)
            assert client.get(first).content != content
            again = f"/{mix}/resolve/{commit}/{FILE}"
            assert client.head(again).status_code == 503, "it made room, and is wanted again"
            eventually(lambda: client.head(again).status_code == 200, 60)
            assert client.get(again).content == content
            eventually(lambda: _stored(registry) == 1)
    finally:
        registry.stop()
        registry.assert_sound()


def test_what_no_worker_could_make_is_refused_from_headers(tmp_path: Path, store: Callable[..., Stored]) -> None:
    registry = Registry(tmp_path / "small", {"LORAHUB_MERGE_MEMORY_BYTES": str(1 << 20)}).start()
    try:
        user = ("ana", registry.add_user("ana"))
        stored = store(registry, user, seed=1, sizes={"vocab_size": 4096}, target_modules=["embed_tokens"])
        mix = _push_recipe(registry, stored, tmp_path, method="ties", density=0.5)
        with registry.client(stored.token) as client:
            refused = client.get(f"/{mix}/resolve/merged/config.json")
        assert (refused.status_code, refused.headers["x-error-code"]) == (422, "MergeTooLarge")
    finally:
        registry.stop()
