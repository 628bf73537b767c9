"""`resolve`, `tree` and `paths-info`, as the Hub's clients read them."""

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import StreamingResponse
from lorahub.errors import (
    AdapterDoesNotFit,
    EntryNotFound,
    GatedRepository,
    InvalidPath,
    MalformedBody,
    MergeTooLarge,
    NotAuthenticated,
    NotPermitted,
    NotSupported,
    PayloadTooLarge,
    RangeNotSatisfiable,
)
from lorahub.protocol.paths import parse_path

from lorahub_registry.features.accounts.caller import Caller
from lorahub_registry.features.downloads import service
from lorahub_registry.features.downloads.service import Entry, Folder, Listing, OpenFile, TreePage
from lorahub_registry.infrastructure.web.backend import BackendDep, PublicUrl
from lorahub_registry.infrastructure.web.description import answers, refuses
from lorahub_registry.infrastructure.web.paging import page
from lorahub_registry.infrastructure.web.parameters import PathInRevision, Repo, Revision
from lorahub_registry.infrastructure.web.ranges import ByteRange, requested_range
from lorahub_registry.infrastructure.web.raw_path import decode
from lorahub_registry.infrastructure.web.times import wire_time

router = APIRouter()
MODEL = "/api/models/{namespace}/{name}"
TREE_PAGE, EXPANDED_TREE_PAGE = 1000, 50
MAX_PATHS = 10_000


# --- files ------------------------------------------------------------------------------------------------------------


@router.head("/{namespace}/{name}/resolve/{rev}/{path:path}")
@answers("")
@refuses(AdapterDoesNotFit, GatedRepository, MergeTooLarge, EntryNotFound)
def head_file(backend: BackendDep, caller: Caller, repo: Repo, rev: Revision, path: PathInRevision) -> Response:
    opened = service.open_file(backend, caller, repo, rev, path)
    headers = _file_headers(opened) | _body_headers(opened, ByteRange(0, opened.file.size, is_partial=False))
    return Response(headers=headers, media_type="application/octet-stream")


@router.get("/{namespace}/{name}/resolve/{rev}/{path:path}", responses={206: {"description": "One range of bytes"}})
@answers("application/octet-stream")
@refuses(AdapterDoesNotFit, GatedRepository, MergeTooLarge, EntryNotFound, RangeNotSatisfiable)
def get_file(
    request: Request, backend: BackendDep, caller: Caller, repo: Repo, rev: Revision, path: PathInRevision
) -> Response:
    opened = service.open_file(backend, caller, repo, rev, path)
    wanted = requested_range(request.headers.get("range"), opened.file.size)
    if wanted.start == 0:
        service.count_download(backend, opened)
    address = opened.address(backend)
    if address is not None:
        headers = _file_headers(opened) | {"Location": address, "Cache-Control": "no-store"}
        return Response(status_code=302, headers=headers)
    return StreamingResponse(
        opened.read(backend, wanted.start, wanted.stop),
        status_code=206 if wanted.is_partial else 200,
        headers=_file_headers(opened) | _body_headers(opened, wanted),
        media_type="application/octet-stream",
    )


def _file_headers(opened: OpenFile) -> dict[str, str]:
    headers = {"X-Repo-Commit": opened.commit.id, "ETag": f'"{opened.etag}"', "Accept-Ranges": "bytes"}
    if opened.file.is_lfs:
        headers["X-Linked-Etag"] = f'"{opened.file.sha256}"'
        headers["X-Linked-Size"] = str(opened.file.size)
    if opened.yanked is not None:
        version, yank = opened.yanked
        reason = yank.reason.encode("ascii", "replace").decode().replace("\n", " ")
        headers["X-HF-Warning"] = f"yanked; {version} was yanked: {reason}"
    return headers


def _body_headers(opened: OpenFile, wanted: ByteRange) -> dict[str, str]:
    name = opened.file.path.rpartition("/")[2]
    headers = {
        "Content-Length": str(wanted.stop - wanted.start),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    if wanted.is_partial:
        headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{opened.file.size}"
    return headers


@router.get(MODEL + "/lfs-files")
@refuses(NotAuthenticated, NotPermitted)
def large_files(backend: BackendDep, caller: Caller, repo: Repo) -> list[dict[str, Any]]:
    return [
        {
            "fileOid": service.pointer_of(file)[0],
            "oid": file.sha256,
            "filename": file.path,
            "size": file.size,
            "pushedAt": wire_time(commit.created_at),
            "ref": None,
        }
        for file, commit in service.large_files(backend, caller, repo)
    ]


@router.post(MODEL + "/lfs-files/batch")
@refuses(NotAuthenticated, NotPermitted, NotSupported)
def delete_large_files(backend: BackendDep, caller: Caller, repo: Repo) -> None:
    """The Hub rewrites every commit; here commits never change, so that a version stays what it was."""
    service.large_files(backend, caller, repo)
    raise NotSupported(
        "commits never change on this registry, so files can't be taken out of them",
        hint="delete the file in a new commit and yank the versions that have it, or delete the repository",
    )


# --- trees ------------------------------------------------------------------------------------------------------------


@router.get(MODEL + "/tree/{rev}")
@router.get(MODEL + "/tree/{rev}/{path:path}")
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
    listing = service.list_tree(backend, caller, repo, rev, wanted)
    rows = [_entry(entry, listing, is_expanded=expand) for entry in listing.entries]
    response = page(rows, request=request, public_url=url, cursor=listing.following)
    response.headers["X-Repo-Commit"] = listing.commit.id
    return response


@router.post(MODEL + "/paths-info/{rev}")
@refuses(AdapterDoesNotFit, GatedRepository, MergeTooLarge, PayloadTooLarge)
def paths_info(
    backend: BackendDep,
    caller: Caller,
    repo: Repo,
    rev: Revision,
    paths: Annotated[list[str] | None, Form()] = None,
    expand: Annotated[bool, Form()] = False,  # noqa: FBT002
) -> list[dict[str, Any]]:
    if len(paths or []) > MAX_PATHS:
        raise MalformedBody(f"{len(paths or [])} paths in one request; at most {MAX_PATHS}")
    listing = service.paths_info(backend, caller, repo, rev, paths or [], is_expanded=expand)
    return [_entry(entry, listing, is_expanded=expand) for entry in listing.entries]


def _entry(entry: Entry, listing: Listing, *, is_expanded: bool) -> dict[str, Any]:
    row: dict[str, Any]
    if isinstance(entry, Folder):
        row = {"type": "directory", "oid": entry.oid, "size": 0, "path": entry.path}
    elif entry.is_lfs:
        oid, pointer_size = service.pointer_of(entry)
        lfs = {"oid": entry.sha256, "size": entry.size, "pointerSize": pointer_size}
        row = {"type": "file", "oid": oid, "size": entry.size, "path": entry.path, "lfs": lfs}
    else:
        row = {"type": "file", "oid": entry.git_sha1, "size": entry.size, "path": entry.path}
    if is_expanded:
        commit = listing.last_commits[entry.path]
        row["lastCommit"] = {"id": commit.id, "title": commit.title, "date": wire_time(commit.created_at)}
    return row
