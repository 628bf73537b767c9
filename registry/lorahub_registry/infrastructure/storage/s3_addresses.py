"""Presigned addresses of a bucket: clients read and write there without passing through the registry.

A write address fixes the number of bytes; what they are is found out when they are read back.
"""

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lorahub_registry.infrastructure.storage.blob_store import ObjectNotFound
from lorahub_registry.infrastructure.storage.s3_requests import abort_parts, begin_parts, complete_parts, named

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


class S3Addresses:
    """`signer` signs for the server's name that clients know; it sends nothing. `client` speaks to the server."""

    largest_whole_bytes = 5 << 30
    smallest_part_bytes = 5 << 20

    def __init__(self, client: "S3Client", signer: "S3Client", bucket: str, prefix: str) -> None:
        self._client = client
        self._signer = signer
        self._bucket = bucket
        self._prefix = prefix

    def to_read(self, key: str, *, filename: str, lifetime: timedelta) -> str:
        shown = {
            "ResponseContentDisposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}",
            "ResponseContentType": "application/octet-stream",
        }
        return self._sign("get_object", {**self._place(key), **shown}, lifetime)

    def to_write(self, key: str, *, size: int, lifetime: timedelta) -> str:
        return self._sign("put_object", {**self._place(key), "ContentLength": size}, lifetime)

    def to_write_parts(self, key: str, *, sizes: tuple[int, ...], lifetime: timedelta) -> tuple[str, ...]:
        upload_id = self._unfinished(key) or self._begin(key)
        return tuple(
            self._sign(
                "upload_part",
                {**self._place(key), "UploadId": upload_id, "PartNumber": number, "ContentLength": size},
                lifetime,
            )
            for number, size in enumerate(sizes, start=1)
        )

    def _begin(self, key: str) -> str:
        """Begins an upload in parts; of several that are begun at once, all go on with the same."""
        begun = begin_parts(self._client, self._place(key))
        chosen = self._unfinished(key) or begun
        if chosen != begun:
            abort_parts(self._client, self._place(key), begun)
        return chosen

    def parts(self, key: str) -> dict[int, int] | None:
        upload_id = self._unfinished(key)
        return None if upload_id is None else {number: size for number, size, _ in self._parts(key, upload_id)}

    def join(self, key: str) -> None:
        upload_id = self._unfinished(key)
        if upload_id is None:
            raise ObjectNotFound(key)
        etags = [(number, etag) for number, _, etag in self._parts(key, upload_id)]
        complete_parts(self._client, self._place(key), upload_id, etags)

    def _parts(self, key: str, upload_id: str) -> list[tuple[int, int, str]]:
        """Number, bytes and name of each part that has arrived."""
        pages = self._client.get_paginator("list_parts").paginate(**self._place(key), UploadId=upload_id)
        with named():
            return [(row["PartNumber"], row["Size"], row["ETag"]) for page in pages for row in page.get("Parts", [])]

    def _unfinished(self, key: str) -> str | None:
        """The upload in parts that was begun first and is neither joined nor aborted."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._bucket, Prefix=self._prefix + key
        )
        with named():
            found = sorted(
                (row["Initiated"], row["UploadId"])
                for page in pages
                for row in page.get("Uploads", [])
                if row["Key"] == self._prefix + key
            )
        return found[0][1] if found else None

    def _sign(self, operation: str, parameters: dict[str, Any], lifetime: timedelta) -> str:
        with named():
            return self._signer.generate_presigned_url(
                operation, Params=parameters, ExpiresIn=int(lifetime.total_seconds())
            )

    def _place(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}
