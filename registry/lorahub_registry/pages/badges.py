"""Badges for other pages: what an adapter's verdict is now, against the newest revision of its base or any other."""

from typing import Annotated

from fastapi import Query, Response
from lorahub.errors import NotFound
from lorahub.protocol.names import RepositoryName

from lorahub_registry.core.access import reading
from lorahub_registry.core.accounts.viewer import View, ViewDep
from lorahub_registry.features.checks import service as checks
from lorahub_registry.features.moves import service as moves
from lorahub_registry.infrastructure.threads import STORAGE
from lorahub_registry.infrastructure.web.pages import PageRouter
from lorahub_registry.infrastructure.web.parameters import Repo
from lorahub_registry.pictures.badge import badge

router = PageRouter()
_KINDS = {"compatible": "good", "fits": "good", "incompatible": "bad"}
_FRESH_SECONDS = 300


@router.page("/badge/{namespace}/{name}.svg", twin=False)
@STORAGE.serves
def verdict(
    view: ViewDep,
    repo: Repo,
    revision: Annotated[str, Query(max_length=128)] = "main",
    base: Annotated[str | None, Query(max_length=300)] = None,
) -> Response:
    """Of `main`, or of a `revision`; against the base that it names, or `base`. Raises as the repository's page."""
    version, found = _verdict(view, repo, revision, base)
    shown = " ".join(filter(None, (version, found.replace("incompatible", "does not fit"))))
    image = badge(base or "base", shown, _KINDS.get(found, "unknown"))
    headers = {
        "Cache-Control": f"{'public' if view.principal.is_anonymous else 'private'}, max-age={_FRESH_SECONDS}",
        "Vary": "Cookie, Authorization",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cross-Origin-Resource-Policy": "cross-origin",
    }
    return Response(image, headers=headers, media_type="image/svg+xml")


def _verdict(view: View, repo: RepositoryName, revision: str, base: str | None) -> tuple[str | None, str]:
    with reading(view.backend, view.principal, repo) as opened:
        at = opened.at(revision)
        version = None if at.version is None else at.version.name
        recorded = checks.recorded_of(opened.session, [at.commit.id]).get(at.commit.id)
        moved = moves.move_of(opened.session, at.commit.id)
    if recorded is None:
        raise NotFound(f"{opened.repository.full_name} has no adapter at {revision[:80]}")
    if base is not None:
        return version, checks.check_revision(view.backend, view.principal, repo, at.commit.id, base).verdict
    return version, recorded.verdict if moved is None else moved.after
