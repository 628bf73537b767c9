"""PostgreSQL and S3 for the registries of a test run: `pytest --services postgres,s3`, or `cluster` (see cluster.py).

Without the option every registry is the embedded one. With it the same tests run against the same code on real servers,
started once in each test process and stopped with it.
"""

import shutil
import tempfile
from pathlib import Path

from services.postgres import Postgres
from services.s3 import ACCESS_KEY, REGION, SECRET_KEY, S3Server

KNOWN = ("postgres", "s3", "cluster", "threads")
chosen: set[str] = set()

_folder: Path | None = None
_postgres: Postgres | None = None
_s3: S3Server | None = None
_settings: dict[Path, dict[str, str]] = {}


def settings_for(home: Path) -> dict[str, str]:
    """What a registry at `home` is told: a database and a bucket of its own, the same each time."""
    if home not in _settings:
        _settings[home] = {
            **({"LORAHUB_DATABASE_URL": postgres().new_database()} if "postgres" in chosen else {}),
            **(storage_settings(s3()) if "s3" in chosen else {}),
        }
    return _settings[home]


def storage_settings(server: S3Server) -> dict[str, str]:
    """Of a new bucket."""
    return {
        "LORAHUB_STORAGE": f"s3://{server.new_bucket()}/lorahub",
        "LORAHUB_STORAGE_ENDPOINT": server.endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": REGION,
    }


def postgres() -> Postgres:
    """The server of this test process, started when it is first needed."""
    global _postgres  # noqa: PLW0603
    if _postgres is None:
        _postgres = Postgres(folder() / "postgres").start()
    return _postgres


def s3() -> S3Server:
    """The server of this test process, started when it is first needed."""
    global _s3  # noqa: PLW0603
    if _s3 is None:
        _s3 = S3Server(folder() / "s3").start()
    return _s3


def folder() -> Path:
    global _folder  # noqa: PLW0603
    if _folder is None:
        _folder = Path(tempfile.mkdtemp(prefix="lorahub-services-"))
    return _folder


def stop() -> None:
    if _postgres is not None:
        _postgres.stop()
    if _s3 is not None:
        _s3.stop()
    if _folder is not None:
        shutil.rmtree(_folder, ignore_errors=True)
