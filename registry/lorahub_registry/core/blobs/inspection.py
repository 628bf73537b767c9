"""Reads stored bytes once, from the first to the last, and says everything later steps need to know of them.

The name a file will have isn't known yet while it is uploaded, so whatever looks like safetensors is read as
safetensors; whether a fault in it matters is decided when a commit names the file.
"""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from lorahub.adapters.finite_scan import FiniteScan
from lorahub.adapters.limits import LIMITS
from lorahub.adapters.safetensors_header import SafetensorsHeader, read_header
from lorahub.errors import InvalidSafetensors
from lorahub.protocol.digests import GitSha1, Sha256

_MOST_NAMES = 20
_WORTH_A_THREAD = 1 << 17  # bytes; fewer are hashed sooner than somebody else is asked to
_MOST_ZERO = 4096


@dataclass(frozen=True, slots=True)
class Inspection:
    """What one reading of the bytes found. `findings` is JSON-ready and stored beside the digests:

    `{"safetensors": {"parameters": {dtype: count}, "total": count, "tensors": n, "metadata": {…}}}`, or
    `{"fault": {"rule", "message"}}`, or nothing for other files; `"nonfinite": {tensor: count}` and
    `"zero": [tensor]` where there are any.
    """

    sha256: Sha256
    git_sha1: GitSha1
    size: int
    findings: dict[str, Any]


def inspect(pieces: Iterable[bytes], *, size: int) -> Inspection:
    """`size` is the stored object's, known to the storage. One pass; memory bounded by the header limit.

    The two digests of a large piece are computed at the same time: hashing releases the interpreter.
    """
    sha256 = hashlib.sha256()
    sha1 = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    reading = _SafetensorsReading(size)
    with ThreadPoolExecutor(1) as beside:
        for piece in pieces:
            label = beside.submit(sha1.update, piece) if len(piece) >= _WORTH_A_THREAD else None
            sha256.update(piece)
            reading.feed(piece)
            if label is None:
                sha1.update(piece)
            else:
                label.result()
    return Inspection(Sha256(sha256.hexdigest()), GitSha1(sha1.hexdigest()), size, reading.findings())


class _SafetensorsReading:
    """Collects the header from the first pieces, then scans the tensors as they pass."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.head: bytearray | None = bytearray()
        self.header: SafetensorsHeader | None = None
        self.scan: FiniteScan | None = None
        self.fault: InvalidSafetensors | None = None

    def feed(self, piece: bytes) -> None:
        if self.scan is not None:
            self.scan.feed(piece)
        elif self.head is not None:
            self.head += piece
            if len(self.head) >= min(self._wanted(), self.size):
                self._read_head(bytes(self.head))
                self.head = None

    def _wanted(self) -> int:
        """Bytes of length word and header, as far as the length word says so; at most the limit."""
        head = self.head or b""
        if len(head) < 9:
            return 9
        return 8 + min(int.from_bytes(head[:8], "little"), LIMITS.header_bytes)

    def _read_head(self, head: bytes) -> None:
        if len(head) < 9 or head[8:9] != b"{":
            return  # not safetensors at all; a file called so is refused for lack of findings
        try:
            self.header = read_header(lambda start, stop: head[start:stop], size=self.size)
        except InvalidSafetensors as error:
            self.fault = error
            return
        self.scan = FiniteScan(self.header)
        self.scan.feed(head[self.header.data_start :])

    def findings(self) -> dict[str, Any]:
        if self.fault is not None:
            return {"fault": {"rule": self.fault.facts.get("rule"), "message": self.fault.message}}
        if self.header is None or self.scan is None:
            return {}
        found: dict[str, Any] = {"safetensors": _summary(self.header)}
        if nonfinite := self.scan.nonfinite():
            found["nonfinite"] = dict(sorted(nonfinite.items())[:_MOST_NAMES])
        if zero := self.scan.zero():
            found["zero"] = sorted(zero)[:_MOST_ZERO]
        return found


def _summary(header: SafetensorsHeader) -> dict[str, Any]:
    parameters: dict[str, int] = {}
    for tensor in header.tensors:
        parameters[tensor.dtype] = parameters.get(tensor.dtype, 0) + tensor.elements
    return {"parameters": parameters, "total": sum(parameters.values()), "tensors": len(header.tensors)}
