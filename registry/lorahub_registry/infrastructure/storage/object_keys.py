"""Where bytes lie. Keys are made of server-made ids and hex digits only; nothing a client wrote is part of one.

staging/<upload id>/whole          one upload, received in one piece
staging/<upload id>/part-<00001>   one upload, received in parts
blobs/<ab>/<cd>/<sha256>-<attempt>-<upload id>
                                   bytes to be verified, then served; no client ever held a URL that writes here;
                                   `ab` and `cd` are of the digest, or of the upload that brought many small files
doctor/<random>/…                  what `lorahub admin doctor` tries out
xorbs/<session>/<hash>             chunks of a Xet upload, until its session is over
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from lorahub.protocol.digests import Sha256

BLOBS = "blobs/"
SHORT_LIVED = ("staging/", "xorbs/", "doctor/")
"""Gone within days, each in a folder of its own."""


@dataclass(frozen=True, slots=True)
class Staging:
    upload_id: str

    @property
    def prefix(self) -> str:
        return f"staging/{self.upload_id}/"

    @property
    def whole(self) -> str:
        return f"{self.prefix}whole"

    def part(self, number: int) -> str:
        return f"{self.prefix}part-{number:05d}"


def blob_folder(sha256: Sha256) -> str:
    return f"{BLOBS}{sha256[:2]}/{sha256[2:4]}/"


def blob_key(sha256: Sha256, upload_id: str) -> str:
    """A new one each time: what a second attempt at an upload brings never lands on what the first one recorded."""
    return f"{blob_folder(sha256)}{sha256}-{secrets.token_hex(4)}-{upload_id}"


def batch_keys(digests: Iterable[Sha256], upload_id: str) -> dict[Sha256, str]:
    """Keys for many objects that one upload brings: all in one folder, which is then waited for once."""
    folder = f"{BLOBS}{upload_id[:2]}/{upload_id[2:4]}/"
    return {sha256: f"{folder}{sha256}-{secrets.token_hex(4)}-{upload_id}" for sha256 in digests}


def xorb_prefix(session: str) -> str:
    return f"xorbs/{session}/"


def xorb_key(session: str, xorb_hash: str) -> str:
    return f"{xorb_prefix(session)}{xorb_hash}"


def doctor_prefix() -> str:
    return f"doctor/{secrets.token_hex(8)}/"
