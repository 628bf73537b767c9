"""`hub.organisations`: namespaces of several people."""

from lorahub.hub.api import OWN, Api, element
from lorahub.protocol.messages.accounts import HubMember, Member, Organisation

_ORGANISATIONS = f"{OWN}/organisations"


class Organisations:
    def __init__(self, api: Api) -> None:
        self._api = api

    def create(self, name: str, fullname: str = "") -> Organisation:
        """We become its admin. Raises `AlreadyExists`, `NotPermitted`."""
        body = {"name": name, "fullname": fullname}
        return self._api.ask(Organisation, "an organisation", "POST", _ORGANISATIONS, body=body)

    def members(self, organisation: str) -> list[HubMember]:
        """Raises `AccountNotFound`."""
        address = f"/api/organizations/{element(organisation)}/members"
        return self._api.ask(list[HubMember], "members", "GET", address)

    def set_member(self, organisation: str, user: str, role: str) -> Member:
        """`role` is read, write or admin."""
        return self._api.ask(Member, "a member", "PUT", self._member(organisation, user), body={"role": role})

    def remove_member(self, organisation: str, user: str) -> None:
        """Raises `Conflict` for the last admin."""
        self._api.do("DELETE", self._member(organisation, user))

    @staticmethod
    def _member(organisation: str, user: str) -> str:
        return f"{_ORGANISATIONS}/{element(organisation)}/members/{element(user)}"
