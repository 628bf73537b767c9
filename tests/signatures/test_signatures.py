"""Signatures by key, through the commands. `fixtures/model` was signed by model_signing 1.1.1, and stays readable."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wire
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from registry_process import LORAHUB, Registry

FIXTURES = Path(__file__).parent / "fixtures"


def lorahub(*arguments: str, status: int = 0, **environment: str) -> Any:
    result = subprocess.run(
        [LORAHUB, *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert result.returncode == status, result.stdout + result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[str, str]:
    """Private and public."""
    key = ec.generate_private_key(ec.SECP384R1())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private, public = tmp_path / "secret.pem", tmp_path / "public.pem"
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return str(private), str(public)


def test_a_pushed_signature_verifies_wherever_it_is_pulled(
    registry: Registry, user: tuple[str, str], adapter: Path, keys: tuple[str, str], tmp_path: Path
) -> None:
    name, token = user
    told = {"LORAHUB_TOKEN": token, "LORAHUB_ENDPOINT": registry.url, "LORAHUB_HOME": str(tmp_path / "home")}
    lorahub("push", str(adapter), f"{name}/signed", "--sign", keys[0], **told)
    assert lorahub("verify", f"{name}/signed@v1", "--key", keys[1], **told)["result"]["verified"]
    lorahub("pull", f"{name}/signed", str(tmp_path / "pulled"), **told)
    nowhere = {"LORAHUB_ENDPOINT": "http://127.0.0.1:9"}
    assert lorahub("verify", str(tmp_path / "pulled"), "--key", keys[1], **nowhere)["result"]["verified"]
    assert not (adapter / "model.sig").exists(), "the user's folder stays as it is"
    refused = lorahub("verify", str(tmp_path / "pulled"), "--key", str(FIXTURES / "public.pem"), status=7)
    assert refused["error"]["code"] == "InvalidSignature"


def test_info_says_what_a_signature_says_of_itself(
    registry: Registry, user: tuple[str, str], adapter: Path, keys: tuple[str, str], tmp_path: Path
) -> None:
    name, token = user
    told = {"LORAHUB_TOKEN": token, "LORAHUB_ENDPOINT": registry.url, "LORAHUB_HOME": str(tmp_path / "home")}
    lorahub("push", str(adapter), f"{name}/shown", **told)
    assert lorahub("info", f"{name}/shown", **told)["result"]["signature"] is None
    lorahub("push", str(adapter), f"{name}/shown", "--sign", keys[0], **told)
    shown = lorahub("info", f"{name}/shown", **told)["result"]["signature"]
    fingerprint = hashlib.sha256(Path(keys[1]).read_bytes()).hexdigest()
    assert shown == {"signed": True, "key": fingerprint, "coversFiles": True, "differing": [], "fault": None}
    with registry.client(token) as client:
        wire.commit(client, f"{name}/shown", [wire.inline("later.md", b"# later")])
        address = f"/api/lorahub/v1/models/{name}/shown/signature"
        later = client.get(f"{address}/main").json()
        assert (later["coversFiles"], later["differing"]) == (False, ["later.md"])
        for content in (b"", b"{}", b"[]", b'{"dsseEnvelope": {"payloadType": "x"}}', b"x" * 100):
            wire.commit(client, f"{name}/shown", [wire.inline("model.sig", content)])
            broken = client.get(f"{address}/main").json()
            assert (broken["signed"], broken["coversFiles"], broken["key"]) == (True, False, None)
            assert broken["fault"]
        assert client.get(f"{address}/v1").json()["signed"] is False


def test_a_signature_of_the_reference_implementation_verifies(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "model", tmp_path / "model")
    assert lorahub("verify", str(folder), "--key", str(FIXTURES / "public.pem"))["result"]["verified"]


def _altered(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"r": 8}\n')


def _added(folder: Path) -> None:
    (folder / "more.json").write_text("{}")


def _removed(folder: Path) -> None:
    (folder / "notes" / "data.md").unlink()


def _renamed(folder: Path) -> None:
    (folder / "notes" / "data.md").rename(folder / "data.md")


def _payload_altered(folder: Path) -> None:
    bundle = json.loads((folder / "model.sig").read_text())
    bundle["dsseEnvelope"]["payload"] = bundle["dsseEnvelope"]["payload"][:-8] + "AAAAAAAA"
    (folder / "model.sig").write_text(json.dumps(bundle))


def _unsigned(folder: Path) -> None:
    bundle = json.loads((folder / "model.sig").read_text())
    bundle["dsseEnvelope"]["signatures"] = []
    (folder / "model.sig").write_text(json.dumps(bundle))


def _no_bundle(folder: Path) -> None:
    (folder / "model.sig").write_text("[]")


@pytest.mark.parametrize(
    "spoil", [_altered, _added, _removed, _renamed, _payload_altered, _unsigned, _no_bundle], ids=lambda f: f.__name__
)
def test_nothing_else_verifies(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    folder = shutil.copytree(FIXTURES / "model", tmp_path / "model")
    spoil(folder)
    refused = lorahub("verify", str(folder), "--key", str(FIXTURES / "public.pem"), status=7)
    assert refused["error"]["code"] == "InvalidSignature"
