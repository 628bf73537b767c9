"""Signed, expiring values: the URLs that are their own credential and the short-lived upload tokens; and sealed ones,
which only this registry reads.

A value is signed or sealed for one purpose and can't be used for another.
"""

import os
import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from itsdangerous import BadData, URLSafeTimedSerializer
from lorahub.errors import InvalidToken

_NONCE_BYTES = 12


class ValueSigner:
    """HMAC-SHA-1 over a JSON value and a time, URL-safe (itsdangerous); one derived key for each purpose."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def sign(self, purpose: str, value: dict[str, Any]) -> str:
        return str(self._serializer(purpose).dumps(value))

    def read(self, purpose: str, signed: str, *, lifetime: timedelta) -> dict[str, Any]:
        """The value that was signed. Raises `InvalidToken` if it was altered, has expired or had another purpose."""
        try:
            value: dict[str, Any] = self._serializer(purpose).loads(signed, max_age=int(lifetime.total_seconds()))
        except BadData as error:
            raise InvalidToken(
                "this signed address is not valid, or no longer", hint="start the upload again"
            ) from error
        return value

    def seal(self, purpose: str, text: str, *, bound_to: str) -> bytes:
        """Encrypted (AES-256-GCM, with a derived key), to be opened for the same `bound_to` only."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher(purpose).encrypt(nonce, text.encode(), bound_to.encode())

    def open(self, purpose: str, sealed: bytes, *, bound_to: str) -> str | None:
        """What was sealed; None where it was altered, bound to something else, or sealed with another secret."""
        nonce, encrypted = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher(purpose).decrypt(nonce, encrypted, bound_to.encode()).decode()
        except (InvalidTag, ValueError):
            return None

    def _cipher(self, purpose: str) -> AESGCM:
        derived = HKDF(hashes.SHA256(), 32, salt=None, info=f"lorahub.{purpose}".encode())
        return AESGCM(derived.derive(self._secret.encode()))

    def _serializer(self, purpose: str) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(self._secret, salt=f"lorahub.{purpose}")


def secret_in_folder(home: Path) -> str:
    """The key in `home/secret`, made on first use, readable by its owner only."""
    path = home / "secret"
    if not path.exists():
        temporary = home / f".secret-{secrets.token_hex(8)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(48))
        try:
            path.hardlink_to(temporary)  # the first of two processes wins; a rename would let the second one
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return path.read_text().strip()
