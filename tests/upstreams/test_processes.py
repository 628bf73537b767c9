"""One transfer of a file, however many processes are asked, on PostgreSQL and S3; also when one of them is killed."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx2
import pytest
import wire
from hub_stand_in import StandIn, weights
from registry_process import Registry, eventually
from services.cluster import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("upstreams")]


@pytest.fixture(scope="module")
def hub() -> Iterator[StandIn]:
    with StandIn() as running:
        yield running


@pytest.fixture
def cluster(hub: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    hub.forget()
    settings = {
        "LORAHUB_UPSTREAMS": json.dumps([{"name": "hub", "endpoint": hub.url, "allow": ["*"], "hosts": hub.hosts}]),
        "LORAHUB_OUTBOUND_INTERNAL": json.dumps(hub.hosts),
        "LORAHUB_WORKER": "false",
    }
    running = Cluster(tmp_path_factory.mktemp("cluster"), settings, worker_count=0).start()
    yield running
    running.stop()
    running.assert_sound()


def fetch(api: Registry, repo: str) -> bytes:
    """As a client does, which goes on where a connection broke."""
    got = b""
    for _ in range(20):
        try:
            with api.client(None) as client:
                headers = {"Range": f"bytes={len(got)}-"} if got else {}
                with client.stream("GET", f"/{repo}/resolve/main/model.safetensors", headers=headers) as answer:
                    if answer.status_code == 302:
                        answer = client.send(answer.next_request)  # noqa: PLW2901
                        return got + answer.content
                    if answer.status_code in (200, 206):
                        for piece in answer.iter_bytes():
                            got += piece
                        return got
        except httpx2.HTTPError:
            continue
    raise AssertionError(f"{len(got)} bytes came")


def test_cold_clients_of_two_processes_are_one_transfer(cluster: Cluster, hub: StandIn) -> None:
    content = weights(31, 20)
    hub.put("Qwen/Both", {"model.safetensors": content})
    hub.pace = 0.02
    with ThreadPoolExecutor(8) as clients:
        found = list(clients.map(lambda number: fetch(cluster.apis[number % 2], "Qwen/Both"), range(8)))
    assert all(one == content for one in found)
    assert hub.sent["model.safetensors"] == len(content)
    with cluster.client(None) as client:
        address = wire.require(client.head("/Qwen/Both/resolve/main/model.safetensors"))
        assert address.headers["X-Linked-Size"] == str(len(content))
        assert client.get("/Qwen/Both/resolve/main/model.safetensors").content == content
    assert hub.sent["model.safetensors"] == len(content), "from the bucket"
    eventually(lambda: not cluster.objects.list("staging/"))


def test_another_process_goes_on_where_one_was_killed(cluster: Cluster, hub: StandIn) -> None:
    content = weights(32, 24)
    hub.put("Qwen/Survives", {"model.safetensors": content})
    hub.pace = 0.1
    first, second = cluster.apis
    with first.client(None) as client, ThreadPoolExecutor(1) as waiting:
        threading.Thread(target=lambda: _until_it_breaks(client, "Qwen/Survives"), daemon=True).start()
        eventually(lambda: hub.sent["model.safetensors"] > 1 << 20)
        other = waiting.submit(fetch, second, "Qwen/Survives")
        eventually(lambda: hub.sent["model.safetensors"] > 18 << 20, 30)
        first.kill()
        hub.pace = 0
        assert other.result(60) == content
    sent = hub.sent["model.safetensors"]
    assert len(content) <= sent < len(content) + (16 << 20), "the parts that were done didn't come again"
    first.start()


def _until_it_breaks(client: httpx2.Client, repo: str) -> None:
    with suppress(httpx2.HTTPError):
        client.get(f"/{repo}/resolve/main/model.safetensors")
