"""Unmodified Hub clients of several generations, in their default environment: nothing set but endpoint and token."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import wire
from builders import weights_of_size, write_adapter
from corpus.file_kinds import written
from registry_process import Registry

HERE = Path(__file__).parent
OLDER = Path(sys.prefix) / "clients"
CURRENT = "2.4.0"
STEPS = 15


def client_environment(registry: Registry, token: str, version: str, home: Path) -> dict[str, str]:
    """As a user of this version has it: endpoint and token. HF_HOME is ours, so that no cache is shared."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "LORAHUB_"))}
    environment |= {"HF_ENDPOINT": registry.url, "HF_TOKEN": token, "HF_HOME": str(home)}
    if version != CURRENT:
        folder = OLDER / version
        assert (folder / "huggingface_hub").is_dir(), f"huggingface_hub {version} is missing; run `make clients`"
        environment["PYTHONPATH"] = str(folder)
    return environment


@pytest.mark.parametrize(("version", "megabytes"), [(CURRENT, 200), ("1.33.0", 20), ("1.18.0", 80), ("0.36.2", 80)])
def test_the_journey_of_a_hub_user_works(
    registry: Registry, new_user: Callable[[], tuple[str, str]], tmp_path: Path, version: str, megabytes: int
) -> None:
    """80 MB is above the size from which LFS uploads go in parts."""
    name, token = new_user()
    adapter = write_adapter(tmp_path / "adapter")
    big = tmp_path / "big.safetensors"
    big.write_bytes(weights_of_size(megabytes * 1_000_000, seed=megabytes))
    result = subprocess.run(
        [sys.executable, str(HERE / "hub_client_journey.py"), registry.url, token, name, str(adapter), str(big)],
        env=client_environment(registry, token, version, tmp_path / "hf"),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert len([line for line in result.stdout.splitlines() if line.startswith(f"{version}: ")]) == STEPS


@pytest.mark.parametrize("version", [CURRENT, "1.33.0"])
def test_lfs_is_used_where_a_user_turns_xet_off(
    registry: Registry, new_user: Callable[[], tuple[str, str]], tmp_path: Path, version: str
) -> None:
    name, token = new_user()
    adapter = write_adapter(tmp_path / "adapter")
    big = tmp_path / "big.safetensors"
    big.write_bytes(weights_of_size(80_000_000, seed=3))
    result = subprocess.run(
        [sys.executable, str(HERE / "hub_client_journey.py"), registry.url, token, name, str(adapter), str(big)],
        env={**client_environment(registry, token, version, tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("version", ["0.36.2", "1.18.0", "1.33.0"])
def test_a_large_folder_is_uploaded_by_the_clients_that_have_a_command_for_it(
    registry: Registry, user: tuple[str, str], tmp_path: Path, version: str
) -> None:
    """0.36.2 asks for `expand=xetEnabled` first. It tries again for ever what it is refused."""
    name, token = user
    repo = f"{name}/large-{version}"
    big = {"big.safetensors": weights_of_size(20_000_000, seed=36), "deep/notes.bin": b"a text"}
    left = {"training_args.bin": b"\x80\4.", "checkpoint-1/optimizer.pt": b"\x80\4." + bytes(2_000_000)}
    folder = written(write_adapter(tmp_path / "folder"), {**big, **left})
    command = "from huggingface_hub.cli.hf import main; main()"
    arguments = ["upload-large-folder", repo, str(folder), "--repo-type", "model"]
    subprocess.run(
        [sys.executable, "-c", command, *arguments],
        env=client_environment(registry, token, version, tmp_path / "hf"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    with registry.client(token) as client:
        here = wire.files(client, repo)
    adapter = {"README.md", "adapter_config.json", "adapter_model.safetensors", ".gitattributes"}
    assert set(here) == {*big, *adapter}
    assert here["big.safetensors"] == wire.sha256(big["big.safetensors"])


def hf(registry: Registry, token: str, home: Path, *arguments: str) -> str:
    """The stock `hf` command."""
    environment = client_environment(registry, token, CURRENT, home)
    command = [str(Path(sys.executable).parent / "hf"), *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, f"hf {' '.join(arguments)}: {result.stdout}{result.stderr}"
    return result.stdout


def test_the_hf_command_uploads_downloads_and_keeps_repositories(
    registry: Registry, user: tuple[str, str], adapter: Path, tmp_path: Path
) -> None:
    name, token = user
    home = tmp_path / "hf"
    repo = f"{name}/by-hf"
    assert name in hf(registry, token, home, "auth", "whoami")
    hf(registry, token, home, "repos", "create", repo)
    hf(registry, token, home, "upload", repo, str(adapter), ".")
    target = tmp_path / "pulled"
    hf(registry, token, home, "download", repo, "--local-dir", str(target))
    for path in adapter.iterdir():
        assert (target / path.name).read_bytes() == path.read_bytes()
    hf(registry, token, home, "repos", "tag", "create", repo, "first")
    assert "first" in hf(registry, token, home, "repos", "tag", "list", repo)
    hf(registry, token, home, "repos", "settings", repo, "--private")
    assert repo in hf(registry, token, home, "repos", "ls")
    hf(registry, token, home, "repos", "delete", repo, "--yes")
    with registry.client(token) as client:
        assert client.get(f"/api/models/{repo}").status_code == 404
