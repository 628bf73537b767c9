"""Tokens, kept by host, and sent to no other; the Hub's are those of its own clients.

`LORAHUB_TOKEN` belongs to the endpoint that the user named himself. A project file may name an endpoint too, and then
no token from the environment goes there: the file may be a stranger's.
"""

import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lorahub.errors import InvalidConfiguration, UnsafeEndpoint
from lorahub.hub.configuration import Configuration, home, home_of_the_hub

HUB = "https://huggingface.co"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")


@dataclass(frozen=True, slots=True)
class Credential:
    token: str
    origin: str
    """A variable or a file."""


def tokens_file() -> Path:
    return home() / "tokens.toml"


def host_of(endpoint: str) -> str:
    """`scheme://host[:port]`, the unit to which a token belongs. Raises `InvalidConfiguration`."""
    if not _is_address(endpoint):
        raise InvalidConfiguration(
            f"not an address of a registry: {endpoint[:200]!r}",
            hint="write https://hub.example or http://127.0.0.1:8017",
        )
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _is_address(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username and parts.port != 0
    except ValueError:  # half an IPv6 address, a port that is none
        return False


def credential_for(endpoint: str, configuration: Configuration, *, token_file: str | None = None) -> Credential | None:
    """The token for this endpoint, or None. Raises `UnsafeEndpoint` where sending it would not be safe."""
    credential = _find(endpoint, configuration, token_file)
    if credential is not None:
        _require_safe(endpoint, configuration)
    return credential


def token_for(endpoint: str, configuration: Configuration) -> str | None:
    """As `credential_for`."""
    credential = credential_for(endpoint, configuration)
    return None if credential is None else credential.token


def token_of_the_hub(configuration: Configuration) -> str | None:
    """`HF_TOKEN`, unless a project's file chose the Hub; what `hf auth login` saved, for the Hub's own address only.

    Raises `UnsafeEndpoint`.
    """
    address = configuration.values["hf_endpoint"]
    if address.is_from_project:
        return None
    if named := os.environ.get("HF_TOKEN", "").strip():
        _require_safe(configuration.text("hf_endpoint"), configuration)
        return _token(named, "HF_TOKEN")
    if host_of(configuration.text("hf_endpoint")) != HUB:
        return None
    place = Path(os.environ.get("HF_TOKEN_PATH") or home_of_the_hub() / "token")
    try:
        return place.expanduser().read_text("utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _find(endpoint: str, configuration: Configuration, token_file: str | None) -> Credential | None:
    if token_file is not None:
        return Credential(read_token_file(token_file), token_file)
    host = host_of(endpoint)
    named = os.environ.get("LORAHUB_TOKEN")
    if named and host == host_of(configuration.text("endpoint")):
        value = configuration.values["endpoint"]
        if value.is_from_project:
            raise UnsafeEndpoint(
                f"{value.origin} names the endpoint {host}; LORAHUB_TOKEN is not sent to an address that a file chose",
                hint=f"if you trust it: lorahub login {host}, or set LORAHUB_ENDPOINT={host} yourself",
            )
        return Credential(_token(named, "LORAHUB_TOKEN"), "LORAHUB_TOKEN")
    saved = _load().get(host)
    return None if saved is None else Credential(_token(saved, str(tokens_file())), str(tokens_file()))


def _require_safe(endpoint: str, configuration: Configuration) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme == "http" and parts.hostname not in LOOPBACK and not configuration.flag("insecure"):
        raise UnsafeEndpoint(
            f"{endpoint} is not encrypted; anybody on the way could read the token",
            hint="use https://, or --insecure on a network you trust",
        )


def read_token_file(path: str) -> str:
    """`-` is standard input. Raises `InvalidConfiguration`."""
    import sys

    try:
        text = sys.stdin.read() if path == "-" else Path(path).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfiguration(f"can't read the token from {path}: {error}") from None
    return _token(text, path)


def _token(text: str, origin: str) -> str:
    """One that a header can hold. Raises `InvalidConfiguration`."""
    token = text.strip()
    if re.fullmatch("[!-~]+", token) is None:
        raise InvalidConfiguration(f"{origin} holds no token", hint="it should hold the token and nothing else")
    return token


def save_token(endpoint: str, token: str) -> Path:
    return _store({**_load(), host_of(endpoint): token})


def forget_token(endpoint: str) -> bool:
    """Whether there was one."""
    tokens = _load()
    known = tokens.pop(host_of(endpoint), None)
    if known is not None:
        _store(tokens)
    return known is not None


def _load() -> dict[str, str]:
    path = tokens_file()
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidConfiguration(f"can't read {path}: {error}", hint="remove the file and log in again") from None
    return {host: token for host, token in content.items() if isinstance(token, str)}


def _store(tokens: dict[str, str]) -> Path:
    import tomlkit

    path = tokens_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".tokens-{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(tomlkit.dumps(tokens))
    temporary.replace(path)
    return path
