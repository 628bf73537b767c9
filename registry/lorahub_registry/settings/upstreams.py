"""An upstream, as its operator describes it: which hub, and what of it may be asked for."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import NoDecode

from lorahub_registry.settings.kinds import Address, as_host, parsed_json

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_PATTERN = re.compile(rf"\*|{_PART}/(\*|{_PART})")


def _patterns(entries: list[str]) -> list[str]:
    for entry in entries:
        if not _PATTERN.fullmatch(entry):
            raise ValueError(f"a list of organisation/*, organisation/name, or * for all; {entry[:100]!r} is none")
    return entries


def _endpoint(text: str) -> str:
    return text.rstrip("/")


def _hosts(entries: list[str]) -> list[str]:
    return [as_host(entry, "host, host:port, or *.host for all below it") for entry in entries]


class Upstream(BaseModel):
    """Another hub, whose repositories are served here under their own names. Its token is kept elsewhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    endpoint: Annotated[Address, AfterValidator(_endpoint), Field(max_length=300)]
    allow: Annotated[list[str], AfterValidator(_patterns), Field(min_length=1, max_length=1000)]
    """Repositories that may be asked for: `organisation/*`, `organisation/name`, or `*`."""
    licenses: Annotated[list[str], Field(max_length=200)] = []
    """Those that a repository may have, as its card says; none: any."""
    hosts: Annotated[list[str], AfterValidator(_hosts), Field(max_length=100)] = []
    """To which it may lead for its files, besides itself."""
    private: bool = False
    """Whether only who has an account here reads what comes from it."""

    def allows(self, name: str) -> bool:
        """`name` is `namespace/name`; case is none of its own on a hub."""
        key = name.lower()
        patterns = [pattern.lower() for pattern in self.allow]
        return "*" in patterns or key in patterns or f"{key.partition('/')[0]}/*" in patterns

    def takes(self, license_name: str | None) -> bool:
        return not self.licenses or (license_name or "").lower() in {one.lower() for one in self.licenses}


def _listed(value: Any) -> Any:
    value = parsed_json(value)
    if not isinstance(value, list) or not all(isinstance(entry, (dict, Upstream)) for entry in value):
        raise ValueError('a JSON list of objects, such as [{"name": "hub", "endpoint": "https://…", "allow": ["*"]}]')
    return value


def _apart(found: list[Upstream]) -> list[Upstream]:
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise ValueError("a list in which each upstream has a name of its own")
    return found


Upstreams = Annotated[list[Upstream], NoDecode, BeforeValidator(_listed), AfterValidator(_apart)]
