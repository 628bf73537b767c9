"""An issuer of identity tokens: a real server of its two documents, and the key that signs."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
from joserfc import jwk, jwt
from registry_process import eventually
from services.ports import free_port


@dataclass(frozen=True)
class Issuer:
    url: str
    folder: Path
    key: jwk.RSAKey

    @property
    def settings(self) -> dict[str, str]:
        """Of a registry that takes its tokens: it is on this machine, which has to be said."""
        here = self.url.removeprefix("http://")
        return {"LORAHUB_OIDC_ISSUERS": json.dumps([self.url]), "LORAHUB_OUTBOUND_INTERNAL": json.dumps([here])}

    def publish(self, **described: str) -> None:
        """The discovery document and the keys."""
        (self.folder / ".well-known").mkdir(exist_ok=True)
        document = {"issuer": self.url, "jwks_uri": f"{self.url}/keys", **described}
        (self.folder / ".well-known" / "openid-configuration").write_text(json.dumps(document))
        (self.folder / "keys").write_text(json.dumps({"keys": [self.key.as_dict(private=False)]}))

    def claims(self, audience: str, **changes: Any) -> dict[str, Any]:
        """What GitHub says of a job, with changes; None leaves a claim out."""
        now = int(time.time())
        said = {
            "iss": self.url,
            "aud": audience,
            "sub": "repo:acme/training:ref:refs/heads/main",
            "repository": "acme/training",
            "ref": "refs/heads/main",
            "workflow_ref": "acme/training/.github/workflows/release.yml@refs/heads/main",
            "jti": str(uuid4()),
            "iat": now,
            "nbf": now,
            "exp": now + 300,
            **changes,
        }
        return {claim: value for claim, value in said.items() if value is not None}

    def token(self, audience: str, **changes: Any) -> str:
        return jwt.encode({"alg": "RS256", "kid": self.key.kid}, self.claims(audience, **changes), self.key)


@contextmanager
def issuer(folder: Path) -> Iterator[Issuer]:
    folder.mkdir()
    port = free_port()
    key = jwk.RSAKey.generate_key(2048, parameters={"kid": "k1", "use": "sig", "alg": "RS256"})
    made = Issuer(f"http://127.0.0.1:{port}", folder, key)
    made.publish()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: _answers(f"{made.url}/keys"), seconds=30)
            yield made
        finally:
            process.terminate()


def _answers(address: str) -> bool:
    try:
        return httpx2.get(address).status_code == 200
    except httpx2.HTTPError:
        return False
