"""Who may do what: one table, and the one function that reads it.

A principal is a token, not its owner: what it may do is its owner's role, cut to the token's scope, namespace and
repository.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, IntEnum

from lorahub.errors import NotAuthenticated, NotPermitted
from lorahub.protocol.names import similarity_key


class Level(IntEnum):
    """Of a role in a namespace, and of a token's scope."""

    NONE = 0
    READ = 1
    WRITE = 2
    ADMIN = 3

    @classmethod
    def named(cls, text: str) -> "Level":
        return cls[text.upper()]


class Action(Enum):
    """Everything that needs permission: (least role in the namespace, least scope of the token)."""

    READ = ("read", Level.READ, Level.READ)
    WRITE = ("write to", Level.WRITE, Level.WRITE)
    MANAGE = ("manage", Level.ADMIN, Level.WRITE)  # delete, move, settings, protection, access lists
    GOVERN = ("govern", Level.ADMIN, Level.ADMIN)  # members of an organisation, tokens

    def __init__(self, verb: str, role: Level, scope: Level) -> None:
        self.verb = verb
        self.role = role
        self.scope = scope


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `account_id` is None for an anonymous caller."""

    account_id: int | None = None
    name: str = "anonymous"
    is_admin: bool = False
    scope: Level = Level.READ
    namespace: str | None = None
    repository_id: int | None = None
    """The one repository it may touch, with nothing beyond writing to it: tokens of trusted publishers."""
    token_id: int | None = None
    token_name: str = ""
    expires_at: datetime | None = None
    """When its token does; nothing that the token makes is good for longer."""
    roles: Mapping[str, Level] = field(default_factory=dict)
    """Role by similarity key of the namespace; the owner's own is ADMIN."""

    @property
    def is_anonymous(self) -> bool:
        return self.account_id is None

    def require_account(self) -> int:
        """Raises `NotAuthenticated` for an anonymous caller."""
        if self.account_id is None:
            raise NotAuthenticated("this needs a token and none was sent", hint="log in: lorahub login")
        return self.account_id


ANONYMOUS = Principal()
OPERATOR = Principal(account_id=0, name="(operator)", is_admin=True, scope=Level.ADMIN)
"""Whoever has the registry's own machine. No account has this name or id, so it can be the author of nothing."""


def may(principal: Principal, action: Action, namespace: str, repository_id: int | None = None) -> bool:
    """Whether the principal's role and token reach `action` in this namespace, or on this repository of it.

    Public reading is decided elsewhere.
    """
    if principal.is_anonymous or principal.scope < action.scope:
        return False
    if principal.repository_id is not None and (principal.repository_id != repository_id or action.role > Level.WRITE):
        return False
    key = similarity_key(namespace)
    if principal.namespace is not None and similarity_key(principal.namespace) != key:
        return False
    if principal.is_admin and principal.scope == Level.ADMIN:
        return True
    return principal.roles.get(key, Level.NONE) >= action.role


def require(principal: Principal, action: Action, namespace: str, repository_id: int | None = None) -> None:
    """Raises `NotAuthenticated` or `NotPermitted`."""
    if may(principal, action, namespace, repository_id):
        return
    principal.require_account()
    if principal.scope < action.scope:
        raise NotPermitted(
            f"the token {principal.token_name!r} has the scope {principal.scope.name.lower()}; "
            f"to {action.verb} {namespace} takes {action.scope.name.lower()}",
            hint="use a token of a wider scope",
        )
    raise NotPermitted(f"{principal.name} may not {action.verb} {namespace} with this token")


def is_site_admin(principal: Principal) -> bool:
    """Whether this token, not only its owner, is an administrator of the whole registry."""
    is_bound = principal.namespace is not None or principal.repository_id is not None
    return principal.is_admin and principal.scope == Level.ADMIN and not is_bound


def require_site_admin(principal: Principal) -> None:
    """Raises `NotAuthenticated` or `NotPermitted`."""
    principal.require_account()
    if not is_site_admin(principal):
        raise NotPermitted("this is for administrators of the registry")
