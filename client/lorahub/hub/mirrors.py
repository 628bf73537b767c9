"""`hub.mirrors`: repositories that follow those of other hubs."""

from lorahub.hub.api import OWN, Api
from lorahub.protocol.messages.mirrors import Mirror

_MIRRORS = f"{OWN}/mirrors"


class Mirrors:
    """Each method but `all` and `remove` answers the mirror as it is then."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def all(self) -> list[Mirror]:
        """Of the namespaces that we manage."""
        return self._api.ask(list[Mirror], "mirrors", "GET", _MIRRORS)

    def add(
        self,
        endpoint: str,
        repository: str,
        target: str,
        *,
        revision: str = "main",
        private: bool = False,
        hub_token: str | None = None,
    ) -> Mirror:
        """Lets the registry's workers follow a repository of the hub at `endpoint`. They publish in our name.

        `hub_token` is for that hub, where the repository asks for one.
        """
        body = {
            "endpoint": endpoint,
            "repository": repository,
            "revision": revision,
            "target": target,
            "private": private,
            **({} if hub_token is None else {"token": hub_token}),
        }
        return self._api.ask(Mirror, "a mirror", "POST", _MIRRORS, body=body)

    def find(self, mirror: int) -> Mirror:
        return self._api.ask(Mirror, "a mirror", "GET", f"{_MIRRORS}/{mirror}")

    def run(self, mirror: int) -> Mirror:
        """A worker looks for a new commit as soon as it can."""
        return self._api.ask(Mirror, "a mirror", "POST", f"{_MIRRORS}/{mirror}/run")

    def pause(self, mirror: int) -> Mirror:
        """It runs only when somebody asks."""
        return self._api.ask(Mirror, "a mirror", "POST", f"{_MIRRORS}/{mirror}/pause")

    def resume(self, mirror: int) -> Mirror:
        return self._api.ask(Mirror, "a mirror", "POST", f"{_MIRRORS}/{mirror}/resume")

    def set_token(self, mirror: int, hub_token: str | None) -> Mirror:
        """What the hub is told from now on; None for nothing."""
        return self._api.ask(Mirror, "a mirror", "PUT", f"{_MIRRORS}/{mirror}/token", body={"token": hub_token})

    def remove(self, mirror: int) -> None:
        """What was brought stays."""
        self._api.do("DELETE", f"{_MIRRORS}/{mirror}")
