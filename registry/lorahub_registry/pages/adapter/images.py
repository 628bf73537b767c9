"""Pictures of a repository, from the registry's own address, so that a page may show them wherever bytes are kept."""

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from lorahub_registry.core.accounts.viewer import ViewDep
from lorahub_registry.infrastructure.threads import STORAGE
from lorahub_registry.infrastructure.web.conditions import is_unchanged
from lorahub_registry.infrastructure.web.pages import PageRouter
from lorahub_registry.infrastructure.web.parameters import PathInRevision, Repo, Revision
from lorahub_registry.pages.adapter import showing
from lorahub_registry.pages.adapter.tabs import ADAPTER

router = PageRouter()


@router.page(ADAPTER + "/image/{rev}/{path:path}", twin=False)
@STORAGE.serves
def image(request: Request, view: ViewDep, repo: Repo, rev: Revision, path: PathInRevision) -> Response:
    picture = showing.open_picture(view.backend, view.principal, repo, rev, path)
    tag = f'"{picture.file.file.sha256}"'
    headers = {
        "ETag": tag,
        "Cache-Control": "private, no-cache",
        "Vary": "Cookie, Authorization",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    if is_unchanged(request.headers, tag):
        return Response(status_code=304, headers=headers)
    headers["Content-Length"] = str(picture.file.file.size)
    return StreamingResponse(STORAGE.each(picture.bytes(view.backend)), headers=headers, media_type=picture.kind)
