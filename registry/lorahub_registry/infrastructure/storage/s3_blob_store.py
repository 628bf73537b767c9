"""Objects in a bucket of any S3 server, through boto3.

Depends on nothing that only some servers have: no stored checksums, no `If-Match`, no tags, no lifecycle. A copy or a
completion that answers 200 with an error inside is a failure, and so is a body that is shorter than announced.
"""

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import boto3
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError
from lorahub.errors import DiskFull, Unavailable
from urllib3.exceptions import HTTPError

from lorahub_registry.infrastructure.storage.blob_store import ObjectNotFound, StoredObject

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

PIECE_BYTES = 1 << 20
SMALLEST_PART_BYTES = 5 << 20
"""S3's bound for every part but the last."""

_MOST_CONNECTIONS = 64  # more than the threads that serve requests: none of them waits for one
_TRIES = 4
_MISSING = frozenset({"404", "NoSuchKey", "NotFound", "NoSuchUpload"})
_FULL = frozenset({"InsufficientStorage", "QuotaExceeded", "StorageFull", "XMinioStorageFull", "507"})

logger = logging.getLogger("lorahub")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes. `part` is held in memory by each writer; `copy` is the most that one request copies: S3 allows 5 GiB, and
    one GiB is done before a connection is given up.
    """

    part: int = 8 << 20
    copy: int = 1 << 30


class S3BlobStore:
    """Keys are prefixed with `prefix`, which is empty or ends in `/`."""

    def __init__(self, client: "S3Client", bucket: str, prefix: str, *, sizes: Sizes | None = None) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._sizes = sizes or Sizes()

    @classmethod
    def at(cls, bucket: str, prefix: str, *, endpoint: str | None) -> "S3BlobStore":
        """Credentials and region come from boto3's standard chain. Asks nobody anything yet."""
        return cls(connect(endpoint), bucket, f"{prefix}/" if prefix else "")

    @contextmanager
    def writer(self, key: str) -> Iterator[BinaryIO]:
        parts = _Parts(self._client, self._place(key), self._sizes.part)
        try:
            yield cast(BinaryIO, parts)
            parts.finish()
        except BaseException:
            parts.abort()
            raise

    def open_range(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        if start >= stop:
            if self.size(key) is None:
                raise ObjectNotFound(key)
            return iter(())
        return self._pieces(key, start, stop, self._body(key, start, stop))

    def _body(self, key: str, start: int, stop: int) -> Any:
        """None behind the object's end. Raises `ObjectNotFound`."""
        with _named():
            try:
                answer = self._client.get_object(**self._place(key), Range=f"bytes={start}-{stop - 1}")
            except ClientError as error:
                if _code(error) in _MISSING:
                    raise ObjectNotFound(key) from None
                if _code(error) in ("InvalidRange", "416"):
                    return None
                raise
        if not answer.get("ContentRange", "").startswith(f"bytes {start}-"):
            raise _failed("the storage answered other bytes than were asked for")
        return answer["Body"]

    def _pieces(self, key: str, start: int, stop: int, body: Any) -> Iterator[bytes]:
        """Goes on where a connection broke, as long as each one brings something: objects never change."""
        while body is not None:
            before, at = start, start
            try:
                with _named():
                    while piece := body.read(PIECE_BYTES):
                        at += len(piece)
                        yield piece
                    return
            except Unavailable:
                start = at
                if start == before:
                    raise
            finally:
                body.close()
            body = self._body(key, start, stop) if start < stop else None

    def size(self, key: str) -> int | None:
        with _named():
            try:
                return self._client.head_object(**self._place(key))["ContentLength"]
            except ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise

    def move(self, key: str, to: str) -> None:
        size = self.size(key)
        if size is not None:
            with _named():
                self._copy(key, to, size)
            self.delete(key)
        elif self.size(to) is None:
            raise ObjectNotFound(key)

    def _copy(self, key: str, to: str, size: int) -> None:
        if size > self._sizes.copy:
            step = self._sizes.copy
            self._copy_parts([(key, start, min(start + step, size)) for start in range(0, size, step)], to)
            return
        copied = self._client.copy_object(**self._place(to), CopySource=self._source(key))
        _require(copied.get("CopyObjectResult", {}), "ETag")

    def join(self, keys: Sequence[str], to: str) -> None:
        sizes = [self.size(key) for key in keys]
        for key, size in zip(keys, sizes, strict=True):
            if size is None:
                raise ObjectNotFound(key)
        known = [size or 0 for size in sizes]
        if min(known[:-1], default=0) >= SMALLEST_PART_BYTES and max(known) <= self._sizes.copy:
            with _named():
                self._copy_parts([(key, 0, size) for key, size in zip(keys, known, strict=True)], to)
            return
        with self.writer(to) as whole:
            for key, size in zip(keys, known, strict=True):
                for piece in self.open_range(key, 0, size):
                    whole.write(piece)

    def _copy_parts(self, ranges: Sequence[tuple[str, int, int]], to: str) -> None:
        """One object of the ranges `(key, start, stop)`, copied inside the storage."""
        parts = _Parts(self._client, self._place(to), self._sizes.part)
        try:
            for key, start, stop in ranges:
                parts.copy(self._source(key), start, stop)
            parts.finish()
        except BaseException:
            parts.abort()
            raise

    def delete(self, key: str) -> None:
        with _named():
            try:
                self._client.delete_object(**self._place(key))
            except ClientError as error:
                if _code(error) not in _MISSING:
                    raise

    def list(self, prefix: str) -> Iterator[StoredObject]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        with _named():
            for page in pages:
                for row in page.get("Contents", []):
                    yield StoredObject(row["Key"].removeprefix(self._prefix), row["Size"], row["LastModified"])

    def abort_unfinished(self, *, older_than: datetime) -> int:
        count = 0
        for key, upload_id, begun_at in self._unfinished(""):
            if begun_at < older_than:
                _abort(self._client, self._place(key), upload_id)
                count += 1
        return count

    def probe(self) -> None:
        with _named():
            self._client.head_bucket(Bucket=self._bucket)

    def _unfinished(self, prefix: str) -> Iterator[tuple[str, str, datetime]]:
        """Key, S3's upload id and beginning of every multipart upload that is neither completed nor aborted."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        with _named():
            for page in pages:
                for row in page.get("Uploads", []):
                    yield row["Key"].removeprefix(self._prefix), row["UploadId"], row["Initiated"]

    def _place(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def _source(self, key: str) -> Any:
        return self._place(key)


def connect(endpoint: str | None) -> "S3Client":
    """`endpoint` None is AWS. A server of one's own is addressed by path, as its buckets rarely have host names."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if endpoint else "auto"},
            retries={"total_max_attempts": _TRIES, "mode": "standard"},
            connect_timeout=5,
            read_timeout=60,
            max_pool_connections=_MOST_CONNECTIONS,
            # not every server knows the checksums that boto3 sends by default; we hash what was stored
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


class _Parts(io.RawIOBase):
    """An object in the making: one request where it fits into one part, a multipart upload where it doesn't."""

    def __init__(self, client: "S3Client", place: dict[str, Any], part_bytes: int) -> None:
        self._client = client
        self._place = place
        self._part_bytes = part_bytes
        self._buffer: Any = bytearray()
        self._upload_id: str | None = None
        self._etags: list[str] = []

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self._buffer += piece
        while len(self._buffer) > (step := self._next_part_bytes()):
            rest = self._buffer[step:]
            del self._buffer[step:]
            self._send(self._buffer)
            self._buffer = rest
        return len(piece)

    def _next_part_bytes(self) -> int:
        """Doubled every 1500 parts, so that the 10,000 that S3 allows hold a tebibyte."""
        return self._part_bytes << (len(self._etags) // 1500)

    def copy(self, source: Any, start: int, stop: int) -> None:
        answer = self._client.upload_part_copy(
            **self._part(), CopySource=source, CopySourceRange=f"bytes={start}-{stop - 1}"
        )
        self._etags.append(_require(answer.get("CopyPartResult", {}), "ETag"))

    def _send(self, body: Any) -> None:
        with _named():
            self._etags.append(_require(self._client.upload_part(**self._part(), Body=body), "ETag"))

    def _part(self) -> dict[str, Any]:
        """Where the next part goes."""
        if self._upload_id is None:
            self._upload_id = _require(self._client.create_multipart_upload(**self._place), "UploadId")
        return {**self._place, "UploadId": self._upload_id, "PartNumber": len(self._etags) + 1}

    def finish(self) -> None:
        if self._upload_id is None:
            with _named():
                _require(self._client.put_object(**self._place, Body=self._buffer), "ETag")
            return
        if self._buffer:
            self._send(self._buffer)
        complete(self._client, self._place, self._upload_id, list(enumerate(self._etags, start=1)))

    def abort(self) -> None:
        if self._upload_id is not None:
            with suppress(Unavailable):  # the collector aborts what is left; the first fault is the one to tell
                _abort(self._client, self._place, self._upload_id)


def complete(client: "S3Client", place: dict[str, Any], upload_id: str, etags: list[tuple[int, str]]) -> None:
    """Raises `ObjectNotFound` where there is no such multipart upload, or no longer."""
    parts: Any = [{"PartNumber": number, "ETag": etag} for number, etag in etags]
    with _named():
        try:
            answer = client.complete_multipart_upload(**place, UploadId=upload_id, MultipartUpload={"Parts": parts})
        except ClientError as error:
            if _code(error) in _MISSING:
                raise ObjectNotFound(place["Key"]) from None
            raise
        _require(answer, "ETag")


def _abort(client: "S3Client", place: dict[str, Any], upload_id: str) -> None:
    with _named():
        try:
            client.abort_multipart_upload(**place, UploadId=upload_id)
        except ClientError as error:
            if _code(error) not in _MISSING:
                raise


def _require(answer: Any, name: str) -> str:
    """What a success can't be without."""
    value = answer.get(name)
    if not value:
        raise _failed(f"the storage answered 200, but without {name}")
    return str(value)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _failed(what: str) -> Unavailable:
    logger.error("storage: %s", what)
    return Unavailable("the registry's storage doesn't answer as it should", hint="try again in a moment")


@contextmanager
def _named() -> Iterator[None]:
    """The library's faults under our names; what the storage said is for the operator's log only."""
    try:
        yield
    except ClientError as error:
        if _code(error) in _FULL:
            raise DiskFull(
                "the registry's storage is full; nothing of this upload is kept",
                hint="free space on the registry, then try again",
            ) from error
        raise _failed(str(error)) from error
    except (BotoCoreError, HTTPError) as error:
        raise _failed(f"{type(error).__name__}: {error}") from error
