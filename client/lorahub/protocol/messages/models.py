"""The Hub's information on repositories, and its lists of them."""

from dataclasses import dataclass
from typing import Any, ClassVar

from lorahub.protocol.messages.message import Message, Time, camel_case

_KEYS = {
    "hub_id": "_id",
    "library_name": "library_name",
    "mask_token": "mask_token",
    "model_index": "model-index",
    "pipeline_tag": "pipeline_tag",
}


def _key(name: str) -> str:
    return _KEYS.get(name) or camel_case(name)


@dataclass(frozen=True, slots=True)
class LargeFile(Message):
    sha256: str
    size: int
    pointer_size: int


@dataclass(frozen=True, slots=True)
class Sibling(Message):
    """A file; all but its path is said when somebody asks for `blobs`."""

    rfilename: str
    size: int | None = None
    blob_id: str | None = None
    lfs: LargeFile | None = None


@dataclass(frozen=True, slots=True)
class Quarantine(Message):
    reason: str
    by: str
    at: Time


@dataclass(frozen=True, slots=True)
class SecurityStatus(Message):
    scans_done: bool
    files_with_issues: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class MeasuredModel(Message):
    """What the check of an adapter found when it was pushed."""

    base: str | None
    method: str
    ranks: tuple[int, ...]
    verdict: str


@dataclass(frozen=True, slots=True)
class ModelInformation(Message):
    """What was asked for, as far as there is something to say about it. Some are the Hub's, and None here."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"alias_generator": _key}

    id: str
    hub_id: str | None = None
    adapter: MeasuredModel | None = None
    author: str | None = None
    base_models: tuple[str, ...] | None = None
    card_data: dict[str, Any] | None = None
    children_model_count: int | None = None
    config: dict[str, Any] | None = None
    created_at: Time | None = None
    disabled: bool | None = None
    downloads: int | None = None
    downloads_all_time: int | None = None
    gated: Any | None = None
    """auto, manual or False."""
    last_modified: Time | None = None
    library_name: str | None = None
    likes: int | None = None
    model_index: Any | None = None
    model_id: str | None = None
    pipeline_tag: str | None = None
    private: bool | None = None
    quarantine: Quarantine | None = None
    safetensors: dict[str, Any] | None = None
    security_repo_status: SecurityStatus | None = None
    sha: str | None = None
    siblings: tuple[Sibling, ...] | None = None
    spaces: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    trending_score: float | None = None
    used_storage: int | None = None
    xet_enabled: bool | None = None


@dataclass(frozen=True, slots=True)
class ModelTag(Message):
    """A tag's `type` is what stands before its first colon."""

    id: str
    label: str
    type: str


@dataclass(frozen=True, slots=True)
class CardRemark(Message):
    message: str


@dataclass(frozen=True, slots=True)
class CardRemarks(Message):
    """A card with errors isn't taken."""

    errors: tuple[CardRemark, ...]
    warnings: tuple[CardRemark, ...]


@dataclass(frozen=True, slots=True)
class AgentHarnesses(Message):
    """Which coding agents a client should name."""

    standard_env_vars: tuple[str, ...]
    harnesses: dict[str, str]
