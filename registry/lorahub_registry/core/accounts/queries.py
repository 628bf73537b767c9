"""Rows of accounts, memberships and tokens."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from lorahub.protocol.messages import accounts as messages
from sqlalchemy import Select, delete, func, or_, select, update
from sqlalchemy.orm import aliased

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.tables import Account as AccountRow
from lorahub_registry.infrastructure.database.tables import Membership, WebSession
from lorahub_registry.infrastructure.database.tables import Token as TokenRow

_Organisation = aliased(AccountRow)


@dataclass(frozen=True, slots=True)
class Account:
    id: int
    name: str
    kind: str
    fullname: str
    email: str | None
    is_admin: bool
    created_at: datetime
    disabled_at: datetime | None


@dataclass(frozen=True, slots=True)
class Token:
    id: int
    account_id: int
    name: str
    scope: str
    namespace: str | None
    repository_id: int | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None

    def as_message(self) -> messages.Token:
        return messages.Token(
            self.id, self.name, self.scope, self.namespace, self.created_at, self.expires_at, self.last_used_at
        )


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whoever has a token: its account, and the account's roles in organisations, by their names."""

    token: Token
    account: Account
    roles: dict[str, str]


@dataclass(frozen=True, slots=True)
class Member:
    organisation: Account
    user: Account
    role: str


def account_by_id(session: Session, account_id: int) -> Account | None:
    row = session.get(AccountRow, account_id)
    return None if row is None else _account(row)


def accounts_by_key(session: Session, keys: Collection[str]) -> list[Account]:
    return [_account(row) for row in session.scalars(select(AccountRow).where(AccountRow.name_key.in_(keys)))]


def account_by_key(session: Session, key: str) -> Account | None:
    row = session.scalar(select(AccountRow).where(AccountRow.name_key == key))
    return None if row is None else _account(row)


def first_admin(session: Session) -> Account | None:
    row = session.scalar(select(AccountRow).where(AccountRow.is_admin).order_by(AccountRow.id).limit(1))
    return None if row is None else _account(row)


def all_accounts(session: Session) -> list[Account]:
    return [_account(row) for row in session.scalars(select(AccountRow).order_by(AccountRow.name_key))]


def insert_account(
    session: Session, *, name: str, key: str, kind: str, fullname: str, is_admin: bool, made_by: int | None = None
) -> Account:
    row = AccountRow(name=name, name_key=key, kind=kind, fullname=fullname, is_admin=is_admin, created_at=now())
    row.made_by = made_by
    session.add(row)
    session.flush()
    return _account(row)


def set_disabled(session: Session, account_id: int, at: datetime | None) -> None:
    session.execute(update(AccountRow).where(AccountRow.id == account_id).values(disabled_at=at))


def hold(session: Session, account_id: int) -> None:
    """Lets nobody else count for this account until the transaction ends (PostgreSQL; SQLite has one writer)."""
    session.execute(select(AccountRow.id).where(AccountRow.id == account_id).with_for_update(key_share=True))


def made_by(session: Session, account_id: int) -> int:
    """How many organisations."""
    return session.scalar(select(func.count()).where(AccountRow.made_by == account_id)) or 0


def token_by_sha256(session: Session, sha256: str) -> Bearer | None:
    return _bearer(session, _bearers().where(TokenRow.sha256 == sha256))


def _bearers() -> Select[TokenRow, AccountRow, str, str]:
    """A row for each organisation that the account is a member of; one, where it is in none."""
    return (
        select(TokenRow, AccountRow, _Organisation.name, Membership.role)
        .join(AccountRow, AccountRow.id == TokenRow.account_id)
        .outerjoin(Membership, Membership.user_id == AccountRow.id)
        .outerjoin(
            _Organisation, (_Organisation.id == Membership.organisation_id) & _Organisation.disabled_at.is_(None)
        )
    )


def _bearer(session: Session, statement: Select[TokenRow, AccountRow, str, str]) -> Bearer | None:
    found = session.execute(statement).all()
    if not found:
        return None
    roles = {organisation: role for _, _, organisation, role in found if organisation}
    return Bearer(_token(found[0][0]), _account(found[0][1]), roles)


def tokens_of(session: Session, account_id: int) -> list[Token]:
    statement = select(TokenRow).where(TokenRow.account_id == account_id, TokenRow.revoked_at.is_(None))
    return [_token(row) for row in session.scalars(statement.order_by(TokenRow.id))]


def insert_token(session: Session, *, account_id: int, name: str, sha256: str, scope: str, **bounds: object) -> Token:
    row = TokenRow(account_id=account_id, name=name, sha256=sha256, scope=scope, created_at=now(), **bounds)
    session.add(row)
    session.flush()
    return _token(row)


def revoke_token(session: Session, token_id: int, *, account_id: int) -> bool:
    changed = session.execute(
        update(TokenRow)
        .where(TokenRow.id == token_id, TokenRow.account_id == account_id, TokenRow.revoked_at.is_(None))
        .values(revoked_at=now())
        .returning(TokenRow.id)
    )
    return changed.first() is not None


def touch_token(session: Session, token_id: int) -> None:
    session.execute(update(TokenRow).where(TokenRow.id == token_id).values(last_used_at=now()))


def token_by_session(session: Session, sha256: str) -> Bearer | None:
    """Of a browser's session that isn't over."""
    sessions = _bearers().join(WebSession, WebSession.token_id == TokenRow.id)
    return _bearer(session, sessions.where(WebSession.sha256 == sha256, WebSession.expires_at > now()))


def insert_session(session: Session, sha256: str, *, token_id: int, expires_at: datetime) -> None:
    session.add(WebSession(sha256=sha256, token_id=token_id, created_at=now(), expires_at=expires_at))


def forget_sessions(session: Session) -> int:
    """Those that are over, or whose token is; how many."""
    is_bad = or_(TokenRow.revoked_at.is_not(None), TokenRow.expires_at <= now())
    over = or_(WebSession.expires_at <= now(), WebSession.token_id.in_(select(TokenRow.id).where(is_bad)))
    return len(session.scalars(delete(WebSession).where(over).returning(WebSession.sha256)).all())


def delete_session(session: Session, sha256: str) -> bool:
    removed = session.execute(delete(WebSession).where(WebSession.sha256 == sha256).returning(WebSession.sha256))
    return removed.first() is not None


def memberships_of(session: Session, user_id: int) -> list[tuple[Account, str]]:
    found = session.execute(
        select(AccountRow, Membership.role)
        .join(Membership, Membership.organisation_id == AccountRow.id)
        .where(Membership.user_id == user_id, AccountRow.disabled_at.is_(None))
        .order_by(AccountRow.name_key)
    )
    return [(_account(row), role) for row, role in found]


def members_of(session: Session, organisation_id: int) -> list[tuple[Account, str]]:
    found = session.execute(
        select(AccountRow, Membership.role)
        .join(Membership, Membership.user_id == AccountRow.id)
        .where(Membership.organisation_id == organisation_id)
        .order_by(AccountRow.name_key)
    )
    return [(_account(row), role) for row, role in found]


def set_member(session: Session, organisation_id: int, user_id: int, role: str) -> None:
    session.merge(Membership(organisation_id=organisation_id, user_id=user_id, role=role, created_at=now()))


def remove_member(session: Session, organisation_id: int, user_id: int) -> bool:
    removed = session.execute(
        delete(Membership)
        .where(Membership.organisation_id == organisation_id, Membership.user_id == user_id)
        .returning(Membership.user_id)
    )
    return removed.first() is not None


def _account(row: AccountRow) -> Account:
    return Account(row.id, row.name, row.kind, row.fullname, row.email, row.is_admin, row.created_at, row.disabled_at)


def _token(row: TokenRow) -> Token:
    return Token(
        row.id, row.account_id, row.name, row.scope, row.namespace, row.repository_id,
        row.created_at, row.expires_at, row.last_used_at, row.revoked_at,
    )  # fmt: skip
