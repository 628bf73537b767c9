"""The whole topology at once: nginx, two API processes, two workers, PostgreSQL and S3."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import lorahub
import pytest
from builders import lora_weights, write_adapter
from corpus.merge_corpus import Stored
from lorahub.hub import configuration
from lorahub.merging.recipe import Ingredient, Recipe
from services.cluster import Cluster

pytestmark = pytest.mark.xdist_group("cluster")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    running = Cluster(tmp_path_factory.mktemp("cluster")).start()
    yield running
    running.stop()
    running.assert_sound()


def hub(cluster: Cluster, cache: Path) -> lorahub.Hub:
    settings = configuration.load({"endpoint": cluster.url, "cache": str(cache)})
    return lorahub.Hub(token=cluster.token, settings=settings)


def test_weights_go_past_every_process_of_ours(cluster: Cluster, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter")
    (folder / "big.safetensors").write_bytes(lora_weights(rank=8, width=50_000, seed=1))
    with hub(cluster, tmp_path / "cache") as mine:
        mine.push(folder, "owner/past")
    with hub(cluster, tmp_path / "empty") as other:
        pulled = other.pull("owner/past@v1", tmp_path / "pulled").path
    for path in folder.iterdir():
        assert (pulled / path.name).read_bytes() == path.read_bytes()
    headers = {"Authorization": f"Bearer {cluster.token}"}
    answer = httpx2.get(f"{cluster.url}/owner/past/resolve/v1/big.safetensors", headers=headers)
    assert answer.status_code == 302
    assert answer.headers["location"].startswith(cluster.settings["LORAHUB_STORAGE_ENDPOINT"])


def test_one_process_dies_and_no_reader_notices(cluster: Cluster, tmp_path: Path) -> None:
    with hub(cluster, tmp_path / "cache") as mine:
        mine.push(write_adapter(tmp_path / "adapter", seed=5), "owner/steady")
    statuses: list[int] = []
    over = threading.Event()

    def read_on() -> None:
        with cluster.client() as client:
            while not over.is_set():
                statuses.append(client.get("/owner/steady/resolve/v1/adapter_config.json").status_code)

    readers = [threading.Thread(target=read_on) for _ in range(4)]
    for reader in readers:
        reader.start()
    first = cluster.apis[0]
    for end in (first.kill, first.stop):
        end()
        first.start()
    over.set()
    for reader in readers:
        reader.join()
    assert len(statuses) > 50
    assert set(statuses) == {200}


def test_a_merge_is_shared_and_published_once(cluster: Cluster, store: Callable[..., Stored], tmp_path: Path) -> None:
    stored = store(cluster, ("owner", cluster.token), seed=77)
    with hub(cluster, tmp_path / "cache") as mine:
        recipe = Recipe(stored.base, (Ingredient(stored.adapter),))
        done = mine.merges.wait(mine.merges.start(recipe, "owner/merged").id)
        pulled = mine.pull(done.reference, tmp_path / "pulled").path
        local = mine.merge(
            Recipe(str(stored.base_folder), (Ingredient(str(stored.adapter_folder)),)), tmp_path / "local"
        )
        assert len(mine.versions("owner/merged")) == 1
    assert sums(pulled) == sums(local)


def sums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


def test_workers_are_known_by_their_names(cluster: Cluster) -> None:
    names = {worker["name"] for worker in cluster.admin_command("jobs")["workers"]}
    assert {"worker-0", "worker-1"} <= names
