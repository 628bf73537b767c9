"""`kill -9` of the registry at every named step of a push, then the same push again."""

import itertools
import time
from pathlib import Path

import httpx2
import pytest
import wire
from builders import lora_weights, write_adapter
from lorahub_registry.infrastructure.failpoints import PUBLICATION
from registry_process import Registry


def push(registry: Registry, repo: str, content: bytes, key: str | None) -> httpx2.Response:
    """What a client does: upload, then commit; it retries from the start when the registry dies."""
    with registry.client() as client:
        wire.upload(client, repo, content)
        lines = [
            wire.inline("notes.txt", b"inline"),
            wire.uploaded("model.safetensors", content),
            wire.version("latest"),
        ]
        return wire.commit(client, repo, lines, key=key)


@pytest.fixture(scope="module")
def crashing(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(tmp_path_factory.mktemp("crashing"))


_seeds = itertools.count(100)


@pytest.mark.parametrize(
    "kill",
    [pytest.param(kill, marks=pytest.mark.soak if kill > 1 else []) for kill in range(1, 6)],
    ids="kill{}".format,
)
@pytest.mark.parametrize(
    ("failpoint", "keyed"),
    [*((name, False) for name in PUBLICATION), ("transaction-ready", True), ("transaction-committed", True)],
)
def test_a_push_that_was_killed_is_repeated_without_loss(
    crashing: Registry, failpoint: str, *, keyed: bool, kill: int
) -> None:
    content, key = lora_weights(seed=next(_seeds)), "one-push" if keyed else None
    repo = f"owner/{failpoint}-{'keyed' if keyed else 'plain'}-{kill}"
    before = crash_at(failpoint, crashing, repo, content, key)
    crashing.start()
    try:
        with crashing.client() as client:
            found = wire.head(client, repo)
            versions = client.get(f"/api/lorahub/v1/models/{repo}/versions").json()
        is_committed = found != before
        assert is_committed == (failpoint == "transaction-committed"), "the commit is visible, or not, as a whole"
        assert [version["name"] for version in versions] == (["v1"] if is_committed else [])
        crashing.assert_sound()
        made = push(crashing, repo, content, key).json()
        assert made["version"] == "v1"
        assert made["commitOid"] == found or not is_committed, "the retry made a second commit"
        with crashing.client() as client:
            assert client.get(f"/{repo}/resolve/v1/model.safetensors").content == content
        again = push(crashing, repo, content, key).json()
        assert again["commitOid"] == made["commitOid"], "one more retry made another commit"
        crashing.admin_command("gc", "--grace-hours", "0")
        crashing.assert_sound()
    finally:
        crashing.kill()


def crash_at(failpoint: str, registry: Registry, repo: str, content: bytes, key: str | None) -> str:
    """Makes the repository, then pushes into it while the failpoint is armed; the head before the push."""
    registry.start()
    with registry.client() as client:
        wire.create_repo(client, repo)
        before = wire.head(client, repo)
    registry.stop()
    registry.start(LORAHUB_FAILPOINT=failpoint)
    with pytest.raises(httpx2.HTTPError):
        push(registry, repo, content, key)
    registry.wait_until_dead()
    return before


def test_nothing_is_left_over_once_uploads_have_expired(tmp_path: Path) -> None:
    """A crash between two steps leaves an upload; when its time is over, the collector takes all of it."""
    registry = Registry(tmp_path / "home", settings={"LORAHUB_UPLOAD_LIFETIME": "PT4S"})
    registry.start()
    with registry.client() as client:
        wire.create_repo(client, "owner/left")
    registry.stop()
    for number, failpoint in enumerate(("upload-opened", "bytes-received", "blob-moved", "blob-recorded")):
        registry.start(LORAHUB_FAILPOINT=failpoint)
        with pytest.raises(httpx2.HTTPError):
            push(registry, "owner/left", lora_weights(seed=number), None)
        registry.wait_until_dead()
    registry.start()
    try:
        time.sleep(4.1)
        registry.admin_command("gc", "--grace-hours", "0")
        with registry.client() as client:
            here = set(wire.files(client, "owner/left").values())
        assert {key.rpartition("/")[2][:64] for key in registry.objects.list()} == here, (
            "something other than the repository's files is stored"
        )
        registry.assert_sound()
    finally:
        registry.kill()


def test_a_restart_keeps_everything(own_registry: Registry, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    with own_registry.client() as client:
        wire.create_repo(client, "owner/kept")
        content = (adapter / "adapter_model.safetensors").read_bytes()
        wire.upload(client, "owner/kept", content)
        made = wire.commit(client, "owner/kept", [wire.uploaded("adapter_model.safetensors", content)]).json()
    own_registry.kill()
    token = own_registry.token
    own_registry.start()
    assert own_registry.token == token, "the first token changed"
    with own_registry.client() as client:
        assert wire.head(client, "owner/kept") == made["commitOid"]
    own_registry.assert_sound()
