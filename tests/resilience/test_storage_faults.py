"""What storages and networks do to requests: 503, resets, bodies cut short, flipped bits, errors that say 200.

Whatever happens, no wrong byte is served as right, nothing wrong is published, and no answer is a 500.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import httpx2
import lorahub
import pytest
import wire
from builders import lora_weights, write_adapter
from lorahub.errors import LorahubError
from lorahub.hub import configuration
from registry_process import Registry
from services import production
from services.fault_proxy import Fault, FaultProxy, Kind
from services.ports import free_port

pytestmark = pytest.mark.xdist_group("storage-faults")

TIMES = 10
_seeds = itertools.count(1000)  # bytes that are here already are not sent
READS: list[Kind] = ["503", "reset", "truncate", "flip"]
WRITES: list[Kind] = ["503", "reset", "error-200"]


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultProxy]:
    with FaultProxy(int(production.s3().endpoint.rpartition(":")[2])) as running:
        yield running


@pytest.fixture(scope="module")
def faulty(proxy: FaultProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry, and clients, that reach their storage through the proxy."""
    settings = {
        **production.storage_settings(production.s3()),
        "LORAHUB_STORAGE_ENDPOINT": proxy.endpoint,
        "LORAHUB_METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
    }
    running = Registry(tmp_path_factory.mktemp("faulty"), settings).start()
    yield running
    proxy.faults.clear()
    running.stop()
    running.assert_sound()


@pytest.fixture(autouse=True)
def _no_fault_is_left(proxy: FaultProxy) -> Iterator[None]:
    yield
    proxy.faults.clear()


def _hub(registry: Registry, cache: Path) -> lorahub.Hub:
    settings = configuration.load({"endpoint": registry.url, "cache": str(cache)})
    return lorahub.Hub(token=registry.token, settings=settings)


@pytest.mark.parametrize("kind", READS)
def test_a_pull_has_the_right_bytes_or_says_why_not(
    faulty: Registry, proxy: FaultProxy, kind: Kind, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "adapter", seed=TIMES)
    (folder / "big.safetensors").write_bytes(lora_weights(rank=8, width=20_000, seed=1))  # beyond what travels inline
    with _hub(faulty, tmp_path / "push-cache") as hub:
        hub.push(folder, f"owner/pull-{kind}")
    failures = 0
    for number in range(TIMES):
        proxy.faults[:] = [Fault(kind, "GET", "blobs/", times=1)]
        try:
            with _hub(faulty, tmp_path / f"cache-{number}") as hub:
                pulled = hub.pull(f"owner/pull-{kind}@v1", tmp_path / f"pulled-{number}").path
        except LorahubError:
            failures += 1
            continue
        for path in folder.iterdir():
            assert (pulled / path.name).read_bytes() == path.read_bytes(), path.name
    assert proxy.faults[0].done == 1, "no fault met the pull: the test proves nothing"
    assert kind == "flip" or failures == 0, "one fault is no reason to give up"


@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.parametrize("where", ["staging/", "blobs/"])
def test_a_push_is_whole_or_not_there(faulty: Registry, proxy: FaultProxy, kind: Kind, where: str) -> None:
    """`staging/`: bytes arrive; `blobs/`: verified ones are copied to the key that no client knows."""
    repo = f"owner/push-{kind}-{where.strip('/')}"
    with faulty.client() as client:
        wire.create_repo(client, repo)
        for _ in range(TIMES):
            content = lora_weights(seed=next(_seeds))
            proxy.faults[:] = [Fault(kind, "PUT", where, times=1), Fault(kind, "POST", where, times=1)]
            while (answer := _push(client, repo, content)) is None:
                pass
            assert client.get(f"/{repo}/resolve/{answer}/w.safetensors").content == content
    assert any(fault.done for fault in proxy.faults), "no fault met the push: the test proves nothing"


@pytest.mark.parametrize("kind", READS)
def test_a_fault_while_bytes_are_verified(faulty: Registry, proxy: FaultProxy, kind: Kind) -> None:
    """A bit that flips between the storage and its reader is a digest that doesn't match: the upload is refused."""
    repo = f"owner/verify-{kind}"
    with faulty.client() as client:
        wire.create_repo(client, repo)
        for _ in range(TIMES):
            content = lora_weights(seed=next(_seeds))
            proxy.faults[:] = [Fault(kind, "GET", "staging/", times=1)]
            while (answer := _push(client, repo, content)) is None:
                pass
            assert client.get(f"/{repo}/resolve/{answer}/w.safetensors").content == content


def test_a_full_storage_is_said_and_recovered_from_without_a_restart(faulty: Registry, proxy: FaultProxy) -> None:
    with faulty.client() as client:
        repo = wire.create_repo(client, "owner/full")
        content = lora_weights(seed=next(_seeds))
        wire.upload(client, repo, content)  # the client's own way; the registry copies it when the commit comes
        for lines in ([wire.inline("small.txt", b"small")], [wire.uploaded("w.safetensors", content)]):
            proxy.faults[:] = [Fault("507", method, "blobs/", times=100) for method in ("PUT", "POST")]
            refused = wire.commit(client, repo, lines)
            assert (refused.status_code, refused.json()["code"]) == (507, "DiskFull"), refused.text
            assert "XMinioStorageFull" not in refused.text
            assert list(wire.files(client, repo)) == [".gitattributes"]
            proxy.faults.clear()
        assert wire.commit(client, repo, lines).status_code == 200
        assert wire.files(client, repo)["w.safetensors"] == wire.sha256(content)
    counted = httpx2.get(f"http://{faulty.settings['LORAHUB_METRICS_ADDRESS']}/metrics").text
    assert 'lorahub_storage_faults_total{fault="Full"} 2.0' in counted


def _push(client: httpx2.Client, repo: str, content: bytes) -> str | None:
    """The commit; None where the push was refused for now. A 500 fails the test."""
    try:
        wire.upload(client, repo, content)
        made = wire.require(wire.commit(client, repo, [wire.uploaded("w.safetensors", content)]))
    except httpx2.TransportError:
        return None  # the client's own connection to the storage
    except wire.Refused as refused:
        if refused.status == 500:
            raise
        return None
    return str(made.json()["commitOid"])


def test_a_flipped_stored_bit_is_found_by_a_scrub_and_by_a_pull(faulty: Registry, tmp_path: Path) -> None:
    """At rest this time. What is damaged is put back at the end, so that the registry is sound again."""
    folder = write_adapter(tmp_path / "adapter", seed=77)
    with _hub(faulty, tmp_path / "cache") as hub:
        hub.push(folder, "owner/rotten")
        digest = wire.sha256((folder / "adapter_model.safetensors").read_bytes())
        [key] = [key for key in faulty.objects.list("blobs/") if digest in key]
        good = faulty.objects.read(key)
        faulty.objects.write(key, bytes([*good[:-1], good[-1] ^ 1]))
        assert any(digest in problem for problem in faulty.admin_command("fsck", "--deep")["problems"])
        with _hub(faulty, tmp_path / "empty") as other, pytest.raises(LorahubError):
            other.pull("owner/rotten@v1", tmp_path / "pulled")
        assert not (tmp_path / "pulled" / "adapter_model.safetensors").exists()
        faulty.objects.write(key, good)
