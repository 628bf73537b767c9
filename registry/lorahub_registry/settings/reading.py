"""The settings of a process, read from its environment: all that is wrong in it is said at once, in sentences."""

import difflib
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from lorahub.errors import InvalidConfiguration
from lorahub.protocol import client_settings
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lorahub_registry.settings import Settings

_PREFIX = "LORAHUB_"
_PLACEHOLDER = re.compile(r"change[-_]?me", re.IGNORECASE)
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_HIDDEN = ("LORAHUB_SECRET", "LORAHUB_DATABASE_URL", "LORAHUB_UPSTREAMS")
_MOST_SHOWN = 100
_LONGEST_ON_S3 = timedelta(days=7)

_OF_A_SERVICE = re.compile(
    r"LORAHUB_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""What Kubernetes adds in pods beside a service that is called `lorahub`, or `lorahub-…`.
https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables
"""

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "bool": "true or false",
    "time_delta": "a duration, such as PT15M or P1D",
}
"""By how Pydantic's names of its errors begin."""


def read(home: Path | None = None) -> Settings:
    """`home` overrides LORAHUB_REGISTRY_HOME. Raises `InvalidConfiguration`."""
    faults = [*_placeholders(), *_unknown()]
    try:
        settings = Settings(registry_home=home.resolve()) if home else Settings()
    except ValidationError as error:
        raise _refused([*faults, *map(_said, error.errors())]) from None
    faults += _contradictions(settings)
    if faults:
        raise _refused(faults)
    return settings


def _refused(faults: list[str]) -> InvalidConfiguration:
    many = f"{len(faults)} settings can't be used:"
    message = faults[0] if len(faults) == 1 else "\n  ".join([many, *faults])
    return InvalidConfiguration(message, hint="docs/settings.md says what each of them is", faults=faults)


def _placeholders() -> Iterator[str]:
    for name, value in os.environ.items():
        if (name.upper().startswith(_PREFIX) or name in _CREDENTIALS) and _PLACEHOLDER.search(value):
            yield f"{name} still has its placeholder; give it a value of your own"


def _unknown() -> Iterator[str]:
    own = {f"{_PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name in sorted(os.environ):
        upper = name.upper()
        if not upper.startswith(_PREFIX) or upper in own | client_settings.VARIABLES or _OF_A_SERVICE.fullmatch(upper):
            continue
        near = difflib.get_close_matches(upper.removeprefix(_PREFIX), [one.removeprefix(_PREFIX) for one in own], n=1)
        yield f"no setting is called {name}" + (f"; is {_PREFIX}{near[0]} meant?" if near else "")


def _said(error: ErrorDetails) -> str:
    name = f"{_PREFIX}{str(error['loc'][0]).upper()}"
    value = str(error["input"])
    is_shown = name not in _HIDDEN and "@" not in value
    shown = f" is {value[:_MOST_SHOWN]!r};" if is_shown else " can't be used:"
    return f"{name}{shown} it has to be {_expected(error)}"


def _expected(error: ErrorDetails) -> str:
    kind, facts = error["type"], error.get("ctx", {})
    if kind == "value_error":
        return str(facts["error"])
    if kind == "greater_than_equal":
        return f"at least {facts['ge']}"
    if kind == "greater_than":
        return f"more than {facts['gt']}"
    if kind == "literal_error":
        return str(facts["expected"])
    return next((words for beginning, words in _EXPECTED.items() if kind.startswith(beginning)), error["msg"])


def _contradictions(settings: Settings) -> Iterator[str]:
    is_bucket = settings.storage is not None and settings.storage.startswith("s3://")
    for name in ("storage_endpoint", "storage_public_endpoint"):
        if getattr(settings, name) is not None and not is_bucket:
            yield f"{_PREFIX}{name.upper()} is of an S3 server, and LORAHUB_STORAGE is no s3://bucket"
    for name in ("url_lifetime", "download_lifetime", "xet_token_lifetime"):
        if getattr(settings, name) > _LONGEST_ON_S3 and is_bucket:
            yield f"{_PREFIX}{name.upper()} is longer than P7D, for which S3 signs an address at most"
    if settings.oidc_issuers and settings.public_url is None:
        yield "LORAHUB_OIDC_ISSUERS needs LORAHUB_PUBLIC_URL, the audience of the issuers' tokens"
    if settings.mirror_interval and not settings.outbound_hosts and not settings.outbound_internal:
        yield "LORAHUB_MIRROR_INTERVAL is set, and LORAHUB_OUTBOUND_HOSTS names no host that mirrors may call"
    if settings.commit_line_bytes < _in_base64(settings.inline_file_bytes):
        needed = _in_base64(settings.inline_file_bytes)
        yield f"LORAHUB_COMMIT_LINE_BYTES is below {needed}, what a file of LORAHUB_INLINE_FILE_BYTES takes in a commit"
    if settings.commit_body_bytes < settings.commit_line_bytes:
        yield "LORAHUB_COMMIT_BODY_BYTES is below LORAHUB_COMMIT_LINE_BYTES, the longest of its lines"


def _in_base64(size: int) -> int:
    """Bytes of the line of a commit that has a file, with room for its path."""
    return (size + 2) // 3 * 4 + 4096
