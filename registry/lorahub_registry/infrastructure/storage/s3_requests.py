"""One request to an S3 server: how it is sent, and what its failures are called."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError
from lorahub.errors import DiskFull, Unavailable
from urllib3.exceptions import HTTPError

from lorahub_registry.infrastructure import metrics
from lorahub_registry.infrastructure.storage.blob_store import ObjectNotFound

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_MOST_CONNECTIONS = 64  # more than the threads that serve requests: none of them waits for one
_TRIES = 4
_MISSING = frozenset({"404", "NoSuchKey", "NotFound", "NoSuchUpload"})
_FULL = frozenset({"InsufficientStorage", "QuotaExceeded", "StorageFull", "XMinioStorageFull", "507"})
_COUNTED = frozenset(
    {
        *("AccessDenied", "InternalError", "InvalidAccessKeyId", "NoSuchBucket", "RequestTimeTooSkewed"),
        *("RequestTimeout", "ServiceUnavailable", "SignatureDoesNotMatch", "SlowDown", "503"),
    }
)
"""Codes that are a label of their own: a server may answer anything."""

logger = logging.getLogger("lorahub")


def connect(endpoint: str | None) -> "S3Client":
    """`endpoint` None is AWS. A server of one's own is addressed by path, as its buckets rarely have host names.

    A session of its own: boto3's default one would keep the first credentials for as long as the process lives.
    """
    return boto3.Session().client(
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


def begin_parts(client: "S3Client", place: dict[str, Any]) -> str:
    with named():
        return require(client.create_multipart_upload(**place), "UploadId")


def complete_parts(client: "S3Client", place: dict[str, Any], upload_id: str, etags: list[tuple[int, str]]) -> None:
    """Raises `ObjectNotFound` where there is no such multipart upload, or no longer."""
    parts: Any = [{"PartNumber": number, "ETag": etag} for number, etag in etags]
    with named():
        try:
            answer = client.complete_multipart_upload(**place, UploadId=upload_id, MultipartUpload={"Parts": parts})
        except ClientError as error:
            if is_missing(error):
                raise ObjectNotFound(place["Key"]) from None
            raise
        require(answer, "ETag")


def abort_parts(client: "S3Client", place: dict[str, Any], upload_id: str) -> None:
    with named():
        try:
            client.abort_multipart_upload(**place, UploadId=upload_id)
        except ClientError as error:
            if not is_missing(error):
                raise


def require(answer: Any, name: str) -> str:
    """What a success can't be without."""
    value = answer.get(name)
    if not value:
        raise failed(f"the storage answered 200, but without {name}", "NoSuccess")
    return str(value)


def is_missing(error: ClientError) -> bool:
    return code(error) in _MISSING


def code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def failed(what: str, fault: str = "other") -> Unavailable:
    """`fault` is its label in the metrics: one of few."""
    metrics.STORAGE_FAULTS.labels(fault).inc()
    logger.error("storage: %s", what)
    return Unavailable("the registry's storage doesn't answer as it should", hint="try again in a moment")


@contextmanager
def named() -> Iterator[None]:
    """The library's faults under our names; what the storage said is for the operator's log only."""
    try:
        yield
    except ClientError as error:
        if code(error) in _FULL:
            metrics.STORAGE_FAULTS.labels("Full").inc()
            raise DiskFull(
                "the registry's storage is full; nothing of this upload is kept",
                hint="free space on the registry, then try again",
            ) from error
        raise failed(str(error), code(error) if code(error) in _COUNTED else "other") from error
    except (BotoCoreError, HTTPError) as error:
        raise failed(f"{type(error).__name__}: {error}", "Connection") from error
