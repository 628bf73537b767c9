"""References, as people write them: `[scheme:][//host[:port]/]namespace/name[@revision]`, or a local path.

    acme/sql   acme/sql@v3   acme/sql@champion   acme/sql@sha256:…   lorahub://hub.example:8443/acme/sql@v3
    hf:acme/sql@main   hf:gpt2   ./folder   /folder   ~/folder   file:folder

Only the Hub has names without a namespace. A bare name is no local path here, even where one exists.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from lorahub.errors import InvalidName, InvalidReference
from lorahub.protocol.names import RepositoryName, parse_name

LATEST = "latest"

_SCHEMES = ("lorahub", "hf")
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?")
_REVISION = re.compile(r"sha256:[0-9a-f]{64}|[A-Za-z0-9_][A-Za-z0-9_./+-]{0,127}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A repository on a registry, and perhaps a revision of it."""

    scheme: str
    host: str | None
    """`host[:port]`; None is the configured endpoint."""
    repository: RepositoryName
    revision: str | None
    """As written; None stands for the alias `latest`."""

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Raises `InvalidReference` with what would be right."""
        if is_local(text):
            raise InvalidReference(
                f"{text!r} is a local path; a repository is needed here", hint="write namespace/name, such as acme/sql"
            )
        scheme, rest = _split_scheme(text)
        host, rest = _split_host(scheme, rest, text)
        name, at, revision = rest.partition("@")
        if at and not _REVISION.fullmatch(revision):
            raise _invalid(
                text, f"{revision[:80]!r} is no revision: a version, an alias, a branch, a commit or sha256:…"
            )
        try:
            return cls(scheme, host, _repository(scheme, name), revision or None)
        except InvalidName as error:
            raise _invalid(text, error.message, hint=_with_host(name)) from None

    def __str__(self) -> str:
        scheme = "" if self.scheme == "lorahub" and self.host is None else f"{self.scheme}:"
        host = "" if self.host is None else f"//{self.host}/"
        return f"{scheme}{host}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def is_local(text: str) -> bool:
    """Whether the text can only mean a path on this machine.

    >>> [is_local(text) for text in ("./x", "/x", "~/x", "file:x", ".", "acme/sql")]
    [True, True, True, True, True, False]
    """
    return text in (".", "..", "~") or text.startswith(("./", "../", "/", "~/", "file:"))


def local_path(text: str) -> Path:
    return Path(text.removeprefix("file://").removeprefix("file:")).expanduser()


def _split_scheme(text: str) -> tuple[str, str]:
    head, colon, rest = text.partition(":")
    if colon and head in _SCHEMES:
        return head, rest
    if "://" in text:
        raise _invalid(text, f"the scheme {head[:40]!r} is not known; there are lorahub, hf and file")
    return "lorahub", text


def _split_host(scheme: str, rest: str, text: str) -> tuple[str | None, str]:
    if not rest.startswith("//"):
        return None, rest
    rest = rest[2:]
    if scheme == "hf":  # hf://namespace/name, as pasted: there is one public hub
        return None, rest
    host, _, path = rest.partition("/")
    if not _AUTHORITY.fullmatch(host):
        raise _invalid(text, f"{host[:80]!r} is no host")
    return host, path


def _repository(scheme: str, name: str) -> RepositoryName:
    if scheme == "hf" and "/" not in name:
        return RepositoryName("", parse_name(name, what="repository name"))
    return RepositoryName.parse(name)


def _with_host(name: str) -> str | None:
    """The hint for `hub.example/acme/sql`."""
    host, _, rest = name.partition("/")
    is_meant = rest.count("/") == 1 and _AUTHORITY.fullmatch(host) and not host.isalnum()
    return f"a repository of another registry is written lorahub://{name}" if is_meant else None


def _invalid(text: str, why: str, *, hint: str | None = None) -> InvalidReference:
    return InvalidReference(
        f"not a reference: {text[:200]!r}: {why}", hint=hint or "write namespace/name[@revision], such as acme/sql@v3"
    )
