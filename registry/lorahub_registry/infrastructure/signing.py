"""Signed, expiring values: the URLs that are their own credential and the short-lived upload tokens.

A value is signed for one purpose and can't be used for another.
"""

import os
import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any

from itsdangerous import BadData, URLSafeTimedSerializer
from lorahub.errors import InvalidToken


class Signer:
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
