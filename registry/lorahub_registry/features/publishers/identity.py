"""Identity tokens of CI jobs (OpenID Connect): whose they are, by the keys that their issuer publishes."""

import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from lorahub.adapters.strict_json import parse_json
from lorahub.errors import InvalidToken, MalformedBody, NotPermitted, Unavailable

from lorahub_registry.infrastructure.outbound import Outbound
from lorahub_registry.settings import Settings

ALGORITHMS = ["RS256", "ES256"]  # never a shared secret, never `none`, whatever the token says of itself
LEEWAY = timedelta(seconds=30)
MOST_TOKEN_CHARACTERS = 16_384
_KEYS_GOOD_FOR = 600.0  # seconds
_ASK_AGAIN_AFTER = 30.0  # seconds; a token with an unknown key may make us ask
_DOCUMENT_BYTES = 1 << 18
_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Identity:
    """What a verified token says."""

    issuer: str
    jti: str
    spent_until: datetime
    claims: dict[str, Any]


def verify(token: str, *, settings: Settings, audience: str) -> Identity:
    """Raises `InvalidToken`, and `Unavailable` where the issuer can't be asked for its keys."""
    issuer = _claimed_issuer(token)
    if issuer not in settings.oidc_issuers:
        raise InvalidToken("this registry trusts no identity token of that issuer")
    try:
        claims = jwt.decode(token, _keys.of(issuer, _key_id(token), settings), algorithms=ALGORITHMS).claims
        jwt.JWTClaimsRegistry(
            leeway=int(LEEWAY.total_seconds()),
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            iat={"essential": True},
            sub={"essential": True},
            jti={"essential": True},
        ).validate(claims)
    except (JoseError, ValueError) as error:
        raise InvalidToken(f"the identity token is not good: {error}"[:300]) from None
    if not isinstance(claims["jti"], str) or len(claims["jti"]) > 300:
        raise InvalidToken("the identity token is not good: its `jti` is no text of at most 300 characters")
    return Identity(issuer, claims["jti"], datetime.fromtimestamp(claims["exp"], UTC) + LEEWAY, claims)


def _claimed_issuer(token: str) -> str:
    """Unverified: it only says whose keys to verify with."""
    try:
        claimed = parse_json(jws.extract_compact(token.encode()).payload, error=MalformedBody)
    except (JoseError, ValueError, MalformedBody):
        raise InvalidToken("this is no identity token") from None
    return str(claimed.get("iss")) if isinstance(claimed, dict) else ""


def _key_id(token: str) -> str | None:
    key_id = jws.extract_compact(token.encode()).headers().get("kid")
    return key_id if isinstance(key_id, str) else None


# --- the issuer's keys ------------------------------------------------------------------------------------------------


@dataclass
class _Keys:
    """Of each issuer, for some minutes."""

    known: dict[str, tuple[float, KeySet]] = field(default_factory=dict)
    turn: threading.Lock = field(default_factory=threading.Lock)

    def of(self, issuer: str, key_id: str | None, settings: Settings) -> KeySet:
        with self.turn:
            at, keys = self.known.get(issuer, (float("-inf"), None))
            age = time.monotonic() - at
            is_missing = keys is not None and key_id not in [key.kid for key in keys.keys]
            if keys is None or age > _KEYS_GOOD_FOR or (is_missing and age > _ASK_AGAIN_AFTER):
                keys = _published_keys(issuer, settings)
                self.known[issuer] = (time.monotonic(), keys)
            return keys


_keys = _Keys()


def _published_keys(issuer: str, settings: Settings) -> KeySet:
    """By its discovery document; the keys are on the issuer's own host, which its setting names to be called."""
    outbound = Outbound.of(settings, also=[urlsplit(issuer).netloc])
    described = _document(outbound, f"{issuer.rstrip('/')}/.well-known/openid-configuration")
    address = str(described.get("jwks_uri"))
    if described.get("issuer") != issuer or urlsplit(address)[:2] != urlsplit(issuer)[:2]:
        raise Unavailable(f"{issuer} describes itself as somebody else, or has its keys elsewhere")
    try:
        return KeySet.import_key_set(_document(outbound, address))  # type: ignore[arg-type]
    except (JoseError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unavailable(f"the keys of {issuer} can't be read: {error}"[:300]) from None


def _document(outbound: Outbound, address: str) -> dict[str, Any]:
    """A small JSON object, from the very host that was asked."""
    try:
        content = outbound.get_document(address, most_bytes=_DOCUMENT_BYTES, seconds=_SECONDS)
    except NotPermitted as error:
        raise Unavailable(error.message, hint=error.hint) from None
    found = parse_json(content, error=MalformedBody)
    if not isinstance(found, dict):
        raise Unavailable(f"{address[:200]} holds no JSON object")
    return found
