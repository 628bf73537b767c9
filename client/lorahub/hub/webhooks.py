"""`hub.webhooks`: addresses that the registry tells what happens."""

from collections.abc import Iterator, Sequence
from typing import Any

from lorahub.hub.api import OWN, Api, element
from lorahub.protocol.messages.message import as_json
from lorahub.protocol.messages.webhooks import Delivery, Watched, Webhook

_WEBHOOKS = f"{OWN}/webhooks"


class Webhooks:
    """Most methods answer the webhook as it is then."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def all(self) -> list[Webhook]:
        """Ours; everybody's for an administrator of the registry."""
        return self._api.ask(list[Webhook], "webhooks", "GET", _WEBHOOKS)

    def add(
        self, url: str, watched: Sequence[str | Watched], *, kinds: Sequence[str] = (), secret: str | None = None
    ) -> Webhook:
        """Tells `url` what happens from now on to what is watched: `acme/sql`, `acme` for all of a namespace,
        `base:acme/llama`, `registry`. Its `secret`, which signs each message, is said this once.

        Raises `NotSupported` where the registry calls nobody, `NotPermitted` for a host that it may not call.
        """
        body: dict[str, Any] = {"url": url, "watched": _as_things(watched), "kinds": list(kinds)}
        if secret is not None:
            body["secret"] = secret
        return self._api.ask(Webhook, "a webhook", "POST", _WEBHOOKS, body=body)

    def find(self, webhook: str) -> Webhook:
        return self._api.ask(Webhook, "a webhook", "GET", _of(webhook))

    def change(
        self,
        webhook: str,
        *,
        url: str | None = None,
        watched: Sequence[str | Watched] | None = None,
        kinds: Sequence[str] | None = None,
    ) -> Webhook:
        """None leaves something as it is."""
        things = None if watched is None else _as_things(watched)
        body = {"url": url, "watched": things, "kinds": None if kinds is None else list(kinds)}
        changed = {key: value for key, value in body.items() if value is not None}
        return self._api.ask(Webhook, "a webhook", "PUT", _of(webhook), body=changed)

    def pause(self, webhook: str) -> Webhook:
        """What happens meanwhile isn't told."""
        return self._act(webhook, "pause")

    def resume(self, webhook: str) -> Webhook:
        return self._act(webhook, "resume")

    def replace_secret(self, webhook: str) -> Webhook:
        """With its new `secret`, said this once; for a day messages are signed with the one before, too."""
        return self._act(webhook, "secret")

    def test(self, webhook: str) -> Webhook:
        """A worker sends a message of the type `webhook.test`; `deliveries` says what came of it."""
        return self._act(webhook, "test")

    def deliveries(self, webhook: str) -> Iterator[Delivery]:
        """Its messages, the newest first."""
        return self._api.rows(Delivery, "a message of a webhook", f"{_of(webhook)}/deliveries")

    def replay(self, webhook: str, delivery: int) -> Webhook:
        """Sends a message again, under its own id."""
        return self._act(webhook, f"deliveries/{delivery}/replay")

    def remove(self, webhook: str) -> None:
        self._api.do("DELETE", _of(webhook))

    def _act(self, webhook: str, act: str) -> Webhook:
        return self._api.ask(Webhook, "a webhook", "POST", f"{_of(webhook)}/{act}")


def _of(webhook: str) -> str:
    return f"{_WEBHOOKS}/{element(webhook)}"


def _as_things(watched: Sequence[str | Watched]) -> list[Any]:
    return [as_json(Watched.parse(one) if isinstance(one, str) else one) for one in watched]
