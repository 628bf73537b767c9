"""Checks over HTTP: one adapter, many against many, adapters of a base, and look-up by content."""

from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from lorahub.errors import (
    AdapterDoesNotFit,
    BaseNotFound,
    GatedRepository,
    InvalidInput,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    VersionYanked,
)
from lorahub.protocol.digests import Sha256, parse_sha256
from lorahub.protocol.messages.bases import AdapterOfBase
from lorahub.protocol.messages.checks import CheckedRevision, CheckPolicy, FilePlace, RefusedCheck, Verdicts
from lorahub.protocol.messages.message import as_json
from lorahub.protocol.references import LATEST, Reference
from pydantic import BaseModel, Field

from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.features.checks import service
from lorahub_registry.features.checks.service import Checked
from lorahub_registry.infrastructure.threads import STORAGE
from lorahub_registry.infrastructure.web.backend import BackendDep, PublicUrl
from lorahub_registry.infrastructure.web.bodies import json_model
from lorahub_registry.infrastructure.web.description import refuses
from lorahub_registry.infrastructure.web.paging import page
from lorahub_registry.infrastructure.web.parameters import Repo, Revision
from lorahub_registry.infrastructure.web.raw_path import decode

router = APIRouter(prefix="/api/lorahub/v1")
PAGE = 100

Text = Annotated[str, Field(min_length=1, max_length=300)]


class AskedChecks(BaseModel):
    """`all_of` adds every adapter that names this base; `@next` among the bases is another revision of it.

    `in_rows`: what can't be checked is in `refused`, and ends nothing; of `runtimes`, only those are told of that are
    named, of facts those that were measured, and of a finding's evidence the first.
    """

    adapters: list[Text] = Field(default_factory=list, max_length=1000)
    bases: list[Text] = Field(default_factory=list, max_length=100)
    all_of: Text | None = None
    in_rows: bool = False
    runtimes: list[Text] = Field(default_factory=list, max_length=100)


class Digests(BaseModel):
    sha256: list[str] = Field(max_length=1000)


class Policy(BaseModel):
    policy: Literal["refuse", "warn"]


@router.get("/models/{namespace}/{name}/check/{rev}", response_model=CheckedRevision)
@refuses(AdapterDoesNotFit, BaseNotFound, GatedRepository, NotFound)
@STORAGE.serves
def check(
    backend: BackendDep,
    caller: Caller,
    repo: Repo,
    rev: Revision,
    base: Annotated[str | None, Query(max_length=300)] = None,
) -> Response:
    return JSONResponse(_shown(service.check_revision(backend, caller, repo, rev, base)))


@router.put("/models/{namespace}/{name}/check-policy")
@refuses(NotAuthenticated, NotPermitted)
def set_policy(
    backend: BackendDep, caller: Caller, repo: Repo, body: Annotated[Policy, json_model(Policy)]
) -> CheckPolicy:
    service.set_policy(backend, caller, repo, body.policy)
    return CheckPolicy(body.policy)


@router.post("/checks", response_model=Verdicts)
@refuses(AdapterDoesNotFit, BaseNotFound, GatedRepository, NotAuthenticated, NotFound, VersionYanked)
@STORAGE.serves
def check_all(backend: BackendDep, caller: Caller, body: Annotated[AskedChecks, json_model(AskedChecks)]) -> Response:
    if body.in_rows and body.all_of is None:
        return _in_rows(service.check_rows(backend, caller, body.adapters, body.bases), set(body.runtimes))
    wanted = [Reference.parse(text) for text in body.adapters]
    pairs = [(reference.repository, reference.revision or LATEST) for reference in wanted]
    bases = body.bases
    if body.all_of is not None:
        name = body.all_of.removeprefix("hf:").partition("@")[0]
        found = service.adapters_of(backend, caller, name, after=None, limit=service.MOST_PAIRS + 1)
        pairs += [(Reference.parse(repository.full_name).repository, commit) for _, repository, commit in found]
        bases = [name + base if base.startswith("@") else base for base in bases]
    results = [_shown(checked) for checked in service.check_all(backend, caller, pairs, bases)]
    verdicts = [result["verdict"] for result in results]
    summary = {verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))}
    return JSONResponse({"checks": results, "summary": summary})


@router.get("/bases/{name}/adapters", response_model=list[AdapterOfBase])
@router.get("/bases/{namespace}/{name}/adapters", response_model=list[AdapterOfBase])
@refuses(BaseNotFound)
def adapters(
    backend: BackendDep,
    caller: Caller,
    request: Request,
    url: PublicUrl,
    name: str,
    namespace: str = "",
    cursor: Annotated[int | None, Query(ge=0, le=1 << 62)] = None,
) -> Response:
    base = "/".join(decode(part) for part in (namespace, name) if part)
    found = service.adapters_of(backend, caller, base, after=cursor, limit=PAGE + 1)
    rows = [
        AdapterOfBase(repository.full_name, commit, repository.is_private) for _, repository, commit in found[:PAGE]
    ]
    following = str(found[PAGE - 1][0]) if len(found) > PAGE else None
    return page(rows, request=request, public_url=url, cursor=following)


@router.get("/by-hash/{sha256}")
def by_hash(backend: BackendDep, caller: Caller, sha256: str) -> list[FilePlace]:
    digest = parse_sha256(decode(sha256))
    return [_place(place) for place in service.places_of(backend, caller, [digest])[digest]]


@router.post("/by-hash")
def by_hashes(
    backend: BackendDep, caller: Caller, body: Annotated[Digests, json_model(Digests)]
) -> dict[str, list[FilePlace]]:
    digests: list[Sha256] = list(dict.fromkeys(parse_sha256(text) for text in body.sha256))
    if not digests:
        raise InvalidInput("no digest is asked for")
    found = service.places_of(backend, caller, digests)
    return {digest: [_place(place) for place in places] for digest, places in found.items()}


def _in_rows(rows: Sequence[Checked | service.RefusedPair], runtimes: Collection[str]) -> Response:
    checks, refused = [], []
    for row in rows:
        if isinstance(row, service.RefusedPair):
            error = row.refusal
            refused.append(RefusedCheck(row.adapter, row.base, error.code, error.message, error.hint))
        else:
            told = [one for one in row.report["runtimes"] if one["runtime"] in runtimes]
            facts = {key: value for key, value in row.facts.items() if key in _MEASURED} | {"training": None}
            short = {"runtimes": told, "facts": facts, "findings": list(map(_cut, row.report["findings"]))}
            checks.append(_shown(row) | short | {"digest": row.digest, "yanked": row.yanked})
    verdicts = [one["verdict"] for one in checks]
    summary = {verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))}
    return JSONResponse({"checks": checks, "summary": summary, "refused": as_json(refused)})


def _cut(finding: dict[str, Any]) -> dict[str, Any]:
    """Its `count` says how many pieces of evidence there are."""
    return finding | {"evidence": finding["evidence"][:_EVIDENCE_OF_A_ROW]}


_EVIDENCE_OF_A_ROW = 8
_MEASURED = frozenset("format method rank ranks scales targets modules parts dtypes parameters".split())


def _shown(checked: Checked) -> dict[str, Any]:
    """As `CheckedRevision` describes it: findings and facts are kept as they are sent."""
    report = checked.report
    return {
        "adapter": checked.adapter,
        "commit": checked.commit,
        "base": checked.base,
        "verdict": report["verdict"],
        "matched": report["matched"],
        "of": report["of"],
        "rule_set": report["rule_set"],
        "findings": report["findings"],
        "runtimes": report["runtimes"],
        "revisions": report.get("revisions", []),
        "coverage": report.get("coverage"),
        "facts": dict(checked.facts),
        "kept": checked.is_kept,
    }


def _place(place: service.FilePlace) -> FilePlace:
    name = place.repository.full_name
    return FilePlace(f"{name}@{place.version or place.commit}", name, place.commit, place.version, place.path)
