"""The identity token of the CI job that this runs in."""

import os
from dataclasses import dataclass
from urllib.parse import urlencode

from lorahub.errors import InvalidConfiguration
from lorahub.hub.credentials import host_of
from lorahub.protocol.messages.message import Message, parse

VARIABLE = "LORAHUB_ID_TOKEN"
"""Where GitLab's `id_tokens:` puts the token, and any other CI can."""

_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class _Answer(Message):
    value: str


def identity_token(audience: str) -> str:
    """Raises `InvalidConfiguration` where no CI offers one, what a transport raises where it doesn't answer."""
    given = os.environ.get(VARIABLE, "").strip()
    if given:
        return given
    address = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL")
    bearer = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
    if not address or not bearer:
        raise InvalidConfiguration(
            "no CI offers an identity token here",
            hint="GitHub: `permissions: id-token: write`. GitLab: `id_tokens:` with "
            f"{VARIABLE} and the `aud` {audience}",
        )
    return _of_github(f"{address}&{urlencode({'audience': audience})}", bearer)


def _of_github(address: str, bearer: str) -> str:
    from lorahub.hub.transport import Transport

    with Transport(host_of(address), bearer, timeout=_SECONDS) as transport:
        return parse(_Answer, transport.json("GET", address), "an identity token").value
