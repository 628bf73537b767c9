"""Which content coding an answer takes: the smallest that the client knows."""

import gzip
import re

import brotli

_QUALITY_ZERO = re.compile(r";\s*q=0(?:\.0*)?\s*$")
_LEAST_BYTES = 512
_BROTLI_QUALITY = 5  # ten times as fast as the best, and within a tenth of its size


def accepted(header: str | None) -> str:
    """`br`, `gzip` or `identity`, for an `Accept-Encoding`."""
    offered = {
        part.partition(";")[0].strip().lower()
        for part in (header or "").split(",")[:20]
        if not _QUALITY_ZERO.search(part)
    }
    return next((coding for coding in ("br", "gzip") if coding in offered), "identity")


def encode(body: bytes, coding: str) -> tuple[bytes, str]:
    """The body and the coding it has; a short one stays as it is."""
    if len(body) < _LEAST_BYTES or coding == "identity":
        return body, "identity"
    if coding == "br":
        return brotli.compress(body, quality=_BROTLI_QUALITY), "br"
    return gzip.compress(body, 6, mtime=0), "gzip"
