"""Collection with no grace beside pushes and deletions of the same few files, again and again."""

import random
import threading
import time
from pathlib import Path

import httpx2
import pytest
import wire
from builders import lora_weights
from registry_process import Registry

PUSHERS = 8


@pytest.mark.parametrize(
    "seconds", [pytest.param(10, id="quick"), pytest.param(180, id="full", marks=pytest.mark.soak)]
)
def test_collecting_every_second_loses_nothing(tmp_path: Path, seconds: int) -> None:
    registry = Registry(tmp_path / "soaked").start()
    try:
        soak = Soak(registry)
        threads = [threading.Thread(target=soak.push_and_delete, args=(number,)) for number in range(PUSHERS)]
        for thread in threads:
            thread.start()
        cycles, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            registry.admin_command("gc", "--grace-hours", "0")
            cycles += 1
            time.sleep(max(0.0, min(1.0, end - time.monotonic())))
        soak.over.set()
        for thread in threads:
            thread.join()
        assert not soak.faults, soak.faults[:3]
        assert soak.pushes > 0
        assert cycles > 0
        print(f"\n{soak.pushes} pushes and deletions beside {cycles} collections")
        _assert_only_the_reachable_is_stored(registry)
    finally:
        registry.kill()


class Soak:
    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.over = threading.Event()
        self.pushes = 0
        self.faults: list[str] = []
        self.contents = [lora_weights(seed=seed) for seed in range(3)]

    def push_and_delete(self, number: int) -> None:
        chosen, repo = random.Random(number), f"owner/soak{number}"
        with self.registry.client() as client:
            wire.create_repo(client, repo)
            while not self.over.is_set():
                try:
                    self._once(client, repo, chosen.choice(self.contents))
                except (AssertionError, httpx2.HTTPError) as fault:
                    self.faults.append(f"{type(fault).__name__}: {fault}")
                    return

    def _once(self, client: httpx2.Client, repo: str, content: bytes) -> None:
        """Afterwards no commit has the bytes any more: the next push of them races with their collection."""
        wire.upload(client, repo, content)
        wire.require(wire.commit(client, repo, [wire.uploaded("w.safetensors", content)]))
        assert client.get(f"/{repo}/resolve/main/w.safetensors").content == content
        wire.require(wire.commit(client, repo, [{"key": "deletedFile", "value": {"path": "w.safetensors"}}]))
        wire.require(client.post(f"/api/models/{repo}/super-squash/main", json={"message": "forget"}))
        self.pushes += 1


def _assert_only_the_reachable_is_stored(registry: Registry) -> None:
    registry.admin_command("gc", "--grace-hours", "0")
    reachable = {digest for (digest,) in registry.sql("select distinct blob_sha256 from commit_files")}
    assert {key.rpartition("/")[2][:64] for key in registry.objects.list("blobs/")} == reachable
    registry.assert_sound()
