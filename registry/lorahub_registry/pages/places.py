"""Pages that adapters are found by: a namespace, a base model, a file's sha256."""

from typing import Annotated, Any

from fastapi import Path, Response
from lorahub.errors import AccountNotFound, BaseNotFound
from lorahub.protocol.digests import parse_sha256
from lorahub.protocol.messages.message import wire_time

from lorahub_registry.core.access import looking
from lorahub_registry.core.accounts import service as accounts
from lorahub_registry.core.accounts.permissions import Action, may
from lorahub_registry.core.accounts.viewer import ViewDep
from lorahub_registry.features.bases import service as bases
from lorahub_registry.features.bases.service import NamedBase
from lorahub_registry.features.catalog import service as catalog
from lorahub_registry.features.catalog.search import Search
from lorahub_registry.features.checks import service as checks
from lorahub_registry.infrastructure.web.pages import PageRouter
from lorahub_registry.infrastructure.web.raw_path import decode
from lorahub_registry.pages import drawn, listing

router = PageRouter()
own_names = PageRouter()
BASES_SHOWN = 100


@router.page("/bases")
def all_bases(view: ViewDep, text: str | None = None) -> Response:
    found = bases.list_named(view.backend, view.principal, text, after=None, limit=BASES_SHOWN)
    with looking(view.backend, view.principal) as reader:
        counts = catalog.count(reader, Search()).counts["base"]
    rows = [{**_base(named), "adapters": counts.get(named.name.lower(), 0)} for _, named, _ in found]
    named_only = [{"name": name, "adapters": count} for name, count in counts.items()]
    return view.render("pages/bases.html", {"bases": rows, "named": named_only, "text": text})


@router.page("/base/{name:path}")
def base(view: ViewDep, name: Annotated[str, Path()], cursor: str | None = None) -> Response:
    asked, _, revision = decode(name).partition("@")
    asked = asked.removeprefix("hf:")
    known = [
        named
        for _, named, _ in bases.list_named(view.backend, view.principal, asked, after=None, limit=BASES_SHOWN)
        if named.name.lower() == asked.lower() and (not revision or named.revision.startswith(revision))
    ]
    search = Search(labels=(f"base:{asked.lower()}",))
    with looking(view.backend, view.principal) as reader:
        rows, following = listing.adapters(reader, search, cursor=cursor)
        verdicts, matrix = drawn.fit(reader.session, rows, known)
    if not known and not rows:
        raise BaseNotFound(f"no base is called {asked[:200]}", hint="register it: lorahub base add")
    data = {
        "name": known[0].name if known else asked,
        "revision": revision or None,
        "registrations": [_base(named) for named in known],
        "adapters": rows,
        "next": f"/base/{name}?cursor={following}" if following else None,
        "fits": verdicts,
    }
    return view.render("pages/base.html", data, html={"matrix": matrix})


def _base(named: NamedBase) -> dict[str, Any]:
    return {
        "name": named.name,
        "revision": named.revision or None,
        "architecture": named.base.architecture,
        "parameters": named.base.parameters,
        "tensors": named.base.tensors,
        "layout": named.base.layout_digest,
        "weights": named.base.weights_digest,
        "addedAt": wire_time(named.added_at),
    }


@router.page("/by-hash/{sha256}")
def by_hash(view: ViewDep, sha256: str) -> Response:
    digest = parse_sha256(decode(sha256).removeprefix("sha256:").lower())
    places = checks.places_of(view.backend, view.principal, [digest])[digest]
    rows = [
        {"repository": place.repository.full_name, "commit": place.commit, "version": place.version, "path": place.path}
        for place in places
    ]
    return view.render("pages/by_hash.html", {"sha256": digest, "places": rows})


@router.page("/by-hash", twin=False)
def ask_by_hash(view: ViewDep, sha256: str = "") -> Response:
    if sha256.strip():
        return view.redirect(f"/by-hash/{parse_sha256(sha256.strip().removeprefix('sha256:').lower())}")
    return view.render("pages/by_hash.html", {"sha256": None, "places": []})


@own_names.page("/{namespace:namespace}")
def namespace(view: ViewDep, namespace: str, cursor: str | None = None) -> Response:
    """Raises `AccountNotFound`."""
    account = accounts.find_account(view.backend, decode(namespace))
    if account.name.lower() != decode(namespace).lower():
        raise AccountNotFound(f"no user or organisation is called {decode(namespace)[:100]!r}")
    search = Search(author=account.name)
    with looking(view.backend, view.principal) as reader:
        rows, following = listing.adapters(reader, search, cursor=cursor)
    data = {
        "name": account.name,
        "fullname": account.fullname,
        "kind": account.kind,
        "createdAt": wire_time(account.created_at),
        "adapters": rows,
        "next": f"/{account.name}?cursor={following}" if following else None,
        "mayWrite": may(view.principal, Action.WRITE, account.name),
        "isOwn": view.principal.name == account.name and not view.principal.is_anonymous,
    }
    return view.render("pages/namespace.html", data)
