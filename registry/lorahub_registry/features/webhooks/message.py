"""What an address is told: one body that receivers of Standard Webhooks and the Hub's own clients both read, signed.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from lorahub.errors import InvalidInput
from lorahub.protocol.messages.message import as_json, wire_time

from lorahub_registry.core.events.service import Happening

_PREFIX = "whsec_"
_LEAST_BYTES, _MOST_BYTES = 24, 64
TEST = "webhook.test"
_OF_HUB: Mapping[str, tuple[str, str]] = {
    "repository.created": ("create", "repo"),
    "repository.deleted": ("delete", "repo"),
    "repository.renamed": ("move", "repo"),
    "repository.changed": ("update", "repo.config"),
    "version.published": ("update", "repo.content"),
    "alias.moved": ("update", "repo.content"),
    "branch.moved": ("update", "repo.content"),
    "tag.moved": ("update", "repo.content"),
}
HUB_KINDS = tuple(_OF_HUB)
"""What the Hub has a word for."""
_SPACES = {"branch": "heads", "tag": "tags", "alias": "tags", "version": "tags"}


# --- the body ---------------------------------------------------------------------------------------------------------


def body_of(happening: Happening, webhook_id: str, public_url: str) -> bytes:
    event = happening.event
    said: dict[str, Any] = {"type": event.kind, "timestamp": wire_time(event.at), "data": as_json(event)}
    if event.kind in _OF_HUB:
        action, scope = _OF_HUB[event.kind]
        said |= {
            "event": {"action": action, "scope": scope},
            "repo": _repo(happening, public_url),
            "webhook": {"id": webhook_id, "version": 3},
        }
        said |= _moved(event.kind, event.data)
        if event.kind == "repository.renamed":
            owner = {"id": str(happening.namespace_id)}
            said["repo"]["name"] = event.data["from"]
            said["movedTo"] = {"name": event.name, "owner": owner}
    return _written(said)


def body_of_test(webhook_id: str, at: datetime) -> bytes:
    return _written({"type": TEST, "timestamp": wire_time(at), "data": {"webhook": webhook_id}})


def _repo(happening: Happening, public_url: str) -> dict[str, Any]:
    event = happening.event
    return {
        "type": "model",
        "id": event.repository,
        "name": event.name,
        "private": happening.is_private,
        "owner": {"id": str(happening.namespace_id)},
        "url": {"web": f"{public_url}/{event.name}", "api": f"{public_url}/api/models/{event.name}"},
    }


def _moved(kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
    family = kind.partition(".")[0]
    if family not in _SPACES:
        return {}
    before, after = (None, data["commit"]) if family == "version" else (data["from"], data["to"])
    return {"updatedRefs": [{"ref": f"refs/{_SPACES[family]}/{data[family]}", "oldSha": before, "newSha": after}]}


def _written(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said, ensure_ascii=True, separators=(",", ":")).encode()


# --- the signature ----------------------------------------------------------------------------------------------------


def new_secret() -> str:
    return _PREFIX + base64.b64encode(secrets.token_bytes(_LEAST_BYTES)).decode()


def require_secret(text: str) -> None:
    """Raises `InvalidInput` for what is no secret of Standard Webhooks."""
    key = _key(text) if text.startswith(_PREFIX) else None
    if key is None or not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        raise InvalidInput(
            f"a secret is {_PREFIX} and the base64 of {_LEAST_BYTES} to {_MOST_BYTES} random bytes",
            hint="leave it out, and one is made",
        )


def headers_of(message_id: str, at: datetime, body: bytes, signed_with: Sequence[str]) -> dict[str, str]:
    """A signature for each secret: the first is the one that stays."""
    second = str(int(at.timestamp()))
    content = f"{message_id}.{second}.".encode() + body
    signatures = [_signature(secret, content) for secret in signed_with]
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": second,
        **({"webhook-signature": " ".join(signatures)} if signatures else {}),
    }


def _signature(secret: str, content: bytes) -> str:
    key = _key(secret)
    digest = hmac.new(secret.encode() if key is None else key, content, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _key(secret: str) -> bytes | None:
    """The bytes that it stands for; None where it is a word that somebody chose, as the Hub's clients do."""
    if not secret.startswith(_PREFIX):
        return None
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return None
