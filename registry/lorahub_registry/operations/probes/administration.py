"""What an administrator of the registry sees and does in the browser. Every function asks who it is first."""

from typing import Any

from lorahub.protocol.messages.message import as_json, wire_time
from lorahub.protocol.names import RepositoryName

from lorahub_registry.core.accounts import service as accounts
from lorahub_registry.core.accounts.permissions import Principal, require_site_admin
from lorahub_registry.core.blobs import service as blobs
from lorahub_registry.core.repositories import service as repositories
from lorahub_registry.core.repositories.service import Repository
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.operations.jobs import service as jobs
from lorahub_registry.operations.probes.service import Prober, count

AUDIT_PAGE = 100


def overview(backend: Backend, principal: Principal, prober: Prober) -> dict[str, Any]:
    require_site_admin(principal)
    census = count(backend)
    return {
        "accounts": census.accounts,
        "repositories": census.repositories,
        "blobs": census.blobs,
        "blobBytes": census.blob_bytes,
        "damagedBlobs": census.damaged_blobs,
        "openUploads": census.open_uploads,
        "openUploadBytes": census.open_upload_bytes,
        "jobs": [{"kind": found.kind, "state": found.state, "count": found.count} for found in census.jobs],
        "probes": [
            {
                "name": probed.name,
                "fault": probed.fault,
                "needed": probed.is_needed,
                "milliseconds": probed.milliseconds,
            }
            for probed in prober.probe()
        ],
    }


def users(backend: Backend, principal: Principal) -> list[dict[str, Any]]:
    require_site_admin(principal)
    return [
        {
            "name": account.name,
            "fullname": account.fullname,
            "kind": account.kind,
            "admin": account.is_admin,
            "createdAt": wire_time(account.created_at),
            "disabled": account.disabled_at is not None,
        }
        for account in accounts.all_accounts(backend)
    ]


def add_user(backend: Backend, principal: Principal, name: str, fullname: str) -> str:
    """The new user's first token, shown this once. Raises `InvalidName`, `AlreadyExists`."""
    require_site_admin(principal)
    made = accounts.add_user(backend, name, by=principal.name, fullname=fullname)
    text, _ = accounts.issue_token(
        backend, made.id, by=principal.name, by_token=principal.token_id, name="first", scope="admin"
    )
    return text


def set_disabled(backend: Backend, principal: Principal, name: str, *, is_disabled: bool) -> None:
    """Raises `AccountNotFound`."""
    require_site_admin(principal)
    accounts.set_user_disabled(backend, name, by=principal.name, is_disabled=is_disabled)


def work(backend: Backend, principal: Principal) -> dict[str, Any]:
    require_site_admin(principal)
    return jobs.overview(backend).as_json()


def requeue(backend: Backend, principal: Principal, job: str) -> None:
    """Raises `NotFound`."""
    require_site_admin(principal)
    jobs.requeue(backend, job, by=principal.name)


def out_of_circulation(backend: Backend, principal: Principal) -> dict[str, Any]:
    return {
        "quarantined": [_quarantined(found) for found in repositories.quarantined(backend, principal)],
        "blocked": [as_json(block.as_message()) for block in blobs.blocks(backend, principal)],
    }


def _quarantined(repository: Repository) -> dict[str, Any]:
    assert repository.quarantine is not None
    found = repository.quarantine
    return {"name": repository.full_name, "reason": found.reason, "by": found.by, "at": wire_time(found.at)}


def quarantine(backend: Backend, principal: Principal, name: str, reason: str) -> None:
    """Raises `InvalidName`, `RepositoryNotFound`, `InvalidInput` without a reason."""
    repositories.quarantine(backend, principal, RepositoryName.parse(name), reason)


def release(backend: Backend, principal: Principal, name: str) -> None:
    repositories.release(backend, principal, RepositoryName.parse(name))


def audit(backend: Backend, principal: Principal, *, before: int | None) -> tuple[list[dict[str, Any]], int | None]:
    """Newest first, and where the next page begins."""
    events = accounts.audit_page(backend, principal, limit=AUDIT_PAGE, before=before)
    return [as_json(event.as_message()) for event in events], events[-1].id if len(events) == AUDIT_PAGE else None
