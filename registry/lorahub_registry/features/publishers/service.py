"""Trusts CI jobs to publish, and exchanges their identity tokens for ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from lorahub.errors import (
    InvalidInput,
    InvalidToken,
    NotFound,
    NotPermitted,
    NotSupported,
    RepositoryMoved,
    RepositoryNotFound,
)
from lorahub.protocol.names import RepositoryName

from lorahub_registry.core.access import OpenedRepository
from lorahub_registry.core.accounts.permissions import Action, Principal
from lorahub_registry.core.accounts.service import acting_for, insert_bound_token
from lorahub_registry.core.audit.service import record, record_act
from lorahub_registry.core.repositories.service import Repository, name_key, permitted
from lorahub_registry.features.publishers import queries
from lorahub_registry.features.publishers.identity import MOST_TOKEN_CHARACTERS, Identity, verify
from lorahub_registry.features.publishers.queries import Publisher
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session

__all__ = ["Publisher"]

MOST_PUBLISHERS = 20  # of one repository
WHO = ("repository", "project_path", "sub")
"""Claims that say whose job it is; one of them is named whole, or any repository of the issuer could publish."""
_RECORDED = ("sub", "repository", "project_path", "ref", "sha", "workflow_ref", "job_workflow_ref", "run_id", "jti")


@dataclass(frozen=True, slots=True)
class Exchanged:
    token: str
    repository: str
    expires_at: datetime


def audience(backend: Backend) -> str:
    """What an identity token has to be made for. Raises `NotSupported` where nobody is trusted."""
    settings = backend.settings
    if settings.public_url is None or not settings.oidc_issuers:
        raise NotSupported(
            "trusted publishing is off on this registry",
            hint="its operator turns it on: LORAHUB_OIDC_ISSUERS and LORAHUB_PUBLIC_URL",
        )
    return settings.public_url.rstrip("/")


# --- whom to trust ----------------------------------------------------------------------------------------------------


def publishers_of(opened: OpenedRepository) -> list[Publisher]:
    opened.require(Action.MANAGE)
    return queries.publishers_of(opened.session, opened.id)


def trust(
    backend: Backend, principal: Principal, name: RepositoryName, issuer: str, claims: Mapping[str, str]
) -> Publisher:
    """`claims` are what the identity token must say; a value that ends with `*` is a beginning.

    Raises `InvalidInput` for claims that would let strangers in, or an issuer that the registry doesn't know.
    """
    with backend.database.write() as session:
        repository = permitted(session, principal, name, Action.MANAGE)
        account_id = principal.require_account()
        _require_narrow(backend, issuer, claims)
        if len(queries.publishers_of(session, repository.id)) >= MOST_PUBLISHERS:
            raise InvalidInput(f"{repository.full_name} has {MOST_PUBLISHERS} publishers, the most there can be")
        made = queries.insert_publisher(
            session, repository_id=repository.id, account_id=account_id, issuer=issuer, claims=dict(claims)
        )
        record_act(
            session,
            principal,
            "publisher.trust",
            repository.full_name,
            publisher=made,
            issuer=issuer,
            claims=dict(claims),
        )
        return next(known for known in queries.publishers_of(session, repository.id) if known.id == made)


def _require_narrow(backend: Backend, issuer: str, claims: Mapping[str, str]) -> None:
    if issuer not in backend.settings.oidc_issuers:
        raise InvalidInput(
            f"this registry takes no identity tokens of {issuer[:200]!a}",
            hint=f"it takes those of: {', '.join(backend.settings.oidc_issuers) or 'nobody'}",
        )
    if not any(claims.get(claim) and not claims[claim].endswith("*") for claim in WHO):
        raise InvalidInput(
            "the claims don't say whose job it is", hint=f"name one of them whole: {', '.join(WHO)}; better, a ref too"
        )
    for claim, value in claims.items():
        if "*" in value[:-1] or not value.isprintable() or not claim.isprintable():
            raise InvalidInput(f"{claim[:100]!a}: a claim is printable text, with `*` at its end or not at all")


def distrust(backend: Backend, principal: Principal, name: RepositoryName, publisher_id: int) -> None:
    """Raises `NotFound`. Tokens that it was given live on for their minutes."""
    with backend.database.write() as session:
        repository = permitted(session, principal, name, Action.MANAGE)
        if publisher_id not in [known.id for known in queries.publishers_of(session, repository.id)]:
            raise NotFound(f"{repository.full_name} has no publisher {publisher_id}")
        queries.delete_publisher(session, publisher_id)
        record_act(session, principal, "publisher.distrust", repository.full_name, publisher=publisher_id)


# --- the exchange -----------------------------------------------------------------------------------------------------


def exchange(backend: Backend, identity_token: str, name: RepositoryName) -> Exchanged:
    """A token that writes to this repository for some minutes, in the name of whoever trusts the job.

    Raises `InvalidToken` for an identity token that is not good or was exchanged before, `NotPermitted` where the
    repository trusts no such job, in the same words as where there is no such repository.
    """
    wanted = audience(backend)
    if len(identity_token) > MOST_TOKEN_CHARACTERS or not identity_token.isascii():
        raise InvalidToken("this is no identity token")
    identity = verify(identity_token, settings=backend.settings, audience=wanted)
    try:
        with backend.database.write() as session:
            return _issue(backend, session, identity, name)
    except queries.IntegrityError:
        raise InvalidToken("this identity token was exchanged before", hint="ask the CI for a new one") from None


def _issue(backend: Backend, session: Session, identity: Identity, name: RepositoryName) -> Exchanged:
    for publisher, repository in _trusting(session, identity, name):
        queries.spend_identity(session, issuer=identity.issuer, jti=identity.jti, expires_at=identity.spent_until)
        text, token = insert_bound_token(
            session,
            publisher.account_id,
            name=f"publisher {publisher.id} of {repository.full_name}"[:96],
            repository_id=repository.id,
            lifetime=backend.settings.publisher_token_lifetime,
        )
        record(
            session,
            actor=publisher.added_by,
            token_id=token.id,
            action="publisher.token",
            subject=repository.full_name,
            publisher=publisher.id,
            issuer=identity.issuer,
            claims={claim: identity.claims[claim] for claim in _RECORDED if claim in identity.claims},
        )
        assert token.expires_at is not None
        return Exchanged(text, repository.full_name, token.expires_at)
    raise NotPermitted(
        f"{name} trusts no job with these claims",
        hint=f"the token says: {_shown(identity)}; see: lorahub trust ls {name}",
    )


def _trusting(session: Session, identity: Identity, name: RepositoryName) -> list[tuple[Publisher, Repository]]:
    """The publishers of the repository that this identity is, whose owners may still write there."""
    found = []
    for publisher in queries.publishers_named(session, name_key(name), identity.issuer):
        try:
            repository = permitted(session, acting_for(session, publisher.account_id), name, Action.WRITE)
        except (NotPermitted, RepositoryMoved, RepositoryNotFound):
            continue
        if all(_says(identity, claim, value) for claim, value in publisher.claims.items()):
            found.append((publisher, repository))
    return found


def _says(identity: Identity, claim: str, value: str) -> bool:
    said = identity.claims.get(claim)
    if not isinstance(said, str):
        return False
    return said.startswith(value[:-1]) if value.endswith("*") else said == value


def _shown(identity: Identity) -> str:
    said = {claim: identity.claims[claim] for claim in _RECORDED if claim in identity.claims}
    return ", ".join(f"{claim}={value}" for claim, value in said.items())[:500]
