"""What every service needs to act: settings, database, storage, signer. Built once, passed as the first argument."""

from dataclasses import dataclass

from lorahub_registry.infrastructure.database import Database
from lorahub_registry.infrastructure.database.session import DatabaseLimits
from lorahub_registry.infrastructure.signing import ValueSigner, secret_in_folder
from lorahub_registry.infrastructure.storage import BlobStore, open_storage
from lorahub_registry.settings import Settings


@dataclass(frozen=True, slots=True)
class Backend:
    settings: Settings
    database: Database
    blobs: BlobStore
    signer: ValueSigner

    @classmethod
    def open(cls, settings: Settings) -> "Backend":
        """Makes `home` where it is missing. Touches no table: see `database.migrate`. Raises `InvalidConfiguration`."""
        settings.registry_home.mkdir(parents=True, exist_ok=True, mode=0o700)
        url = settings.database_url
        return cls(
            settings=settings,
            database=Database(url, limits_of(settings)) if url else Database.in_folder(settings.registry_home),
            blobs=open_storage(settings),
            signer=ValueSigner(settings.secret or secret_in_folder(settings.registry_home)),
        )


def limits_of(settings: Settings) -> DatabaseLimits:
    return DatabaseLimits(
        connections=settings.database_connections,
        connect_seconds=settings.database_connect_seconds,
        wait_seconds=settings.database_wait_seconds,
        lock_seconds=settings.database_lock_seconds,
        statement_seconds=settings.database_statement_seconds,
    )
