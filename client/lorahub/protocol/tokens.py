"""Access tokens: `lh_` + 40 random base62 characters + 6 of checksum, so that scanners find them and typos show."""

import secrets
import string
import zlib

PREFIX = "lh_"
_ALPHABET = string.digits + string.ascii_letters
_RANDOM_LENGTH = 40  # 238 bits
_CHECKSUM_LENGTH = 6  # base62 of a 32-bit CRC


def new_token() -> str:
    body = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_LENGTH))
    return PREFIX + body + _checksum(body)


def is_well_formed(token: str) -> bool:
    """Whether the shape and the checksum are right; says nothing about whether any registry knows it."""
    body = token[len(PREFIX) : -_CHECKSUM_LENGTH]
    return token.startswith(PREFIX) and len(body) == _RANDOM_LENGTH and token.endswith(_checksum(body))


def redact(text: str) -> str:
    """What may be shown or logged of a token: enough to recognise it."""
    return f"{text[:6]}…{text[-4:]}" if len(text) >= 16 else "…"


def _checksum(body: str) -> str:
    crc, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECKSUM_LENGTH):
        crc, digit = divmod(crc, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
