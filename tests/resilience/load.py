"""Pushers that go on whatever happens to the registry, and remember what was acknowledged."""

import threading
import time
from dataclasses import dataclass, field
from typing import Self

import httpx2
import wire
from builders import lora_weights
from registry_process import Registry

PATH = "w.safetensors"


@dataclass
class Pushers:
    """`count` clients, each pushing new weights into a repository of its own, one commit after the other.

    A push that fails is repeated with the same idempotency key until it is acknowledged, as the SDK does.
    """

    registry: Registry
    count: int = 8
    acknowledged: list[tuple[str, str, str]] = field(default_factory=list)
    """Repository, commit and sha256 of the weights."""
    refusals: list[int] = field(default_factory=list)
    """Of every answer that was no 200."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        with self.registry.client() as client:
            for number in range(self.count):
                wire.create_repo(client, f"owner/load{number}")
        self._threads = [threading.Thread(target=self._push_on, args=(number,)) for number in range(self.count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _push_on(self, number: int) -> None:
        repo, turn = f"owner/load{number}", 0
        while not self._stop.is_set():
            content = lora_weights(seed=number * 100_000 + turn)
            if commit := self._push(repo, content, f"{number}-{turn}"):
                self.acknowledged.append((repo, commit, wire.sha256(content)))
                turn += 1
            else:
                time.sleep(0.05)

    def _push(self, repo: str, content: bytes, key: str) -> str | None:
        """The commit, where it was acknowledged."""
        try:
            with self.registry.client(timeout=30) as client:
                wire.upload(client, repo, content)
                made = wire.commit(client, repo, [wire.uploaded(PATH, content)], key=key)
                wire.require(made)
                return str(made.json()["commitOid"])
        except httpx2.HTTPError:
            return None
        except wire.Refused as refused:
            self.refusals.append(refused.status)
            return None

    def has_more_than(self, count: int) -> bool:
        return len(self.acknowledged) > count

    def assert_nothing_is_lost(self) -> None:
        """Every acknowledged commit is there, with its bytes; nothing is half visible; every invariant holds."""
        with self.registry.client() as client:
            for repo, commit, digest in self.acknowledged:
                content = client.get(f"/{repo}/resolve/{commit}/{PATH}").content
                assert wire.sha256(content) == digest, f"{repo}@{commit}"
        self.registry.assert_sound()
