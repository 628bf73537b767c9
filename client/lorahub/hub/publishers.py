"""`hub.publishers`: CI jobs that a repository trusts, and what they show for it."""

import re
from collections.abc import Mapping

from lorahub.errors import RegistryFailed
from lorahub.hub.api import OWN, Api
from lorahub.protocol.messages.publishers import Audience, Publisher, PublisherToken

_TOKEN = re.compile(r"[!-~]{1,4096}")


class Publishers:
    def __init__(self, api: Api) -> None:
        self._api = api

    def of(self, repository: str) -> list[Publisher]:
        """The jobs that a repository trusts."""
        return self._api.ask(list[Publisher], "publishers", "GET", self._address(repository))

    def trust(self, repository: str, issuer: str, claims: Mapping[str, str]) -> Publisher:
        """Lets jobs publish whose identity token, of this issuer, makes these claims."""
        body = {"issuer": issuer, "claims": dict(claims)}
        return self._api.ask(Publisher, "a publisher", "POST", self._address(repository), body=body)

    def distrust(self, repository: str, publisher: int) -> None:
        self._api.do("DELETE", f"{self._address(repository)}/{publisher}")

    def audience(self) -> str:
        """What an identity token has to be made for. Raises `NotSupported` where trusted publishing is off."""
        return self._api.ask(Audience, "an audience", "GET", f"{OWN}/oidc/audience").audience

    def exchange(self, repository: str, identity_token: str) -> PublisherToken:
        """A token that writes to the repository for some minutes. Raises `InvalidToken`, `NotPermitted`."""
        body = {"token": identity_token, "repository": str(self._api.reference(repository).repository)}
        made = self._api.ask(PublisherToken, "a token", "POST", f"{OWN}/oidc/token", body=body)
        if _TOKEN.fullmatch(made.token) is None:
            raise RegistryFailed("the registry sent a token that can't be one: no header could hold it")
        return made

    def _address(self, repository: str) -> str:
        return f"{self._api.own(repository)}/publishers"
