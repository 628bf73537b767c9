"""Where bytes are kept."""

from lorahub_registry.infrastructure.storage.blob_store import BlobStore, ObjectNotFound, StoredObject
from lorahub_registry.infrastructure.storage.folder_blob_store import FolderBlobStore

__all__ = ["BlobStore", "FolderBlobStore", "ObjectNotFound", "StoredObject"]
