"""Repositories travel in a file with their ids, and a file of which anything was changed is refused."""

import io
import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wire
from builders import write_adapter
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from lorahub.errors import InvalidBundle
from lorahub.protocol import bundles
from registry_process import LORAHUB, Registry


def cli(registry: Registry, *arguments: str, token: str | None = None) -> dict[str, Any]:
    environment = {**os.environ, "LORAHUB_ENDPOINT": registry.url, "LORAHUB_TOKEN": token or registry.token}
    result = subprocess.run(
        [LORAHUB, *arguments, "--json"], capture_output=True, text=True, check=False, env=environment
    )
    assert result.stdout, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def keys(folder: Path, private: Any = None) -> tuple[str, str]:
    key = private or ed25519.Ed25519PrivateKey.generate()
    name = type(key).__name__ + os.urandom(4).hex()
    secret, public = folder / f"{name}.pem", folder / f"{name}.pub"
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return str(secret), str(public)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def filled(registry: Registry, new_user: Callable[[], tuple[str, str]], tmp_path: Path) -> str:
    """A private repository with two versions, an alias, a yank, a tag and a second branch."""
    name, token = new_user()
    for seed in (1, 2):
        pushed = cli(
            registry, "push", str(write_adapter(tmp_path / "a", seed=seed)), f"{name}/sql", "--private", token=token
        )
        assert pushed["ok"], pushed
    repo = f"{name}/sql"
    with registry.client(token) as client:
        own = f"/api/lorahub/v1/models/{repo}"
        assert client.put(f"{own}/aliases/best", json={"revision": "v1", "protected": True}).status_code == 200
        assert client.post(f"{own}/versions/v2/yank", json={"reason": "wrong data"}).status_code == 200
        assert client.post(f"/api/models/{repo}/branch/side", json={"startingPoint": "v1"}).status_code == 200
        assert client.post(f"/api/models/{repo}/tag/v1", json={"tag": "paper"}).status_code == 200
        wire.commit(client, repo, [wire.inline("side.txt", b"side")], branch="side")
    return repo


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Registry]:
    running = Registry(tmp_path / "empty").start()
    yield running
    running.stop()
    running.assert_sound()


def state(registry: Registry, repo: str) -> dict[str, Any]:
    """Names, commits, files; and that every byte comes out."""
    with registry.client() as client:
        record = client.get(f"/api/lorahub/v1/models/{repo}/record").json()
        for commit in record["commits"]:
            for path, _, digest, _ in commit["files"]:
                assert wire.sha256(client.get(f"/{repo}/resolve/{commit['id']}/{path}").content) == digest
        return {**record, "references": sorted(record["references"], key=lambda one: (one["kind"], one["name"]))}


@pytest.mark.parametrize("kind", ["ed25519", "ec"])
def test_a_repository_arrives_with_its_ids(
    registry: Registry, filled: str, empty: Registry, tmp_path: Path, kind: str
) -> None:
    secret, public = keys(tmp_path, None if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1()))
    file = str(tmp_path / "bundle.tar")
    made = cli(registry, "export", filled, "-o", file, "--sign", secret)
    assert made["ok"], made
    assert subprocess.run(["tar", "-tf", file], capture_output=True, text=True, check=True).stdout.startswith(
        "manifest.json"
    )
    taken = cli(empty, "import-bundle", file, "--key", public)
    assert taken["ok"], taken
    assert state(empty, filled) == state(registry, filled)
    with registry.client() as there, empty.client() as here, empty.client(None) as anyone:
        assert anyone.get(f"/api/models/{filled}").status_code == 404, "it was private"
        own = f"/api/lorahub/v1/models/{filled}"
        assert here.get(f"{own}/versions").json()[0]["yanked"]["reason"] == "wrong data"
        checks = [client.get(f"{own}/check/v1").json()["verdict"] for client in (there, here)]
        assert checks[0] == checks[1]
        assert filled in [row["id"] for row in here.get("/api/models?filter=lora").json()]
    again = cli(empty, "import-bundle", file, "--key", public)
    assert again["result"]["repositories"] == [{"id": filled, "commits": 0, "references": 0}]
    pushed = cli(empty, "push", str(write_adapter(tmp_path / "later", seed=9)), filled)
    assert pushed["result"]["version"] == "v3"


def test_a_later_bundle_moves_names_forward_and_an_earlier_one_nothing_back(
    registry: Registry, filled: str, empty: Registry, tmp_path: Path
) -> None:
    first, second = str(tmp_path / "first.tar"), str(tmp_path / "second.tar")
    assert cli(registry, "export", f"{filled}@v1", "-o", first)["ok"]
    assert cli(registry, "export", filled, "-o", second)["ok"]
    assert cli(empty, "import-bundle", first, "--unsigned")["ok"]
    with empty.client() as client:
        assert [row["name"] for row in client.get(f"/api/lorahub/v1/models/{filled}/versions").json()] == ["v1"]
    taken = cli(empty, "import-bundle", second, "--unsigned")
    assert taken["ok"], taken
    whole = state(empty, filled)
    assert whole == state(registry, filled)
    older = cli(empty, "import-bundle", first, "--unsigned")
    assert older["ok"], older
    assert state(empty, filled) == whole


def test_what_is_here_is_not_overwritten(registry: Registry, filled: str, empty: Registry, tmp_path: Path) -> None:
    file = str(tmp_path / "bundle.tar")
    cli(registry, "export", filled, "-o", file)
    with empty.client() as client:
        client.post("/api/lorahub/v1/organisations", json={"name": filled.partition("/")[0]})
        wire.create_repo(client, filled)
    before = state(empty, filled)
    refused = cli(empty, "import-bundle", file, "--unsigned")
    assert refused["error"]["code"] == "AlreadyExists"
    assert state(empty, filled) == before


def test_who_may(registry: Registry, filled: str, new_user: Callable[[], tuple[str, str]], tmp_path: Path) -> None:
    _, stranger = new_user()
    file = str(tmp_path / "bundle.tar")
    assert cli(registry, "export", filled, "-o", file, token=stranger)["error"]["code"] == "RepoNotFound"
    assert not Path(file).exists()
    assert cli(registry, "export", filled, "-o", file)["ok"]
    assert cli(registry, "import-bundle", file, "--unsigned", token=stranger)["error"]["code"] == "NotPermitted"
    assert cli(registry, "import-bundle", file)["error"]["code"] == "Usage"


def test_the_registry_insists_on_its_key(registry: Registry, filled: str, tmp_path: Path) -> None:
    """Whatever the importing client has checked, or left out."""
    (secret, public), (other, _) = keys(tmp_path), keys(tmp_path)
    strict = Registry(tmp_path / "strict", {"LORAHUB_BUNDLE_KEY": public}).start()
    for key, code in ((None, "InvalidBundle"), (other, "InvalidBundle"), (secret, None)):
        file = str(tmp_path / "bundle.tar")
        assert cli(registry, "export", filled, "-o", file, *([] if key is None else ["--sign", key]))["ok"]
        taken = cli(strict, "import-bundle", file, "--unsigned")
        assert (taken["error"] or {}).get("code") == code
    strict.stop()
    strict.assert_sound()


# --- tampering --------------------------------------------------------------------------------------------------------


def blocks(bundle: bytes) -> list[bytes]:
    return [bundle[at : at + 512] for at in range(0, len(bundle), 512)]


def entries(bundle: bytes) -> list[bytes]:
    """Each file of the tar with its header and padding, and the end."""
    found, at = [], 0
    while bundle[at : at + 1] != b"\0":
        size = int(bundle[at + 124 : at + 135], 8)
        end = at + 512 + size + (-size % 512)
        found.append(bundle[at:end])
        at = end
    return [*found, bundle[at:]]


def test_every_change_is_refused(registry: Registry, filled: str, empty: Registry, tmp_path: Path) -> None:
    """Bits flipped everywhere, files added, left out, repeated and moved, the file cut and prolonged."""
    secret, public = keys(tmp_path)
    file = tmp_path / "bundle.tar"
    assert cli(registry, "export", filled, "-o", str(file), "--sign", secret)["ok"]
    good, key = file.read_bytes(), Path(public)
    bundles.verify(io.BytesIO(good), key=key)

    choice = random.Random(7)
    headers = [at for at in range(len(good)) if at % 512 == 0][:40]
    places = {choice.randrange(len(good)) for _ in range(300)} | {
        at + shift for at in headers for shift in (0, 130, 400)
    }
    changed = [good[:at] + bytes([good[at] ^ 1 << choice.randrange(8)]) + good[at + 1 :] for at in sorted(places)]
    parts = entries(good)
    for at in range(len(parts) - 1):
        changed += [b"".join(parts[:at] + parts[at + 1 :]), b"".join(parts[: at + 1] + parts[at:])]
        changed.append(b"".join([*parts[:at], parts[at + 1], parts[at], *parts[at + 2 :]]))
    changed += [good[:-1], good[:-512], good + b"\0", good + bytes(512), good[: len(good) // 2], b"", good * 2]
    survivors = [number for number, text in enumerate(changed) if is_taken(text, key)]
    assert survivors == []
    assert len(changed) > 400

    for text in (changed[3], changed[200], changed[-2]):  # and where it counts: at the registry
        with empty.client() as client:
            answer = client.post("/api/lorahub/v1/bundles", content=text)
            assert (answer.status_code, answer.headers["x-error-code"]) == (422, "InvalidBundle")
            assert client.get(f"/api/models/{filled}").status_code == 404


def is_taken(text: bytes, key: Path | None) -> bool:
    try:
        bundles.verify(io.BytesIO(text), key=key)
    except InvalidBundle:
        return False
    return True


def test_a_forged_history_is_refused_even_unsigned(
    registry: Registry, filled: str, empty: Registry, tmp_path: Path
) -> None:
    """A bundle that is well-formed, with hashes that fit, but commits that say other than their ids."""
    file = tmp_path / "bundle.tar"
    assert cli(registry, "export", filled, "-o", str(file))["ok"]
    [manifest, *rest] = entries(file.read_bytes())
    size = int(manifest[124:135], 8)
    said = json.loads(manifest[512 : 512 + size])
    for change in ("author", "title", "message"):
        forged = json.loads(json.dumps(said))
        forged["repositories"][0]["commits"][-1][change] = "somebody else"
        text = json.dumps(forged, indent=1).encode() + b"\n"
        made = bundles._header("manifest.json", len(text)) + text + bytes(-len(text) % 512) + b"".join(rest)
        assert not is_taken(made, None)
        with empty.client() as client:
            assert client.post("/api/lorahub/v1/bundles", content=made).status_code == 422
