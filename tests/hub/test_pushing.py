"""What `lorahub push` sends, what it leaves where it is, and what remains of a push that is refused."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lorahub
import pytest
from builders import lora_weights
from lorahub.errors import AdapterDoesNotFit, AlreadyExists, InvalidUsage, RepositoryNotFound
from registry_process import LORAHUB, Registry

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def hub(registry: Registry, user: tuple[str, str]) -> Iterator[lorahub.Hub]:
    with lorahub.Hub(registry.url, token=user[1]) as opened:
        yield opened


def like_the_hubs_cache(adapter: Path, cache: Path) -> Path:
    """`snapshots/<commit>/NAME` → `../../blobs/<digest>`, as stock clients lay out what they have fetched."""
    snapshot = cache / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for number, source in enumerate(sorted(adapter.iterdir())):
        blob = cache / "blobs" / f"{number:064x}"
        blob.write_bytes(source.read_bytes())
        (snapshot / source.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def test_a_folder_of_links_is_pushed_as_what_they_lead_to(
    registry: Registry, user: tuple[str, str], adapter: Path, tmp_path: Path
) -> None:
    name, token = user
    snapshot = like_the_hubs_cache(adapter, tmp_path / "models--acme--sql")
    told = {"LORAHUB_TOKEN": token, "LORAHUB_ENDPOINT": registry.url}
    done = subprocess.run(
        [LORAHUB, "push", str(snapshot), f"{name}/sql"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **told},
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    for path in snapshot.iterdir():
        assert f"a link: {path.name} → {path.resolve()}" in said
    with lorahub.Hub(registry.url, token=token) as hub:
        pulled = hub.pull(f"{name}/sql", tmp_path / "pulled").path
    assert (pulled / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()


def test_a_link_is_judged_by_what_it_leads_to(
    hub: lorahub.Hub, user: tuple[str, str], adapter: Path, tmp_path: Path
) -> None:
    (tmp_path / "id_rsa").write_text("-----BEGIN OPENSSH PRIVATE KEY-----")
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Host *")
    (tmp_path / "elsewhere").mkdir()
    links = {"notes.txt": "id_rsa", "host.txt": ".ssh/config", "gone.txt": "nothing", "more": "elsewhere"}
    for name, target in links.items():
        (adapter / name).symlink_to(tmp_path / target)
    pushed = hub.push(adapter, f"{user[0]}/sql")
    assert {left.path: left.why for left in pushed.left} == {
        "notes.txt": "looks like a secret",
        "host.txt": "looks like a secret",
        "gone.txt": "a link to nothing",
        "more": "a link to a folder",
    }
    sent = {file.path for file in hub.revision(f"{user[0]}/sql").files}
    assert sent.isdisjoint(links)


def _dangling(adapter: Path) -> str:
    (adapter / WEIGHTS).unlink()
    (adapter / WEIGHTS).symlink_to(adapter / "not-there")
    return "a link to nothing"


def _secret(adapter: Path) -> str:
    (adapter / "token").write_bytes((adapter / WEIGHTS).read_bytes())
    (adapter / WEIGHTS).unlink()
    (adapter / WEIGHTS).symlink_to(adapter / "token")
    return "looks like a secret"


def _missing(adapter: Path) -> str:
    (adapter / WEIGHTS).unlink()
    return "holds no weights"


def _one_of_two(adapter: Path) -> str:
    (adapter / "second.safetensors").symlink_to(adapter / "not-there")
    return "second.safetensors would stay here"


@pytest.mark.parametrize("spoil", [_dangling, _secret, _missing, _one_of_two], ids=lambda f: f.__name__)
def test_nothing_is_published_without_its_weights(
    hub: lorahub.Hub, user: tuple[str, str], adapter: Path, spoil: Callable[[Path], str]
) -> None:
    why = spoil(adapter)
    with pytest.raises(InvalidUsage, match=why):
        hub.push(adapter, f"{user[0]}/sql")
    with pytest.raises(RepositoryNotFound):
        hub.versions(f"{user[0]}/sql")


def test_a_refused_first_push_leaves_no_repository_and_no_name(
    hub: lorahub.Hub, user: tuple[str, str], adapter: Path
) -> None:
    repo, base = f"{user[0]}/sql", f"{user[0]}/tiny"
    tensors = "".join(f"model.layers.{n}.self_attn.q_proj.weight\tF32\t16,16\n" for n in range(2))
    hub.bases.add(_layout(tensors), base)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))
    (adapter / WEIGHTS).write_bytes(lora_weights(width=24))
    with pytest.raises(AdapterDoesNotFit):
        hub.push(adapter, repo)
    with pytest.raises(RepositoryNotFound):
        hub.versions(repo)
    (adapter / WEIGHTS).write_bytes(lora_weights())
    assert hub.push(adapter, repo).version == "v1", "the name is free"
    (adapter / WEIGHTS).write_bytes(lora_weights(width=24))
    with pytest.raises(AdapterDoesNotFit):
        hub.push(adapter, repo)
    assert [version.name for version in hub.versions(repo)] == ["v1"], "what was published stays"


def _layout(lines: str) -> Any:
    from lorahub.adapters.base_model import base_from_text

    return base_from_text(f"lorahub-base-layout-v1\n{lines}", {"model_type": "llama"})


def test_a_name_that_is_too_much_like_another_says_so(hub: lorahub.Hub, user: tuple[str, str], adapter: Path) -> None:
    hub.push(adapter, f"{user[0]}/my-sql")
    with pytest.raises(AlreadyExists, match=rf"{user[0]}/my_sql is too much like {user[0]}/my-sql"):
        hub.push(adapter, f"{user[0]}/my_sql")


def test_a_folder_that_cannot_be_written_is_pushed_and_stays_as_it_is(
    hub: lorahub.Hub, user: tuple[str, str], adapter: Path
) -> None:
    """Root may write to it all the same, so that it is looked at afterwards."""
    before = {path.name: path.stat().st_mtime_ns for path in adapter.iterdir()}
    adapter.chmod(0o555)
    try:
        hub.push(adapter, f"{user[0]}/sql")
    finally:
        adapter.chmod(0o755)
    assert {path.name: path.stat().st_mtime_ns for path in adapter.iterdir()} == before
    assert "lorahub.json" in {file.path for file in hub.revision(f"{user[0]}/sql").files}
