"""Accounts, tokens, organisations, and what is written down about them."""

from dataclasses import dataclass
from typing import Any

from lorahub.protocol.messages.message import Message, Time

# --- the Hub's --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OwnOrganisation(Message):
    type: str
    name: str
    fullname: str
    role_in_org: str


@dataclass(frozen=True, slots=True)
class OwnToken(Message):
    """`role` is its scope; it reaches no further than `namespace`, where there is one."""

    display_name: str
    role: str
    namespace: str | None
    created_at: Time
    expires_at: Time | None


@dataclass(frozen=True, slots=True)
class Authentication(Message):
    type: str
    access_token: OwnToken


@dataclass(frozen=True, slots=True)
class Identity(Message):
    """Who the registry thinks we are."""

    type: str
    id: str
    name: str
    fullname: str
    email: str | None
    email_verified: bool
    can_pay: bool
    is_pro: bool
    period_end: str | None
    avatar_url: str
    orgs: tuple[OwnOrganisation, ...]
    auth: Authentication

    @property
    def organisations(self) -> dict[str, str]:
        """Name → role."""
        return {one.name: one.role_in_org for one in self.orgs}

    @property
    def token(self) -> OwnToken:
        """The one that was shown."""
        return self.auth.access_token


@dataclass(frozen=True, slots=True)
class UserOverview(Message):
    user: str
    fullname: str
    avatar_url: str
    type: str
    created_at: Time


@dataclass(frozen=True, slots=True)
class OrganisationOverview(Message):
    name: str
    fullname: str
    avatar_url: str
    type: str
    created_at: Time


@dataclass(frozen=True, slots=True)
class HubUser(Message):
    """Somebody in a list."""

    user: str
    fullname: str
    avatar_url: str
    type: str


@dataclass(frozen=True, slots=True)
class HubMember(HubUser):
    """Of an organisation; `role` is read, write or admin."""

    role: str


# --- lorahub's own ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Token(Message):
    id: int
    name: str
    scope: str
    namespace: str | None
    created_at: Time
    expires_at: Time | None
    last_used_at: Time | None


@dataclass(frozen=True, slots=True)
class FreshToken(Token):
    """`token` is shown this once."""

    token: str


@dataclass(frozen=True, slots=True)
class Organisation(Message):
    name: str
    fullname: str


@dataclass(frozen=True, slots=True)
class Member(Message):
    """`role` is read, write or admin."""

    user: str
    role: str


@dataclass(frozen=True, slots=True)
class UsedQuota(Message):
    """A `limit` of None is none."""

    used: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class UsedBytes(UsedQuota):
    """`reserved` is the part that no commit has yet."""

    reserved: int


@dataclass(frozen=True, slots=True)
class NamespaceUse(Message):
    namespace: str
    bytes: UsedBytes
    repositories: UsedQuota


@dataclass(frozen=True, slots=True)
class OwnUse(Message):
    """Who we are here, and how much we may keep: of the namespaces that the token may write to."""

    name: str
    admin: bool
    scope: str
    namespace: str | None
    open_uploads: UsedQuota
    open_merges: UsedQuota
    quotas: tuple[NamespaceUse, ...]


@dataclass(frozen=True, slots=True)
class AuditedEvent(Message):
    id: int
    at: Time
    actor: str
    action: str
    subject: str
    details: dict[str, Any]
    request_id: str | None
    token_id: int | None
    address: str | None
