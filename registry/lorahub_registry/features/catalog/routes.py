"""The Hub's model info and model list, card validation, and the small routes that its clients try first."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from lorahub.adapters.model_card import CardReport, validate_card
from lorahub.errors import (
    AdapterDoesNotFit,
    GatedRepository,
    InvalidInput,
    MergeTooLarge,
    RepositoryNotFound,
    RevisionNotFound,
)
from lorahub.protocol.digests import git_blob_sha1, lfs_pointer
from lorahub.protocol.messages.message import as_json, wire_time
from lorahub.protocol.messages.models import AgentHarnesses, CardRemarks, MeasuredModel, ModelInformation, ModelTag
from pydantic import BaseModel, Field

from lorahub_registry.core.access import looking, reading
from lorahub_registry.core.accounts.caller import Anybody, Caller
from lorahub_registry.core.repositories.service import Repository
from lorahub_registry.core.revisions.service import RevisionFile
from lorahub_registry.features.catalog import service
from lorahub_registry.features.catalog.search import (
    Search,
    parse_apps,
    parse_fits,
    parse_parameters,
    parse_ranks,
    parse_sort,
    parse_term,
    parse_terms,
)
from lorahub_registry.features.catalog.service import Model
from lorahub_registry.features.catalog.trending import score
from lorahub_registry.infrastructure.web.ages import age_headers
from lorahub_registry.infrastructure.web.backend import BackendDep, PublicUrl
from lorahub_registry.infrastructure.web.bodies import json_model
from lorahub_registry.infrastructure.web.description import answers, refuses
from lorahub_registry.infrastructure.web.paging import page
from lorahub_registry.infrastructure.web.parameters import Repo, Revision

router = APIRouter()
MODEL = "/api/models/{namespace}/{name}"
PAGE, DETAILED_PAGE = 500, 100  # models; a detailed one takes queries of its own
ANY_METHOD = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


# --- what can be said of a model --------------------------------------------------------------------------------------


def _measured(model: Model) -> dict[str, Any] | None:
    """Our own, beside what the Hub says."""
    found = model.measured
    if found is None:
        return None
    base = found.facts.get("base", {}).get("name")
    shown = MeasuredModel(
        base.removeprefix("hf:") if base else None,
        found.method,
        tuple(found.facts.get("ranks", ())),
        found.verdict,
    )
    described: dict[str, Any] = as_json(shown)
    return described


PROPERTIES: dict[str, Callable[[Model], Any]] = {
    "adapter": _measured,
    "author": lambda model: model.repository.namespace,
    "baseModels": lambda model: model.facts.base_models,
    "cardData": lambda model: model.facts.card_data,
    "childrenModelCount": lambda model: model.children,
    "config": lambda model: model.facts.config,
    "createdAt": lambda model: wire_time(model.repository.created_at),
    "disabled": lambda model: model.repository.quarantine is not None,
    "downloads": lambda model: model.repository.downloads,
    "downloadsAllTime": lambda model: model.repository.downloads,
    "evalResults": lambda _: None,
    "gated": lambda model: model.repository.gated or False,
    "gguf": lambda _: None,
    "inference": lambda _: None,
    "inferenceProviderMapping": lambda _: None,
    "lastModified": lambda model: wire_time(model.repository.updated_at),
    "library_name": lambda model: model.facts.library_name,
    "likes": lambda model: model.repository.likes,
    "mask_token": lambda _: None,
    "model-index": lambda model: (model.facts.card_data or {}).get("model-index"),
    "modelId": lambda model: model.repository.full_name,
    "pipeline_tag": lambda model: model.facts.pipeline_tag,
    "private": lambda model: model.repository.is_private,
    "resourceGroup": lambda _: None,
    "quarantine": lambda model: _quarantine(model.repository),
    "safetensors": lambda model: model.facts.safetensors,
    "sha": lambda model: model.commit.id,
    "siblings": lambda model: [{"rfilename": file.path} for file in model.files],
    "spaces": lambda _: [],
    "tags": lambda model: model.facts.tags,
    "transformersInfo": lambda _: None,
    "trendingScore": lambda model: score(model.repository.trending),
    "usedStorage": lambda model: model.stored_bytes,
    "widgetData": lambda _: None,
    "xetEnabled": lambda _: False,  # clients from 0.30 to 0.36 ask before they upload; by LFS, all of them can
}
"""By the name that clients ask for; None where this registry has nothing to say."""

INFO = [
    name for name in PROPERTIES if name not in ("adapter", "childrenModelCount", "trendingScore", "xetEnabled")
]  # they are said when somebody asks
ITEM = [
    "modelId",
    "author",
    "private",
    "createdAt",
    "downloads",
    "likes",
    "tags",
    "library_name",
    "pipeline_tag",
    "trendingScore",
]
FULL = [*ITEM, "sha", "lastModified", "gated", "disabled", "siblings", "adapter"]
DETAILS = frozenset({"siblings", "usedStorage", "childrenModelCount"})


def _quarantine(repository: Repository) -> dict[str, Any] | None:
    found = repository.quarantine
    return None if found is None else {"reason": found.reason, "by": found.by, "at": wire_time(found.at)}


def _shown(model: Model, properties: Collection[str]) -> dict[str, Any]:
    """What there is nothing to say about is left out; clients read that as null."""
    said = {name: value for name in properties if (value := PROPERTIES[name](model)) is not None}
    return {"_id": model.repository.public_id, "id": model.repository.full_name, **said}


def _expanded(values: Sequence[str]) -> list[str]:
    """Raises `InvalidInput` for a property that no client knows."""
    wanted = list(dict.fromkeys(name.strip() for value in values for name in value.split(",")))
    unknown = [name for name in wanted if name not in PROPERTIES]
    if unknown:
        raise InvalidInput(f"`expand` takes no {unknown[0][:80]!a}", hint=f"it takes: {', '.join(sorted(PROPERTIES))}")
    return wanted


# --- one model --------------------------------------------------------------------------------------------------------


class InfoQuery(BaseModel):
    blobs: bool = False
    security_status: bool = Field(default=False, alias="securityStatus")
    expand: list[str] = []


@router.get(MODEL, response_model=ModelInformation)
@refuses(AdapterDoesNotFit, GatedRepository, MergeTooLarge, RevisionNotFound)
def info(backend: BackendDep, caller: Caller, repo: Repo, query: Annotated[InfoQuery, Query()]) -> Response:
    return info_at(backend, caller, repo, "main", query)


@router.get(MODEL + "/revision/{rev}", response_model=ModelInformation)
@refuses(AdapterDoesNotFit, GatedRepository, MergeTooLarge)
def info_at(
    backend: BackendDep, caller: Caller, repo: Repo, rev: Revision, query: Annotated[InfoQuery, Query()]
) -> Response:
    properties = _expanded(query.expand) or INFO
    with reading(backend, caller, repo, rev) as opened:
        model = service.model(opened, rev, wanted=properties)
    shown = _shown(model, properties)
    if query.blobs and "siblings" in shown:
        shown["siblings"] = [_sibling(file) for file in model.files]
    if query.security_status:
        # every file passed the gate of publishing, or it would not be here
        shown["securityRepoStatus"] = {"scansDone": True, "filesWithIssues": []}
    headers: dict[str, str] = {"X-Repo-Commit": model.commit.id}
    if model.warning is not None:
        headers["X-HF-Warning"] = f"yanked; {_ascii_line(model.warning)}"
    headers |= age_headers(model.age)
    return JSONResponse(shown, headers=headers)


def _sibling(file: RevisionFile) -> dict[str, Any]:
    if not file.is_lfs:
        return {"rfilename": file.path, "size": file.size, "blobId": file.git_sha1}
    pointer = lfs_pointer(file.sha256, file.size)
    lfs = {"sha256": file.sha256, "size": file.size, "pointerSize": len(pointer)}
    return {"rfilename": file.path, "size": file.size, "blobId": git_blob_sha1(pointer), "lfs": lfs}


def _ascii_line(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" if c.isprintable() else " " for c in text)


# --- many models ------------------------------------------------------------------------------------------------------


class ListQuery(BaseModel):
    """Whatever else a client asks for is refused by its name: a list that ignored it would be a false one."""

    search: list[str] = []
    author: str | None = None
    filter: list[str] = []
    pipeline_tag: str | None = None
    library: list[str] = []
    language: list[str] = []
    license: list[str] = []
    dataset: list[str] = []
    other: list[str] = []
    apps: list[str] = []
    gated: bool | None = None
    num_parameters: str | None = None
    base: str | None = None
    rank: str | None = None
    target: list[str] = []
    fits: list[str] = []
    method: str | None = None
    verdict: str | None = None
    sort: str = "lastModified"
    direction: int | None = None
    limit: int | None = Field(default=None, ge=1)
    full: bool = False
    with_card: bool = Field(default=False, alias="cardData")
    with_config: bool = Field(default=False, alias="config")
    expand: list[str] = []
    cursor: str | None = None

    def as_search(self) -> Search:
        """Raises `InvalidInput`."""
        least, most = parse_parameters(self.num_parameters) if self.num_parameters else (None, None)
        ranks = parse_ranks(self.rank) if self.rank else (None, None)
        return Search(
            texts=tuple(text.lower() for text in parse_terms(self.search, what="search")),
            author=parse_term(self.author, what="author") if self.author else None,
            tags=self._tags(),
            is_gated=self.gated,
            least_parameters=least,
            most_parameters=most,
            base=parse_term(self.base, what="base").removeprefix("hf:") if self.base else None,
            labels=self._labels(),
            least_rank=ranks[0],
            most_rank=ranks[1],
            sort=parse_sort(self.sort, self.direction),
        )

    def _tags(self) -> tuple[str, ...]:
        """A task is a tag, and so are a library and a format of files, which the Hub counts among libraries."""
        datasets = parse_terms(self.dataset, what="dataset")
        return (
            *parse_terms([*self.filter, self.pipeline_tag or ""], what="filter"),
            *parse_terms(self.library, what="library"),
            *parse_terms(self.other, what="other"),
            *(f"dataset:{name.removeprefix('dataset:')}" for name in datasets),
        )

    def _labels(self) -> tuple[str, ...]:
        asked = {
            "target": parse_terms(self.target, what="target"),
            "fits": (*parse_fits(self.fits), *parse_apps(self.apps)),
            "method": parse_terms([self.method or ""], what="method"),
            "verdict": parse_terms([self.verdict or ""], what="verdict"),
            "language": parse_terms(map(str.lower, self.language), what="language"),
            "license": parse_terms(map(str.lower, self.license), what="license"),
        }
        return tuple(f"{kind}:{value.removeprefix(f'{kind}:')}" for kind, values in asked.items() for value in values)

    def properties(self) -> list[str]:
        """Raises `InvalidInput`."""
        if self.expand:
            return _expanded(self.expand)
        extra = ["cardData"] * self.with_card + ["config"] * self.with_config
        return [*(FULL if self.full else ITEM), *extra]


def refuse_unknown(asked: Iterable[str], model: type[BaseModel]) -> None:
    """Raises `InvalidInput` for the parameters that a query hasn't."""
    known = {field.alias or name for name, field in model.model_fields.items()}
    unknown = sorted(set(asked) - known)
    if unknown:
        names = ", ".join(f"{name[:40]!a}" for name in unknown[:10])
        raise InvalidInput(
            f"models can't be listed by {names} on this registry",
            hint=f"leave it out; they are listed by: {', '.join(sorted(known))}",
        )


@router.get("/api/models", response_model=list[ModelInformation])
def models(
    request: Request, backend: BackendDep, caller: Caller, url: PublicUrl, query: Annotated[ListQuery, Query()]
) -> Response:
    refuse_unknown(request.query_params, ListQuery)
    properties = query.properties()
    most = PAGE if DETAILS.isdisjoint(properties) else DETAILED_PAGE
    with looking(backend, caller) as reader:
        found = service.list_models(
            reader,
            query.as_search(),
            cursor=query.cursor,
            limit=min(query.limit or most, most),
            wanted=properties,
        )
    items = [_shown(model, properties) for model in found.models]
    return page(items, request=request, public_url=url, cursor=found.cursor)


@router.get("/api/models-tags-by-type", dependencies=[Anybody])
def tags_by_type(backend: BackendDep) -> dict[str, list[ModelTag]]:
    """A tag's type is what stands before its first colon; tags without one are of the type `other`."""
    found: dict[str, list[ModelTag]] = {}
    for tag in service.public_tags(backend):
        kind, colon, label = tag.partition(":")
        kind, label = (kind, label) if colon else ("other", tag)
        found.setdefault(kind, []).append(ModelTag(tag, label, kind))
    return found


# --- cards ------------------------------------------------------------------------------------------------------------


class Card(BaseModel):
    content: str


@router.post("/api/validate-yaml", response_model=CardRemarks, dependencies=[Anybody])
def validate_yaml(request: Request, body: Annotated[Card, json_model(Card)]) -> Response:
    """No token is needed. Uploads read the JSON; `ModelCard.validate` shows the text to its user."""
    report = validate_card(body.content)
    status = 400 if report.errors else 200
    if request.headers.get("accept", "").startswith("text/plain"):
        return PlainTextResponse(_as_text(report), status_code=status)
    faults = {
        "errors": [{"message": message} for message in report.errors],
        "warnings": [{"message": message} for message in report.warnings],
    }
    return JSONResponse(faults, status_code=status)


def _as_text(report: CardReport) -> str:
    errors = [f"- Error: {message}" for message in report.errors]
    return "\n".join([*errors, *(f"- Warning: {message}" for message in report.warnings)])


# --- what clients of the Hub ask on the way ---------------------------------------------------------------------------


@router.api_route("/api/datasets", methods=ANY_METHOD, include_in_schema=False, dependencies=[Anybody])
@router.api_route("/api/datasets/{rest:path}", methods=ANY_METHOD, include_in_schema=False, dependencies=[Anybody])
@router.api_route("/datasets/{rest:path}", methods=ANY_METHOD, include_in_schema=False, dependencies=[Anybody])
@router.api_route("/api/spaces", methods=ANY_METHOD, include_in_schema=False, dependencies=[Anybody])
@router.api_route("/api/spaces/{rest:path}", methods=ANY_METHOD, include_in_schema=False, dependencies=[Anybody])
@router.api_route("/spaces/{rest:path}", methods=ANY_METHOD, include_in_schema=False, dependencies=[Anybody])
def not_models() -> None:
    raise RepositoryNotFound("Repository not found: this registry keeps models, no datasets and no spaces")


@router.get("/api/agent-harnesses", dependencies=[Anybody])
def agent_harnesses() -> AgentHarnesses:
    """Which coding agents a client should name in its user agent: none."""
    return AgentHarnesses((), {})


@router.head("/api/telemetry/{rest:path}", dependencies=[Anybody])
@answers("")
def telemetry() -> Response:
    """Clients that send it are answered; nothing is kept."""
    return Response()
