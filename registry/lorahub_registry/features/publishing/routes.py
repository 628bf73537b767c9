"""`preupload` and `commit`, as the Hub's clients call them; the version line is lorahub's own."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response
from lorahub.errors import (
    AlreadyExists,
    BlobVanished,
    ContentBlocked,
    DigestMismatch,
    DiskFull,
    IdempotencyKeyReused,
    InvalidAdapter,
    InvalidInput,
    InvalidPath,
    NotAuthenticated,
    NotPermitted,
    NotSupported,
    ParentMoved,
    ProtectedReference,
    QuotaExceeded,
)
from lorahub.protocol.messages.uploads import KeptFiles, MadeCommit, UploadModes
from lorahub.protocol.paths import parse_path
from pydantic import BaseModel, Field

from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.features.publishing import service
from lorahub_registry.features.publishing.gate import check_names
from lorahub_registry.infrastructure.threads import STORAGE
from lorahub_registry.infrastructure.web.backend import BackendDep, PublicUrl
from lorahub_registry.infrastructure.web.bodies import SpooledLines, json_model
from lorahub_registry.infrastructure.web.description import reads, refuses
from lorahub_registry.infrastructure.web.parameters import Repo, Revision
from lorahub_registry.infrastructure.web.problems import one_ascii_line

router = APIRouter()
MODEL = "/api/models/{namespace}/{name}"
OWN = "/api/lorahub/v1/models/{namespace}/{name}"

_KEY = re.compile(r"[\x21-\x7e]{1,128}")


class CandidateFile(BaseModel):
    path: str
    size: int = Field(ge=0, le=1 << 50)


class Preupload(BaseModel):
    files: list[CandidateFile] = Field(max_length=10_000)
    git_ignore: str | None = Field(default=None, alias="gitIgnore", max_length=1 << 18)


def _refuse_pull_request(create_pr: str | None) -> None:
    if create_pr not in (None, "", "0", "false", "False"):
        raise NotSupported("this registry has no pull requests", hint="commit to a branch instead")


@router.post(MODEL + "/preupload/{rev}", response_model=UploadModes, response_model_exclude_defaults=True)
@refuses(InvalidAdapter, NotAuthenticated, NotPermitted, InvalidPath, NotSupported, QuotaExceeded)
def preupload(
    backend: BackendDep,
    caller: Caller,
    repo: Repo,
    rev: Revision,
    body: Annotated[Preupload, json_model(Preupload)],
    create_pr: Annotated[str | None, Query()] = None,
) -> dict[str, Any]:
    _refuse_pull_request(create_pr)
    candidates = [service.Candidate(parse_path(file.path), file.size) for file in body.files]
    advice = service.advise(backend, caller, repo, rev, candidates, git_ignore=body.git_ignore)
    check_names(file.path for file in advice if not file.is_ignored)
    return {
        "files": [
            {
                "path": file.path,
                "uploadMode": "lfs" if file.is_lfs else "regular",
                "shouldIgnore": file.is_ignored,
                **({"oid": file.oid} if file.oid else {}),
                **({"sha256": file.sha256} if file.sha256 else {}),
            }
            for file in advice
        ]
    }


@refuses(NotAuthenticated, NotPermitted)
def may_publish(backend: BackendDep, caller: Caller, repo: Repo) -> None:
    """Asked before the body is received, so that only who may publish can make the registry read one."""
    service.authorise(backend, caller, repo)


@router.post(OWN + "/files/{rev}", response_model=KeptFiles, dependencies=[Depends(may_publish)])
@reads("application/x-ndjson")
@refuses(BlobVanished, ContentBlocked, DigestMismatch, DiskFull, InvalidPath)
def keep_files(backend: BackendDep, caller: Caller, repo: Repo, rev: Revision, body: SpooledLines) -> dict[str, int]:
    """Takes a commit's body, and of it nothing but the inline files: a commit that follows names them."""
    return {"kept": service.keep_ahead(backend, caller, repo, rev, body)}


@router.post(
    MODEL + "/commit/{rev}",
    response_model=MadeCommit,
    response_model_exclude_defaults=True,
    dependencies=[Depends(may_publish)],
)
@reads("application/x-ndjson")
@refuses(
    AlreadyExists,
    BlobVanished,
    DigestMismatch,
    DiskFull,
    IdempotencyKeyReused,
    InvalidAdapter,
    InvalidPath,
    NotSupported,
    ParentMoved,
    ProtectedReference,
)
@STORAGE.serves
def commit(
    response: Response,
    backend: BackendDep,
    caller: Caller,
    repo: Repo,
    rev: Revision,
    url: PublicUrl,
    body: SpooledLines,
    create_pr: Annotated[str | None, Query()] = None,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> dict[str, Any]:
    _refuse_pull_request(create_pr)
    if idempotency_key is not None and not _KEY.fullmatch(idempotency_key):
        raise InvalidInput("an Idempotency-Key is 1 to 128 printable ASCII characters")
    published = service.publish(backend, caller, repo, rev, body, idempotency_key=idempotency_key)
    made = published.commit
    if published.left:
        left = f"left out, as by-products of training: {', '.join(published.left)}"
        response.headers["X-HF-Warning"] = f"files; {one_ascii_line(left)}"
    answer: dict[str, Any] = {
        "success": True,
        "commitOid": made.id,
        "commitUrl": f"{url}/{published.repository.full_name}/commit/{made.id}",
        "hookOutput": "",
    }
    if published.version is not None:
        answer["version"] = published.version
        answer["aliases"] = published.aliases
        answer["digest"] = f"sha256:{made.digest}"
        answer["created"] = published.is_new
    return answer
