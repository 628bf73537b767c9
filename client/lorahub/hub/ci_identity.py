"""The identity token of the CI job that this runs in."""

import os
from typing import Any
from urllib.parse import urlencode

import httpx2

from lorahub.errors import InvalidConfiguration, RegistryUnreachable

VARIABLE = "LORAHUB_ID_TOKEN"
"""Where GitLab's `id_tokens:` puts the token, and any other CI can."""

_SECONDS = 20.0


def identity_token(audience: str) -> str:
    """Raises `InvalidConfiguration` where no CI offers one, `RegistryUnreachable` where it doesn't answer."""
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
    try:
        answer = httpx2.get(address, headers={"Authorization": f"Bearer {bearer}"}, timeout=_SECONDS)
        answer.raise_for_status()
        found: Any = answer.json()
    except (httpx2.HTTPError, ValueError) as error:
        raise RegistryUnreachable(f"the CI gives no identity token: {type(error).__name__}") from None
    if not isinstance(found, dict) or not isinstance(found.get("value"), str):
        raise RegistryUnreachable("the CI's answer holds no identity token")
    return str(found["value"])
