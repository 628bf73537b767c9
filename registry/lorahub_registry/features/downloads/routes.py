"""`resolve`, `tree` and `paths-info`, as the Hub's clients read them."""

from base64 import b64encode
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Form, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from lorahub.errors import (
    AdapterDoesNotFit,
    BeingMade,
    EntryNotFound,
    GatedRepository,
    InvalidPath,
    MalformedBody,
    MergeTooLarge,
    NotAuthenticated,
    NotPermitted,
    NotSupported,
    PayloadTooLarge,
    PreconditionFailed,
    RangeNotSatisfiable,
)
from lorahub.protocol.digests import Sha256
from lorahub.protocol.messages.repositories import LastCommit, ListedLargeFile, TreeEntry, TreeLargeFile
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.paths import FilePath, parse_path

from lorahub_registry.core.access import reading
from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.core.accounts.permissions import Action, Principal
from lorahub_registry.features.downloads import service
from lorahub_registry.features.downloads.service import Entry, Folder, Listing, OpenFile, TreePage
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.web.ages import age_headers
from lorahub_registry.infrastructure.web.backend import BackendDep, PublicUrl
from lorahub_registry.infrastructure.web.conditions import is_ours_to_judge, is_unchanged
from lorahub_registry.infrastructure.web.description import answers, refuses
from lorahub_registry.infrastructure.web.paging import page
from lorahub_registry.infrastructure.web.parameters import PathInRevision, Repo, Revision
from lorahub_registry.infrastructure.web.ranges import ByteRange, requested_range
from lorahub_registry.infrastructure.web.raw_path import decode

router = APIRouter()
MODEL = "/api/models/{namespace}/{name}"
TREE_PAGE, EXPANDED_TREE_PAGE = 1000, 50
MAX_PATHS = 10_000


# --- files ------------------------------------------------------------------------------------------------------------


RESOLVE = "/{namespace}/{name}/resolve/{rev}/{path:path}"
UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "The client has it already"}}
ANSWERED: dict[int | str, dict[str, Any]] = {
    206: {"description": "One range of bytes"},
    302: {"description": "The storage hands it out"},
    **UNCHANGED,
}


@router.head(RESOLVE, responses=UNCHANGED)
@answers("")
@refuses(AdapterDoesNotFit, BeingMade, GatedRepository, MergeTooLarge, EntryNotFound, PreconditionFailed)
def head_file(
    request: Request,
    backend: BackendDep,
    caller: Caller,
    repo: Repo,
    rev: Revision,
    path: PathInRevision,
    url: PublicUrl,
) -> Response:
    with reading(backend, caller, repo, rev) as opened:
        file = service.open_file(opened, rev, path)
    headers = _file_headers(file)
    if is_unchanged(request.headers, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    service.require_made(backend, file, 0, file.file.size)
    headers |= _body_headers(file, ByteRange(0, file.file.size, is_partial=False))
    if urlsplit(url).netloc == request.url.netloc:  # to another host the Hub's clients send no token
        headers["Location"] = _at_commit(url, file)
    return Response(headers=headers, media_type="application/octet-stream")


@router.get(RESOLVE, responses=ANSWERED)
@answers("application/octet-stream")
@refuses(
    AdapterDoesNotFit,
    BeingMade,
    GatedRepository,
    MergeTooLarge,
    EntryNotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
)
async def get_file(
    request: Request, backend: BackendDep, caller: Caller, repo: Repo, rev: Revision, path: PathInRevision
) -> Response:
    found = await run_in_threadpool(_found, request, backend, caller, repo, rev, path)
    if isinstance(found, Response):
        return found
    file, wanted, headers = found
    return StreamingResponse(
        await file.pieces(backend, wanted.start, wanted.stop),
        status_code=206 if wanted.is_partial else 200,
        headers=headers | _body_headers(file, wanted),
        media_type="application/octet-stream",
    )


def _found(
    request: Request, backend: Backend, caller: Principal, repo: RepositoryName, rev: str, path: FilePath
) -> Response | tuple[OpenFile, ByteRange, dict[str, str]]:
    """The answer where it has no bytes; else the file, what is wanted of it, and headers."""
    with reading(backend, caller, repo, rev) as opened:
        file = service.open_file(opened, rev, path)
    headers = _file_headers(file)
    if is_unchanged(request.headers, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    wanted = requested_range(request.headers, file.file.size, headers["ETag"])
    service.require_made(backend, file, wanted.start, wanted.stop)
    if wanted.start == 0:
        service.count_download(backend, file)
    service.mark_read(backend, file)
    address = None if is_ours_to_judge(request.headers) else file.address(backend)
    if address is not None:
        return Response(status_code=302, headers=headers | {"Location": address, "Cache-Control": "no-store"})
    return file, wanted, headers


def _at_commit(url: str, file: OpenFile) -> str:
    """Where the Hub's clients read what they were told of, whatever the revision's name comes to mean meanwhile."""
    return f"{url}/{file.repository.full_name}/resolve/{file.commit.id}/{quote(file.file.path)}"


def _file_headers(file: OpenFile) -> dict[str, str]:
    headers = {
        "X-Repo-Commit": file.commit.id,
        "ETag": f'"{file.etag}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Vary": "Cookie, Authorization",
    }
    if file.file.is_lfs:
        headers["X-Linked-Etag"] = f'"{file.file.sha256}"'
        headers["X-Linked-Size"] = str(file.file.size)
    if file.yanked is not None:
        version, yank = file.yanked
        reason = yank.reason.encode("ascii", "replace").decode().replace("\n", " ")
        headers["X-HF-Warning"] = f"yanked; {version} was yanked: {reason}"
    return headers | age_headers(file.age)


def _body_headers(file: OpenFile, wanted: ByteRange) -> dict[str, str]:
    name = file.file.path.rpartition("/")[2]
    headers = {
        "Content-Length": str(wanted.stop - wanted.start),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    if wanted.is_partial:
        headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{file.file.size}"
    if file.sha256 is not None:
        headers |= _digest_headers(file.sha256)
    return headers


def _digest_headers(sha256: Sha256) -> dict[str, str]:
    """Of the whole file, so that who put it together from ranges can tell (RFC 9530; aria2 knows RFC 3230)."""
    digest = b64encode(bytes.fromhex(sha256)).decode()
    return {"Repr-Digest": f"sha-256=:{digest}:", "Digest": f"SHA-256={digest}"}


@router.get(MODEL + "/lfs-files")
@refuses(NotAuthenticated, NotPermitted)
def large_files(backend: BackendDep, caller: Caller, repo: Repo) -> list[ListedLargeFile]:
    with reading(backend, caller, repo) as opened:
        found = service.large_files(opened)
    return [
        ListedLargeFile(
            file_oid=service.pointer_of(file)[0],
            oid=file.sha256,
            filename=file.path,
            size=file.size,
            pushed_at=commit.created_at,
            ref=None,
        )
        for file, commit in found
    ]


@router.post(MODEL + "/lfs-files/batch")
@refuses(NotAuthenticated, NotPermitted, NotSupported)
def delete_large_files(backend: BackendDep, caller: Caller, repo: Repo) -> None:
    """The Hub rewrites every commit; here commits never change, so that a version stays what it was."""
    with reading(backend, caller, repo) as opened:
        opened.require(Action.WRITE)
    raise NotSupported(
        "commits never change on this registry, so files can't be taken out of them",
        hint="delete the file in a new commit and yank the versions that have it, or delete the repository",
    )


# --- trees ------------------------------------------------------------------------------------------------------------


@router.get(MODEL + "/tree/{rev}", response_model=list[TreeEntry])
@router.get(MODEL + "/tree/{rev}/{path:path}", response_model=list[TreeEntry])
@refuses(AdapterDoesNotFit, GatedRepository, MergeTooLarge, EntryNotFound, InvalidPath)
def tree(
    request: Request,
    backend: BackendDep,
    caller: Caller,
    repo: Repo,
    rev: Revision,
    url: PublicUrl,
    path: str = "",
    recursive: bool = False,  # noqa: FBT001, FBT002 (a query parameter)
    expand: bool = False,  # noqa: FBT001, FBT002
    cursor: str | None = None,
) -> Response:
    folder = decode(path).strip("/")
    wanted = TreePage(
        folder=parse_path(folder) if folder else "",
        is_recursive=recursive,
        is_expanded=expand,
        after=cursor,
        limit=EXPANDED_TREE_PAGE if expand else TREE_PAGE,
    )
    with reading(backend, caller, repo, rev) as opened:
        listing = service.list_tree(opened, rev, wanted)
    rows = [_entry(entry, listing, is_expanded=expand) for entry in listing.entries]
    response = page(rows, request=request, public_url=url, cursor=listing.following)
    response.headers["X-Repo-Commit"] = listing.commit.id
    return response


@router.post(MODEL + "/paths-info/{rev}", response_model_exclude_defaults=True)
@refuses(AdapterDoesNotFit, GatedRepository, MergeTooLarge, PayloadTooLarge)
def paths_info(
    backend: BackendDep,
    caller: Caller,
    repo: Repo,
    rev: Revision,
    paths: Annotated[list[str] | None, Form()] = None,
    expand: Annotated[bool, Form()] = False,  # noqa: FBT002
) -> list[TreeEntry]:
    if len(paths or []) > MAX_PATHS:
        raise MalformedBody(f"{len(paths or [])} paths in one request; at most {MAX_PATHS}")
    with reading(backend, caller, repo, rev) as opened:
        listing = service.paths_info(opened, rev, paths or [], is_expanded=expand)
    return [_entry(entry, listing, is_expanded=expand) for entry in listing.entries]


def _entry(entry: Entry, listing: Listing, *, is_expanded: bool) -> TreeEntry:
    commit = listing.last_commits[entry.path] if is_expanded else None
    last = None if commit is None else LastCommit(commit.id, commit.title, commit.created_at)
    if isinstance(entry, Folder):
        return TreeEntry("directory", entry.oid, 0, entry.path, last_commit=last)
    if not entry.is_lfs:
        return TreeEntry("file", entry.git_sha1, entry.size, entry.path, last_commit=last)
    oid, pointer_size = service.pointer_of(entry)
    lfs = TreeLargeFile(entry.sha256, entry.size, pointer_size)
    return TreeEntry("file", oid, entry.size, entry.path, lfs, last)
