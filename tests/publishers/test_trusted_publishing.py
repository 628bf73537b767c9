"""Trusted publishing: an identity token of a CI becomes, once, a token that writes to one repository."""

import base64
import hmac
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import wire
from joserfc import jwk, jwt
from publishers.issuer import Issuer, issuer
from registry_process import LORAHUB, Registry

pytestmark = pytest.mark.xdist_group("trusted-publishing")

V1 = "/api/lorahub/v1"
AUDIENCE = "http://registry.test"
REPO = "stage/sql"


@pytest.fixture(scope="module")
def ci(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    with issuer(tmp_path_factory.mktemp("ci") / "issuer") as running:
        yield running


@pytest.fixture(scope="module")
def trusting(ci: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with two private repositories, one of which trusts a job."""
    settings = {"LORAHUB_PUBLIC_URL": AUDIENCE, **ci.settings}
    running = Registry(tmp_path_factory.mktemp("trusting"), settings).start()
    with running.client() as client:
        assert client.post(f"{V1}/organisations", json={"name": "stage"}).status_code == 200
        for repo in (REPO, "stage/other"):
            wire.create_repo(client, repo, private=True)
        claims = {
            "repository": "acme/training",
            "ref": "refs/heads/main",
            "workflow_ref": "acme/training/.github/workflows/release.yml@*",
        }
        made = client.post(f"{V1}/models/{REPO}/publishers", json={"issuer": ci.url, "claims": claims})
        assert made.status_code == 200, made.text
    yield running
    running.stop()
    running.assert_sound()


def exchange(registry: Registry, token: str, repo: str = REPO) -> Any:
    with registry.client(None) as client:
        return client.post(f"{V1}/oidc/token", json={"token": token, "repository": repo})


def test_a_job_writes_to_its_repository_and_does_nothing_else(trusting: Registry, ci: Issuer) -> None:
    answer = exchange(trusting, ci.token(AUDIENCE, sha="0" * 40))
    assert answer.status_code == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    with trusting.client(answer.json()["token"]) as client:
        assert wire.commit(client, REPO, [wire.inline("a.txt", b"a"), wire.version("latest")]).status_code == 200
        assert wire.commit(client, "stage/other", [wire.inline("a.txt", b"a")]).status_code == 404
        refused = {
            client.put(f"/api/models/{REPO}/settings", json={"visibility": "public"}).status_code,
            client.request("DELETE", "/api/repos/delete", json={"name": REPO}).status_code,
            client.post("/api/repos/create", json={"name": "stage/new"}).status_code,
            client.post(f"{V1}/models/{REPO}/publishers", json={"issuer": ci.url, "claims": {"sub": "x"}}).status_code,
            client.post(f"{V1}/tokens", json={"name": "more"}).status_code,
            client.get(f"{V1}/audit").status_code,
        }
        assert refused == {403}
        assert [model["id"] for model in client.get("/api/models").json()] == []
    with trusting.client() as client:
        logged = next(row for row in client.get(f"{V1}/audit").json() if row["action"] == "publisher.token")
        published = next(row for row in client.get(f"{V1}/audit").json() if row["action"] == "revision.publish")
    assert logged["details"]["claims"]["ref"] == "refs/heads/main"
    assert logged["details"]["claims"]["sha"] == "0" * 40
    assert published["tokenId"] == logged["tokenId"]


def test_its_token_expires(trusting: Registry, ci: Issuer) -> None:
    made = exchange(trusting, ci.token(AUDIENCE)).json()
    lifetime = datetime.fromisoformat(made["expiresAt"]) - datetime.now(UTC)
    assert timedelta(minutes=10) < lifetime <= timedelta(minutes=15)
    with trusting.database() as database:
        database.exec_driver_sql("UPDATE tokens SET expires_at = '2020-01-01 00:00:00' WHERE expires_at IS NOT NULL")
    with trusting.client(made["token"]) as client:
        assert client.get("/api/whoami-v2").status_code == 401


def _by_hand(ci: Issuer, algorithm: str, sign: Callable[[bytes], bytes]) -> str:
    """What no library would make."""
    parts = [json.dumps(part).encode() for part in ({"alg": algorithm, "kid": "k1"}, ci.claims(AUDIENCE))]
    signed = ".".join(_encoded(part) for part in parts)
    return f"{signed}.{_encoded(sign(signed.encode()))}"


def _encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def _with_public_key_as_secret(ci: Issuer) -> str:
    secret = ci.key.as_pem(private=False)
    return _by_hand(ci, "HS256", lambda signed: hmac.digest(secret, signed, "sha256"))


def _by_another_key(ci: Issuer) -> str:
    stranger = jwk.RSAKey.generate_key(2048, parameters={"kid": "k1"})
    return jwt.encode({"alg": "RS256", "kid": "k1"}, ci.claims(AUDIENCE), stranger)


BAD: dict[str, tuple[int, Callable[[Issuer], str]]] = {
    "expired": (401, lambda ci: ci.token(AUDIENCE, exp=int(time.time()) - 60)),
    "not yet good": (401, lambda ci: ci.token(AUDIENCE, nbf=int(time.time()) + 600)),
    "for another registry": (401, lambda ci: ci.token("https://pypi.org")),
    "of another issuer": (401, lambda ci: ci.token(AUDIENCE, iss="https://evil.test")),
    "of no issuer": (401, lambda ci: ci.token(AUDIENCE, iss=None)),
    "without an end": (401, lambda ci: ci.token(AUDIENCE, exp=None)),
    "without an id": (401, lambda ci: ci.token(AUDIENCE, jti=None)),
    "with an id that is no text": (401, lambda ci: ci.token(AUDIENCE, jti=7)),
    "unsigned": (401, lambda ci: _by_hand(ci, "none", lambda _: b"")),
    "signed with the public key as a secret": (401, _with_public_key_as_secret),
    "signed by somebody else": (401, _by_another_key),
    "no token": (401, lambda _: "a.b.c"),
    "no text": (401, lambda _: "\u00e4" * 10),
    "endless": (401, lambda _: "a" * 100_000),
    "of another repository": (403, lambda ci: ci.token(AUDIENCE, repository="acme/training-fork")),
    "of another ref": (403, lambda ci: ci.token(AUDIENCE, ref="refs/heads/feature")),
    "of another workflow": (403, lambda ci: ci.token(AUDIENCE, workflow_ref="acme/training/.github/workflows/x.yml@r")),
    "that says less": (403, lambda ci: ci.token(AUDIENCE, ref=None)),
}


@pytest.mark.parametrize("fault", BAD)
def test_no_other_identity_token_is_taken(trusting: Registry, ci: Issuer, fault: str) -> None:
    status, make = BAD[fault]
    before = trusting.sql("select count(*) from tokens")
    answer = exchange(trusting, make(ci))
    assert answer.status_code == status, answer.text
    assert trusting.sql("select count(*) from tokens") == before


def test_an_identity_token_is_good_once_however_many_bring_it(trusting: Registry, ci: Issuer) -> None:
    token = ci.token(AUDIENCE)
    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(answer.status_code for answer in pool.map(lambda _: exchange(trusting, token), range(8)))
    assert statuses == [200] + [401] * 7


def test_a_repository_that_trusts_nobody_and_none_answer_alike(trusting: Registry, ci: Issuer) -> None:
    token = ci.token(AUDIENCE)
    there, absent = (exchange(trusting, token, repo) for repo in ("stage/other", "stage/wrong"))
    assert there.status_code == absent.status_code == 403
    assert there.text.replace("other", "wrong") == absent.text


def test_a_job_may_no_more_than_who_trusts_it(trusting: Registry, ci: Issuer) -> None:
    eva = trusting.add_user("eva")
    with trusting.client() as client:
        assert client.put(f"{V1}/organisations/stage/members/eva", json={"role": "admin"}).status_code == 200
        wire.create_repo(client, "stage/evas")
    with trusting.client(eva) as client:
        trust = {"issuer": ci.url, "claims": {"repository": "acme/training"}}
        assert client.post(f"{V1}/models/stage/evas/publishers", json=trust).status_code == 200
    token = exchange(trusting, ci.token(AUDIENCE), "stage/evas").json()["token"]
    with trusting.client() as client:
        assert client.delete(f"{V1}/organisations/stage/members/eva").status_code == 200
    with trusting.client(token) as client:
        assert wire.commit(client, "stage/evas", [wire.inline("a.txt", b"a")]).status_code == 403
    assert exchange(trusting, ci.token(AUDIENCE), "stage/evas").status_code == 403


@pytest.mark.parametrize(
    ("issuer_named", "claims"),
    [
        ("https://evil.test", {"repository": "acme/training"}),
        (None, {"ref": "refs/heads/main"}),
        (None, {"repository": "acme/*"}),
        (None, {"repository": "*"}),
        (None, {"repository": "a*b"}),
        (None, {}),
    ],
)
def test_nobody_is_trusted_too_widely(
    trusting: Registry, ci: Issuer, issuer_named: str | None, claims: dict[str, str]
) -> None:
    with trusting.client() as client:
        body = {"issuer": issuer_named or ci.url, "claims": claims}
        assert client.post(f"{V1}/models/{REPO}/publishers", json=body).status_code == 400


def test_keys_come_from_the_issuer_itself(own_registry: Registry, tmp_path: Path) -> None:
    with issuer(tmp_path / "moved") as ci:
        ci.publish(jwks_uri="http://169.254.169.254/keys")
        own_registry.stop()
        own_registry.start(LORAHUB_PUBLIC_URL=AUDIENCE, **ci.settings)
        refused = exchange(own_registry, ci.token(AUDIENCE))
        assert (refused.status_code, refused.json()["code"]) == (503, "Unavailable")
        ci.publish()
        assert exchange(own_registry, ci.token(AUDIENCE)).status_code == 403, "known now, and not trusted"


def test_it_is_off_unless_an_operator_names_an_issuer(registry: Registry) -> None:
    assert exchange(registry, "a.b.c").status_code == 501


def test_the_commands_of_owner_and_job(trusting: Registry, ci: Issuer, tmp_path: Path) -> None:
    def lorahub(*arguments: str, **environment: str) -> Any:
        result = subprocess.run(
            [LORAHUB, *arguments, "--json", "--endpoint", trusting.url],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LORAHUB_HOME": str(tmp_path / "home"), **environment},
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)["result"]

    owner = {"LORAHUB_TOKEN": trusting.token, "LORAHUB_ENDPOINT": trusting.url}
    with trusting.client() as client:
        wire.create_repo(client, "stage/cli")
    trust = ["trust", "add", "stage/cli", "--github", "acme/training", "--workflow", "release.yml"]
    made = lorahub(*trust, "--issuer", ci.url, **owner)
    assert made["claims"]["workflow_ref"] == "acme/training/.github/workflows/release.yml@*"
    (ci.folder / "id-token").write_text(json.dumps({"value": ci.token(AUDIENCE)}))
    job = {
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{ci.url}/id-token?api-version=2.0",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "runner",
    }
    lorahub("login", trusting.url, "--oidc", "stage/cli", **job)
    with trusting.client() as client:
        assert client.get("/api/whoami-v2").status_code == 200
    lorahub("login", trusting.url, "--oidc", "stage/cli", LORAHUB_ID_TOKEN=ci.token(AUDIENCE))
    assert lorahub("whoami")["scope"] == "write"
    assert [row["id"] for row in lorahub("trust", "ls", "stage/cli", **owner)] == [made["id"]]
    lorahub("trust", "rm", "stage/cli", str(made["id"]), **owner)
    assert lorahub("trust", "ls", "stage/cli", **owner) == []
