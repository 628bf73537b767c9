"""Where bytes are kept."""

from pathlib import Path

from lorahub.errors import InvalidConfiguration

from lorahub_registry.infrastructure.storage.blob_store import Addresses, BlobStore, ObjectNotFound, StoredObject
from lorahub_registry.infrastructure.storage.disk import Disk
from lorahub_registry.infrastructure.storage.folder_blob_store import FolderBlobStore
from lorahub_registry.settings import Settings

__all__ = ["Addresses", "BlobStore", "Disk", "FolderBlobStore", "ObjectNotFound", "StoredObject", "open_storage"]


def open_storage(settings: Settings) -> BlobStore:
    """The bucket or the folder that `settings` name. Raises `InvalidConfiguration`."""
    where = settings.storage or str(settings.registry_home / "storage")
    scheme, separator, place = where.partition("://")
    if not separator:
        return FolderBlobStore(Path(where), reserve_bytes=settings.disk_reserve_bytes)
    bucket, _, prefix = place.strip("/").partition("/")
    if scheme != "s3" or not bucket:
        raise InvalidConfiguration(
            f"LORAHUB_STORAGE is {where!r}", hint="it is the path of a folder, or s3://bucket/prefix"
        )
    from lorahub_registry.infrastructure.storage.s3_blob_store import S3BlobStore  # boto3 takes its time

    return S3BlobStore.at(
        bucket, prefix, endpoint=settings.storage_endpoint, public_endpoint=settings.storage_public_endpoint
    )
