"""Objects in a bucket of any S3 server, through boto3.

Depends on nothing that only some servers have: no stored checksums, no `If-Match`, no tags, no lifecycle. A copy or a
completion that answers 200 with an error inside is a failure, and so is a body that is shorter than announced.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from botocore.exceptions import ClientError
from lorahub.errors import Unavailable

from lorahub_registry.infrastructure.observations import Observation
from lorahub_registry.infrastructure.storage.blob_store import ObjectNotFound, StoredObject
from lorahub_registry.infrastructure.storage.examination import examine_store
from lorahub_registry.infrastructure.storage.s3_addresses import S3Addresses
from lorahub_registry.infrastructure.storage.s3_examination import BucketExamination
from lorahub_registry.infrastructure.storage.s3_requests import (
    abort_parts,
    begin_parts,
    code,
    complete_parts,
    connect,
    failed,
    is_missing,
    named,
    require,
)
from lorahub_registry.infrastructure.storage.several import Several

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes. `part` is held in memory by each writer; `copy` is the most that one request copies: S3 allows 5 GiB, and
    one GiB is done before a connection is given up.
    """

    part: int = 8 << 20
    copy: int = 1 << 30


class S3BlobStore:
    """Keys are prefixed with `prefix`, which is empty or ends in `/`."""

    def __init__(
        self,
        client: "S3Client",
        bucket: str,
        prefix: str,
        *,
        signer: "S3Client | None" = None,
        sizes: Sizes | None = None,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._sizes = sizes or Sizes()
        self._several = Several("s3")
        self.addresses = S3Addresses(client, signer or client, bucket, prefix)

    @classmethod
    def at(cls, bucket: str, prefix: str, *, endpoint: str | None, public_endpoint: str | None) -> "S3BlobStore":
        """Credentials and region come from boto3's standard chain. Asks nobody anything yet."""
        signer = connect(public_endpoint) if public_endpoint else None
        return cls(connect(endpoint), bucket, f"{prefix}/" if prefix else "", signer=signer)

    @contextmanager
    def writer(self, key: str) -> Iterator[BinaryIO]:
        parts = _Parts(self._client, self._place(key), self._sizes.part)
        try:
            yield cast(BinaryIO, parts)
            parts.finish()
        except BaseException:
            parts.abort()
            raise

    def write_all(self, contents: Mapping[str, bytes]) -> None:
        self._several.all(lambda key: self._put(key, contents[key]), contents)

    def _put(self, key: str, content: bytes) -> None:
        with named():
            require(self._client.put_object(**self._place(key), Body=content), "ETag")

    def read_all(self, sizes: Mapping[str, int]) -> Iterator[bytes]:
        return self._several.each(lambda key: b"".join(self.open_range(key, 0, sizes[key] + 1)), sizes)

    def open_range(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        if start >= stop:
            if self.size(key) is None:
                raise ObjectNotFound(key)
            return iter(())
        return self._pieces(key, start, stop, self._body(key, start, stop))

    def _body(self, key: str, start: int, stop: int) -> Any:
        """None behind the object's end. Raises `ObjectNotFound`."""
        with named():
            try:
                answer = self._client.get_object(**self._place(key), Range=f"bytes={start}-{stop - 1}")
            except ClientError as error:
                if is_missing(error):
                    raise ObjectNotFound(key) from None
                if code(error) in ("InvalidRange", "416"):
                    return None
                raise
        if not answer.get("ContentRange", "").startswith(f"bytes {start}-"):
            raise failed("the storage answered other bytes than were asked for")
        return answer["Body"]

    def _pieces(self, key: str, start: int, stop: int, body: Any) -> Iterator[bytes]:
        """Goes on where a connection broke, as long as each one brings something: objects never change."""
        while body is not None:
            before, at = start, start
            try:
                with named():
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
        with named():
            try:
                return self._client.head_object(**self._place(key))["ContentLength"]
            except ClientError as error:
                if is_missing(error):
                    return None
                raise

    def move(self, key: str, to: str) -> None:
        size = self.size(key)
        if size is not None:
            with named():
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
        require(copied.get("CopyObjectResult", {}), "ETag")

    def join(self, keys: Sequence[str], to: str) -> None:
        sizes = [self.size(key) for key in keys]
        for key, size in zip(keys, sizes, strict=True):
            if size is None:
                raise ObjectNotFound(key)
        known = [size or 0 for size in sizes]
        if min(known[:-1], default=0) >= S3Addresses.smallest_part_bytes and max(known) <= self._sizes.copy:
            with named():
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
        with named():
            try:
                self._client.delete_object(**self._place(key))
            except ClientError as error:
                if not is_missing(error):
                    raise

    def delete_all(self, keys: Sequence[str]) -> None:
        self._several.all(self.delete, keys)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        with named():
            for page in pages:
                for row in page.get("Contents", []):
                    yield StoredObject(row["Key"].removeprefix(self._prefix), row["Size"], row["LastModified"])

    def require_space(self, size: int) -> None:
        """A bucket says so when it is full, and not before."""

    def last_arrival(self, prefix: str) -> datetime | None:
        times = [stored.modified_at for stored in self.list(prefix)]
        for key, upload_id, _ in self._unfinished(prefix):
            times += self._arrivals(key, upload_id)
        return max(times, default=None)

    def _arrivals(self, key: str, upload_id: str) -> Sequence[datetime]:
        pages = self._client.get_paginator("list_parts").paginate(**self._place(key), UploadId=upload_id)
        with named():
            try:
                return [row["LastModified"] for page in pages for row in page.get("Parts", [])]
            except ClientError as error:
                if is_missing(error):  # joined or aborted since it was listed
                    return []
                raise

    def abort_unfinished(self, is_known: Callable[[str, datetime], bool]) -> int:
        count = 0
        for key, upload_id, begun_at in self._unfinished(""):
            if not is_known(key, begun_at):
                abort_parts(self._client, self._place(key), upload_id)
                count += 1
        return count

    def create(self) -> None:
        with named():
            try:
                self._client.head_bucket(Bucket=self._bucket)
            except ClientError as error:
                if not is_missing(error):
                    raise
                self._client.create_bucket(Bucket=self._bucket)

    def probe(self) -> None:
        with named():
            self._client.head_bucket(Bucket=self._bucket)

    def _unfinished(self, prefix: str) -> Iterator[tuple[str, str, datetime]]:
        """Key, S3's upload id and beginning of every multipart upload that is neither completed nor aborted."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        with named():
            for page in pages:
                for row in page.get("Uploads", []):
                    yield row["Key"].removeprefix(self._prefix), row["UploadId"], row["Initiated"]

    def examine(self, folder: str) -> Iterator[Observation]:
        basics = list(examine_store(self, folder))
        yield from basics
        if basics[0].level != "ok":
            return
        key = f"{folder}bucket"
        yield from BucketExamination(self._client, self.addresses, self._place(key), key)()

    def _place(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def _source(self, key: str) -> Any:
        return self._place(key)


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
        self._etags.append(require(answer.get("CopyPartResult", {}), "ETag"))

    def _send(self, body: Any) -> None:
        with named():
            self._etags.append(require(self._client.upload_part(**self._part(), Body=body), "ETag"))

    def _part(self) -> dict[str, Any]:
        """Where the next part goes."""
        if self._upload_id is None:
            self._upload_id = begin_parts(self._client, self._place)
        return {**self._place, "UploadId": self._upload_id, "PartNumber": len(self._etags) + 1}

    def finish(self) -> None:
        if self._upload_id is None:
            with named():
                require(self._client.put_object(**self._place, Body=self._buffer), "ETag")
            return
        if self._buffer:
            self._send(self._buffer)
        complete_parts(self._client, self._place, self._upload_id, list(enumerate(self._etags, start=1)))

    def abort(self) -> None:
        if self._upload_id is not None:
            with suppress(Unavailable):  # the collector aborts what is left; the first fault is the one to tell
                abort_parts(self._client, self._place, self._upload_id)
