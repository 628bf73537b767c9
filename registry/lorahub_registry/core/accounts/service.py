"""Accounts, organisations and tokens: who somebody is, proved by a token that is stored as its SHA-256 only."""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from lorahub.errors import (
    AccountNotFound,
    AlreadyExists,
    Conflict,
    InvalidInput,
    InvalidName,
    InvalidToken,
    NotFound,
    NotPermitted,
    QuotaExceeded,
)
from lorahub.protocol.digests import sha256_of
from lorahub.protocol.names import RESERVED_NAMESPACES, parse_name, similarity_key
from lorahub.protocol.tokens import is_well_formed, new_token

from lorahub_registry.core.accounts import queries
from lorahub_registry.core.accounts.permissions import (
    ANONYMOUS,
    Action,
    Level,
    Principal,
    is_site_admin,
    may,
    require,
    require_site_admin,
)
from lorahub_registry.core.accounts.queries import Account, Bearer, Token
from lorahub_registry.core.audit.service import Event, newest_events, record, record_act
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session, now

__all__ = ["Account", "Event", "Token"]

LAST_USED_RESOLUTION = timedelta(minutes=1)
MAX_TOKEN_DAYS = 3650
SESSION_LIFETIME = timedelta(days=30)
"""Of a browser that logged in."""


@dataclass(frozen=True, slots=True)
class Organisation:
    account: Account
    role: str


# --- who is asking ----------------------------------------------------------------------------------------------------


def authenticate(backend: Backend, token: str | None) -> Principal:
    """The principal behind a bearer token; anonymous without one. Raises `InvalidToken`."""
    if token is None:
        return ANONYMOUS
    with backend.database.read() as session:
        principal, is_stale = _principal(session, token)
    if is_stale:
        with backend.database.write() as session:
            queries.touch_token(session, principal.token_id or 0)
    return principal


def principal_of_session(backend: Backend, cookie: str) -> Principal:
    """The principal behind a browser's session: that of the token it was opened with. Raises `InvalidToken`."""
    with backend.database.read() as session:
        found = queries.token_by_session(session, sha256_of(cookie.encode()))
    if found is None or not _is_good(found.token, found.account):
        raise InvalidToken("the session is over", hint="log in again")
    return _acting(found)


def log_in(backend: Backend, token: str) -> str:
    """Opens a browser's session with a token; the cookie, shown this once. Raises `InvalidToken`."""
    cookie = secrets.token_urlsafe(32)
    with backend.database.write() as session:
        principal, _ = _principal(session, token)
        queries.insert_session(
            session,
            sha256_of(cookie.encode()),
            token_id=principal.token_id or 0,
            expires_at=_soonest(now() + SESSION_LIFETIME, principal.expires_at),
        )
        record_act(session, principal, "session.create", principal.name)
    return cookie


def _soonest(at: datetime, other: datetime | None) -> datetime:
    """None is never."""
    return at if other is None else min(at, other)


def log_out(backend: Backend, principal: Principal, cookie: str) -> None:
    """The cookie is worth nothing afterwards, wherever it is kept."""
    with backend.database.write() as session:
        if queries.delete_session(session, sha256_of(cookie.encode())):
            record_act(session, principal, "session.end", principal.name)


def forget_sessions(backend: Backend) -> int:
    """Rows of browsers' sessions that are over; how many."""
    with backend.database.write() as session:
        return queries.forget_sessions(session)


def _principal(session: Session, token: str) -> tuple[Principal, bool]:
    found = queries.token_by_sha256(session, sha256_of(token.encode())) if is_well_formed(token) else None
    if found is None or not _is_good(found.token, found.account):
        raise InvalidToken("Invalid credentials in Authorization header", hint="log in again: lorahub login")
    used_at = found.token.last_used_at
    return _acting(found), used_at is None or now() - used_at > LAST_USED_RESOLUTION


def _acting(bearer: Bearer) -> Principal:
    known, account = bearer.token, bearer.account
    return Principal(
        account_id=account.id,
        name=account.name,
        is_admin=account.is_admin,
        scope=Level.named(known.scope),
        namespace=known.namespace,
        repository_id=known.repository_id,
        token_id=known.id,
        token_name=known.name,
        expires_at=known.expires_at,
        roles=_roles(account, bearer.roles),
    )


def _roles(account: Account, roles: Mapping[str, str]) -> dict[str, Level]:
    """By key of the namespace; `roles` are those in organisations, by name."""
    by_key = {similarity_key(organisation): Level.named(role) for organisation, role in roles.items()}
    return by_key | {similarity_key(account.name): Level.ADMIN}


def acting_for(session: Session, account_id: int) -> Principal:
    """Who a job works for, with the roles that the account has now. Raises `NotPermitted` where it was disabled."""
    account = queries.account_by_id(session, account_id)
    if account is None or account.disabled_at is not None:
        raise NotPermitted("the account that asked for this was disabled")
    roles = {organisation.name: role for organisation, role in queries.memberships_of(session, account.id)}
    return Principal(account.id, account.name, account.is_admin, Level.WRITE, roles=_roles(account, roles))


def name_of(session: Session, account_id: int) -> str:
    """Of an account that is there, disabled or not."""
    account = queries.account_by_id(session, account_id)
    assert account is not None
    return account.name


def acting_namespaces(session: Session, principal: Principal) -> list[Account]:
    """Those that the principal may write to; its owner's own first."""
    owner = queries.account_by_id(session, principal.require_account())
    organisations = [account for account, _ in queries.memberships_of(session, principal.require_account())]
    found = [owner, *organisations] if owner is not None else organisations
    return [account for account in found if may(principal, Action.WRITE, account.name)]


def _is_good(token: Token, account: Account) -> bool:
    is_expired = token.expires_at is not None and token.expires_at <= now()
    return token.revoked_at is None and not is_expired and account.disabled_at is None


# --- accounts ---------------------------------------------------------------------------------------------------------


def find_account(backend: Backend, name: str) -> Account:
    """Raises `AccountNotFound`."""
    with backend.database.read() as session:
        return require_known(session, name)


def require_known(session: Session, name: str) -> Account:
    """Raises `AccountNotFound`."""
    account = queries.account_by_key(session, similarity_key(name))
    if account is None:
        raise AccountNotFound(f"no user or organisation is called {name[:100]!r}")
    return account


def known_accounts(session: Session, names: Iterable[str]) -> list[Account]:
    """Those of these names that there are."""
    return queries.accounts_by_key(session, {similarity_key(name) for name in names})


def add_user(backend: Backend, name: str, *, by: str, is_admin: bool = False, fullname: str = "") -> Account:
    """Raises `InvalidName`, `AlreadyExists`."""
    with backend.database.write() as session:
        account = _insert_account(session, name, kind="user", fullname=fullname, is_admin=is_admin)
        record(session, actor=by, action="user.create", subject=account.name, is_admin=is_admin)
        return account


def set_user_disabled(backend: Backend, name: str, *, by: str, is_disabled: bool) -> Account:
    """A disabled account's tokens stop working at once; its repositories stay. Raises `AccountNotFound`."""
    with backend.database.write() as session:
        account = require_known(session, name)
        queries.set_disabled(session, account.id, now() if is_disabled else None)
        record(session, actor=by, action="user.disable" if is_disabled else "user.enable", subject=account.name)
        return require_known(session, name)


def first_admin(backend: Backend) -> Account | None:
    with backend.database.read() as session:
        return queries.first_admin(session)


def all_accounts(backend: Backend) -> list[Account]:
    with backend.database.read() as session:
        return queries.all_accounts(session)


def _insert_account(
    session: Session, name: str, *, kind: str, fullname: str, is_admin: bool = False, made_by: int | None = None
) -> Account:
    parse_name(name, what="account name")
    key = similarity_key(name)
    if name.lower() in RESERVED_NAMESPACES:
        raise InvalidName(f"the name {name!r} is reserved for the registry's own pages")
    if queries.account_by_key(session, key) is not None:
        raise AlreadyExists(f"the name {name!r}, or one that reads the same, is in use")
    return queries.insert_account(
        session,
        name=name,
        key=key,
        kind=kind,
        fullname=fullname[:200] or name,
        is_admin=is_admin,
        made_by=made_by,
    )


# --- organisations ----------------------------------------------------------------------------------------------------


def organisations_of(backend: Backend, principal: Principal) -> list[Organisation]:
    if principal.account_id is None:
        return []
    with backend.database.read() as session:
        found = queries.memberships_of(session, principal.account_id)
    return [Organisation(account, role) for account, role in found]


def members_of(backend: Backend, organisation: str) -> list[tuple[Account, str]]:
    """Raises `AccountNotFound`."""
    with backend.database.read() as session:
        return queries.members_of(session, _organisation(session, organisation).id)


def create_organisation(backend: Backend, principal: Principal, name: str, fullname: str) -> Account:
    """The caller becomes its first admin. Raises `InvalidName`, `AlreadyExists`, `NotPermitted`, `QuotaExceeded`."""
    creator = principal.require_account()
    require(principal, Action.GOVERN, principal.name)
    if not is_site_admin(principal):
        _require_nobody_elses(backend, name)
    with backend.database.write() as session:
        if not is_site_admin(principal):
            _require_another(session, creator, limit=backend.settings.quota_organisations)
        organisation = _insert_account(session, name, kind="organisation", fullname=fullname, made_by=creator)
        queries.set_member(session, organisation.id, creator, "admin")
        record_act(session, principal, "organisation.create", organisation.name)
        return organisation


def _require_nobody_elses(backend: Backend, name: str) -> None:
    """Whoever took the name of an organisation that is served from an upstream would take its place. Raises
    `InvalidName`.
    """
    key = similarity_key(name)
    served = {pattern.partition("/")[0] for upstream in backend.settings.upstreams for pattern in upstream.allow}
    if key in {similarity_key(namespace) for namespace in served if namespace != "*"}:
        raise InvalidName(
            f"the name {name!r} is kept for an organisation of an upstream",
            hint="choose another name, or ask the registry's administrators",
        )


def _require_another(session: Session, account_id: int, *, limit: int) -> None:
    """Each organisation is a namespace with quotas of its own. Raises `QuotaExceeded`."""
    queries.hold(session, account_id)
    made = queries.made_by(session, account_id)
    if limit and made >= limit:
        raise QuotaExceeded(
            f"you have made {made} organisations, and may make {limit}",
            hint="ask the registry's administrator to make another",
            what="organisations",
            limit=limit,
            used=made,
            asked=1,
        )


def ensure_namespace(session: Session, principal: Principal, name: str) -> Account:
    """The account of this name; where there is none, an organisation of the caller's, inside his transaction."""
    known = queries.account_by_key(session, similarity_key(name))
    if known is not None:
        return known
    organisation = _insert_account(session, name, kind="organisation", fullname=name)
    queries.set_member(session, organisation.id, principal.require_account(), "admin")
    record_act(session, principal, "organisation.create", organisation.name)
    return organisation


def set_member(backend: Backend, principal: Principal, organisation: str, user: str, role: str) -> None:
    """Raises `AccountNotFound`, `NotPermitted`, `Conflict` for the last admin."""
    require(principal, Action.GOVERN, organisation)
    with backend.database.write() as session:
        org, member = _organisation(session, organisation), require_known(session, user)
        if member.kind != "user":
            raise InvalidInput(f"{member.name} is an organisation; members are users")
        queries.set_member(session, org.id, member.id, role)
        _require_an_admin(session, org)
        record_act(session, principal, "organisation.member", org.name, user=member.name, role=role)


def remove_member(backend: Backend, principal: Principal, organisation: str, user: str) -> None:
    """Raises `AccountNotFound`, `NotPermitted`, `Conflict` for the last admin."""
    require(principal, Action.GOVERN, organisation)
    with backend.database.write() as session:
        org, member = _organisation(session, organisation), require_known(session, user)
        if not queries.remove_member(session, org.id, member.id):
            raise AccountNotFound(f"{member.name} is no member of {org.name}")
        _require_an_admin(session, org)
        record_act(session, principal, "organisation.member", org.name, user=member.name, role=None)


def _organisation(session: Session, name: str) -> Account:
    account = require_known(session, name)
    if account.kind != "organisation":
        raise AccountNotFound(f"no organisation is called {name[:100]!r}")
    return account


def _require_an_admin(session: Session, organisation: Account) -> None:
    if not any(role == "admin" for _, role in queries.members_of(session, organisation.id)):
        raise Conflict(f"{organisation.name} would be left without an admin", hint="make somebody else admin first")


# --- tokens -----------------------------------------------------------------------------------------------------------


def own_token(backend: Backend, principal: Principal) -> Token:
    """The token that the caller came with."""
    account_id = principal.require_account()
    with backend.database.read() as session:
        return next(token for token in queries.tokens_of(session, account_id) if token.id == principal.token_id)


def tokens_of(backend: Backend, principal: Principal) -> list[Token]:
    account_id = principal.require_account()
    require(principal, Action.GOVERN, principal.name)
    with backend.database.read() as session:
        return queries.tokens_of(session, account_id)


def create_token(
    backend: Backend,
    principal: Principal,
    *,
    name: str,
    scope: str,
    namespace: str | None = None,
    lifetime: timedelta | None = None,
) -> tuple[str, Token]:
    """A new token for the caller: the text, shown this once, and what is stored of it. Without a `lifetime` it is good
    for as long as the token that asks for it.

    Raises `NotPermitted` where it would reach further than that token, or outlive it.
    """
    account_id = principal.require_account()
    require(principal, Action.GOVERN, principal.name)
    if principal.namespace is not None and similarity_key(namespace or "") != similarity_key(principal.namespace):
        raise NotPermitted(
            f"the token {principal.token_name!r} is good for {principal.namespace} alone, and so is what it makes",
            hint=f"make a token for the namespace {principal.namespace}, or use one that is bound to none",
        )
    if lifetime is not None and principal.expires_at is not None and now() + lifetime > principal.expires_at:
        raise NotPermitted(
            f"the token {principal.token_name!r} is good until {principal.expires_at:%Y-%m-%d %H:%M} UTC, and what it "
            "makes for no longer",
            hint="ask for fewer days or for none, or use a token that is good for longer",
        )
    return issue_token(
        backend,
        account_id,
        by=principal.name,
        by_token=principal.token_id,
        name=name,
        scope=scope,
        namespace=namespace,
        lifetime=lifetime,
        latest=principal.expires_at,
    )


def issue_token(
    backend: Backend,
    account_id: int,
    *,
    by: str,
    by_token: int | None = None,
    name: str,
    scope: str,
    namespace: str | None = None,
    lifetime: timedelta | None = None,
    latest: datetime | None = None,
) -> tuple[str, Token]:
    """For `account_id`, whoever asks: callers have checked. It ends after `lifetime`, else at `latest`, else never.

    Raises `InvalidInput`.
    """
    if scope not in ("read", "write", "admin"):
        raise InvalidInput(f"no such scope: {scope[:40]!r}; there are read, write and admin")
    if not name.strip() or len(name) > 96 or not name.isprintable():
        raise InvalidInput("a token needs a name of 1 to 96 printable characters")
    if lifetime is not None and not timedelta(0) < lifetime <= timedelta(days=MAX_TOKEN_DAYS):
        raise InvalidInput(f"a token lives between now and {MAX_TOKEN_DAYS} days")
    text = new_token()
    with backend.database.write() as session:
        token = queries.insert_token(
            session,
            account_id=account_id,
            name=name,
            sha256=sha256_of(text.encode()),
            scope=scope,
            namespace=namespace and require_known(session, namespace).name,
            expires_at=latest if lifetime is None else now() + lifetime,
        )
        record(
            session,
            actor=by,
            token_id=by_token,
            action="token.create",
            subject=name,
            token=token.id,
            scope=scope,
            namespace=namespace,
        )
    return text, token


def insert_bound_token(
    session: Session, account_id: int, *, name: str, repository_id: int, lifetime: timedelta
) -> tuple[str, Token]:
    """Of a trusted publisher: it writes to one repository, as the account that trusts it. The caller records why."""
    text = new_token()
    token = queries.insert_token(
        session,
        account_id=account_id,
        name=name,
        sha256=sha256_of(text.encode()),
        scope="write",
        repository_id=repository_id,
        expires_at=now() + lifetime,
    )
    return text, token


def revoke_token(backend: Backend, principal: Principal, token_id: int) -> None:
    """Raises `NotFound` for a token that isn't the caller's."""
    account_id = principal.require_account()
    require(principal, Action.GOVERN, principal.name)
    with backend.database.write() as session:
        if not queries.revoke_token(session, token_id, account_id=account_id):
            raise NotFound(f"you have no token with the id {token_id}")
        record_act(session, principal, "token.revoke", str(token_id))


def audit_page(backend: Backend, principal: Principal, *, limit: int, before: int | None) -> list[Event]:
    """Raises `NotPermitted` for anybody but administrators of the registry."""
    require_site_admin(principal)
    return newest_events(backend, limit=limit, before=before)
