"""Tries out what a bucket can do beyond the contract of every storage."""

import base64
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError
from botocore.httpsession import URLLib3Session

from lorahub_registry.infrastructure.observations import NotAsExpected, Observation, expect, observe
from lorahub_registry.infrastructure.storage.s3_addresses import S3Addresses
from lorahub_registry.infrastructure.storage.s3_requests import abort_parts, begin_parts

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_SECOND = timedelta(seconds=1)
_WORST_SKEW = timedelta(minutes=5)
"""S3 refuses signatures at 15 minutes; a clock that is off by 5 will be off by more."""


class BucketExamination:
    def __init__(self, client: "S3Client", addresses: S3Addresses, place: dict[str, Any], key: str) -> None:
        """`place` is the bucket and the full name of the object `key`, which nobody else uses."""
        self._client = client
        self._addresses = addresses
        self._place = place
        self._key = key

    def __call__(self) -> Iterator[Observation]:
        yield observe("storage clock", self._clock)
        yield observe("storage abort of parts", self._abort)
        yield observe("address to write", self._address_to_write)
        yield observe("address to read", self._address_to_read)
        yield observe("address of another size", self._address_of_another_size, otherwise="note")
        yield observe("storage wrong checksum", self._wrong_checksum, otherwise="note")
        yield observe("storage conditional put", self._conditional_put, otherwise="note")
        self._client.delete_object(**self._place)

    def _clock(self) -> str:
        answer = self._client.list_objects_v2(Bucket=self._place["Bucket"], MaxKeys=1)
        there = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        skew = abs(datetime.now(UTC) - there)
        expect(skew < _WORST_SKEW, f"the storage's clock and ours differ by {skew.total_seconds():.0f} s")
        return f"differs by {skew.total_seconds():.0f} s"

    def _abort(self) -> str:
        upload_id = begin_parts(self._client, self._place)
        self._client.upload_part(**self._place, UploadId=upload_id, PartNumber=1, Body=b"x")
        expect(self._addresses.parts(self._key) == {1: 1}, "the part is not listed")
        abort_parts(self._client, self._place, upload_id)
        expect(self._addresses.parts(self._key) is None, "the upload is still listed after it was aborted")
        return "nothing is left"

    def _address_to_write(self) -> str:
        address = self._addresses.to_write(self._key, size=3, lifetime=60 * _SECOND)
        status = _send("PUT", address, b"abc").status_code
        expect(status == 200, f"answered {status}")
        return _origin(address)

    def _address_to_read(self) -> str:
        address = self._addresses.to_read(self._key, filename="x", lifetime=60 * _SECOND)
        answer = _send("GET", address, headers={"Range": "bytes=1-1"})
        expect((answer.status_code, answer.content) == (206, b"b"), f"answered {answer.status_code} to a range")
        return _origin(address)

    def _address_of_another_size(self) -> str:
        address = self._addresses.to_write(self._key, size=3, lifetime=60 * _SECOND)
        status = _send("PUT", address, b"abcdef").status_code
        expect(status >= 400, "more bytes than announced are taken, and counted only when they are verified")
        return f"refused with {status}"

    def _wrong_checksum(self) -> str:
        md5 = base64.b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()
        try:
            self._client.put_object(**self._place, Body=b"abc", ContentMD5=md5)
        except ClientError as error:
            return f"refused with {error.response['Error'].get('Code')}"
        raise NotAsExpected("bytes with another checksum are taken; the registry hashes what is stored itself")

    def _conditional_put(self) -> str:
        try:
            self._client.put_object(**self._place, Body=b"abc", IfNoneMatch="*")
        except ClientError as error:
            return f"refused with {error.response['Error'].get('Code')}"
        raise NotAsExpected("an object that exists is overwritten in spite of If-None-Match; it isn't used")


def _send(method: str, address: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
    """As a client would: with nothing but the address."""
    return URLLib3Session(timeout=10).send(AWSRequest(method, address, headers=headers, data=body).prepare())


def _origin(address: str) -> str:
    return "/".join(address.split("/")[:3])
