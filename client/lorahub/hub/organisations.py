"""`hub.organisations`: namespaces of several people."""

from lorahub.hub.api import OWN, Api, element
from lorahub.protocol.messages.accounts import HubMember, Identity, Member, Organisation

_ORGANISATIONS = f"{OWN}/organisations"


class Organisations:
    def __init__(self, api: Api) -> None:
        self._api = api

    def all(self) -> dict[str, str]:
        """Those that we belong to: name → our role in it, which is read, write or admin.

        >>> hub.organisations.all()
        {'acme-research': 'admin'}
        """
        return self._api.ask(Identity, "who we are", "GET", "/api/whoami-v2").organisations

    def create(self, name: str, fullname: str = "") -> Organisation:
        """We become its admin. Raises `AlreadyExists`, `NotPermitted`.

        >>> hub.organisations.create("acme-labs", "The labs of Acme").fullname
        'The labs of Acme'
        """
        body = {"name": name, "fullname": fullname}
        return self._api.ask(Organisation, "an organisation", "POST", _ORGANISATIONS, body=body)

    def members(self, organisation: str) -> list[HubMember]:
        """Raises `AccountNotFound`.

        >>> [(one.user, one.role) for one in hub.organisations.members("acme-research")]
        [('acme', 'admin')]
        """
        address = f"/api/organizations/{element(organisation)}/members"
        return self._api.ask(list[HubMember], "members", "GET", address)

    def set_member(self, organisation: str, user: str, role: str) -> Member:
        """`role` is read, write or admin.

        >>> hub.organisations.set_member("acme-research", "ada", "write").role
        'write'
        """
        return self._api.ask(Member, "a member", "PUT", self._member(organisation, user), body={"role": role})

    def remove_member(self, organisation: str, user: str) -> None:
        """Raises `Conflict` for the last admin.

        >>> _ = hub.organisations.set_member("acme-research", "bob", "read")
        >>> hub.organisations.remove_member("acme-research", "bob")
        """
        self._api.do("DELETE", self._member(organisation, user))

    @staticmethod
    def _member(organisation: str, user: str) -> str:
        return f"{_ORGANISATIONS}/{element(organisation)}/members/{element(user)}"
