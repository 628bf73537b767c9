"""Names of accounts, repositories and references: one grammar for the command line, the server and the pages."""

import re
from dataclasses import dataclass

from lorahub.errors import InvalidName

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REFERENCE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+-]{0,127}")
_HASH_LIKE = re.compile(r"[0-9a-fA-F]{7,64}")
_VERSION = re.compile(r"v[1-9][0-9]{0,8}")
_FOLDED = re.compile(r"[-_.]+")

RESERVED_NAMESPACES = frozenset(
    [
        "admin",
        "api",
        "badge",
        "base",
        "blob",
        "bases",
        "by-hash",
        "cas",
        "compare",
        "datasets",
        "docs",
        "files",
        "healthz",
        "favicon.ico",
        "join",
        "lfs",
        "livez",
        "login",
        "logout",
        "merges",
        "metrics",
        "new",
        "notifications",
        "oauth",
        "organizations",
        "readyz",
        "robots.txt",
        "search",
        "settings",
        "spaces",
        "startupz",
        "static",
        "tokens",
        "models",
        "webhooks",
    ]
)
"""Path elements that the registry's own pages and routes need."""


@dataclass(frozen=True, slots=True)
class RepositoryName:
    """`namespace/name`. Compared and stored under `key`, shown as it was first written.

    Only the Hub has repositories without a namespace, such as gpt2.
    """

    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str) -> "RepositoryName":
        """Raises `InvalidName`. Case and `-_.` are kept for show, folded in `key`."""
        namespace, slash, name = text.partition("/")
        if not slash or "/" in name:
            raise InvalidName(f"not a repository name: {text[:200]!r}; expected namespace/name")
        return cls(parse_name(namespace, what="namespace"), parse_name(name, what="repository name"))

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @property
    def key(self) -> str:
        return str(self).lower()


def parse_name(text: str, *, what: str) -> str:
    """One part of `namespace/name`: ASCII letters, digits and `._-`, at most 96, starting with a letter or digit.

    The rules are those of the Hub's clients, so every name is usable from them. Raises `InvalidName`.
    """
    if not _PART.fullmatch(text) or text.endswith((".", "-")) or "--" in text or ".." in text:
        raise InvalidName(
            f"not a usable {what}: {text[:200]!r}",
            hint="use letters, digits and single . _ - inside, at most 96 characters",
        )
    if text.lower().endswith((".git", ".json", ".atom", ".ipynb")):
        raise InvalidName(f"a {what} can't end in {text[text.rindex('.') :]!r}: {text!r}")
    return text


def similarity_key(text: str) -> str:
    """Names that a reader would confuse share this key: `Ac-me`, `ac_me` and `ac.me` are one name."""
    return _FOLDED.sub("-", text.lower())


def parse_reference_name(text: str, *, what: str) -> str:
    """A branch, tag or alias name. Refuses what looks like a commit or a merged revision, or hides in `refs/`.

    Raises `InvalidName`.
    """
    if (
        not _REFERENCE.fullmatch(text)
        or text.startswith("refs/")
        or ".." in text
        or "//" in text
        or text.endswith(("/", ".", ".lock"))
    ):
        raise InvalidName(f"Invalid reference for a {what}: {text[:200]!r}")
    if text == "merged" or text.startswith("merged/"):
        raise InvalidName(
            f"Invalid reference for a {what}: {text[:200]!r}: merged revisions are called so",
            hint="choose another name",
        )
    if _HASH_LIKE.fullmatch(text):
        raise InvalidName(f"Invalid reference for a {what}: {text!r} could be mistaken for a commit")
    return text


def parse_alias(text: str) -> str:
    """An alias is a reference name without slashes that doesn't look like a version. Raises `InvalidName`."""
    parse_reference_name(text, what="alias")
    if "/" in text or _VERSION.fullmatch(text) or text == "main":
        raise InvalidName(
            f"not a usable alias: {text!r}", hint="an alias is a word such as champion or latest, not v1 or main"
        )
    return text


def parse_version(text: str) -> int:
    """The N of `vN`. Raises `InvalidName`."""
    if not _VERSION.fullmatch(text):
        raise InvalidName(f"not a version: {text[:200]!r}; expected v1, v2, …")
    return int(text[1:])


def is_version(text: str) -> bool:
    return _VERSION.fullmatch(text) is not None
