"""What is private is in no page, count, feed or twin of those who may not see it."""

import json
import re
from pathlib import Path
from typing import Any

import httpx2
import lorahub
import numpy as np
import pytest
from builders import lora_weights, safetensors_bytes, write_adapter
from pages.addresses import (
    NO_PAGES,
    OF_A_REPOSITORY,
    OF_ADMINISTRATORS,
    OF_PLACES,
    OF_SOMEBODY,
    OF_THE_REGISTRY,
    OF_WRITERS,
    all_routes,
    routes_of,
    with_twins,
)
from pages.conftest import Catalog, logged_in
from wire import sha256

PRIVATE, HELD, GATED = "pages-owner/zebra-hidden", "pages-owner/zebra-held", "pages-owner/zebra-gated"
OF_THE_API = ["/api/lorahub/v1/server", "/livez", "/readyz", "/startupz", "/api/whoami-v2", "/api/models",
              "/api/lorahub/v1/whoami", "/api/lorahub/v1/tokens", "/api/lorahub/v1/audit", "/api/lorahub/v1/blocked",
              "/api/lorahub/v1/quarantined", "/api/lorahub/v1/mirrors", "/api/lorahub/v1/merges",
              "/api/lorahub/v1/mirrors/0123456789abcdef",
              "/api/lorahub/v1/merges/0123456789abcdef", "/api/lorahub/v1/events?after=0&limit=1000",
              "/api/lorahub/v1/webhooks", "/api/lorahub/v1/webhooks/0123456789abcdef",
              "/api/lorahub/v1/webhooks/0123456789abcdef/deliveries", "/api/settings/webhooks",
              "/api/settings/webhooks/0123456789abcdef", "/api/lorahub/v1/oidc/audience", "/api/lorahub/v1/bases",
              "/api/lorahub/v1/bases/pages-base", "/api/lorahub/v1/bases/pages-base/adapters",
              "/api/lorahub/v1/bases/pages-org/pages-base", "/api/lorahub/v1/bases/pages-org/pages-base/adapters",
              "/api/lorahub/v1/bases/pages-base/revisions", "/api/lorahub/v1/bases/pages-org/pages-base/revisions",
              "/api/users/pages-owner/overview", "/api/users/pages-owner/likes", "/api/settings/repositories",
              "/api/organizations/pages-org/overview", "/api/organizations/pages-org/members",
              "/api/organizations/pages-org/settings/repositories", "/api/models-tags-by-type", "/api/agent-harnesses",
              "/cas/no-token/v1/chunks/default/no-chunk"]  # fmt: skip
SEARCHES = ["/api/models?author=pages-owner", "/api/models?search=zebra", "/api/models?filter=license:wtfpl",
            "/api/models?filter=zebra-tag", "/api/models?filter=base_model:pages-org/sql-writer",
            "/api/models?sort=trendingScore&full=true", "/api/models?sort=likes&limit=1", "/search.atom",
            "/search?author=pages-owner", "/search?search=zebra", "/search?license=wtfpl", "/search?language=zu",
            "/search?tag=zebra-tag", "/search?base=pages-org/zebra-base", "/search?sort=trendingScore",
            "/search.atom?search=zebra", "/search.atom?author=pages-owner", "/bases?text=zebra",
            "/base/pages-org/zebra-base", "/api/lorahub/v1/bases?search=zebra", "/merges/0123456789abcdef",
            "/webhooks/0123456789abcdef",
            "/compare?a=pages-org/sql-writer&b=pages-owner/zebra-hidden",
            "/merges?base=pages-org/pages-base&adapter1=pages-owner/zebra-hidden"]  # fmt: skip
OF_A_REPOSITORYS_API = [*("/api/models/{}" + path for path in (
    "", "/revision/main", "/tree/main", "/tree/main/notes", "/refs", "/commits/main", "/lfs-files", "/likers",
    "/xet-write-token/main", "/auth-check", "/auth-check/write", "/user-access-request/pending", "/discussions",
    "/discussions/1", "?expand=childrenModelCount&expand=usedStorage&expand=siblings")),
    *("/api/lorahub/v1/models/{}" + path for path in (
        "/record", "/check/main", "/statistics/main", "/publishers", "/revisions/main", "/versions", "/aliases",
        "/ref-log", "/retention", "/signature/main", "/overlap/main?with=pages-org/poet@main",
        "/overlap/main?with=pages-owner/zebra-hidden@main")),
    "/{}/resolve/main/README.md", "/{}/image/main/notes/data.md"]  # fmt: skip
WITHOUT_CONTENT = {
    "/static/{digest}/{name}",
    "/favicon.ico",
    "/robots.txt",
    "/api/openapi.json",
    "/docs",
    "/docs/{path:path}",
}


def of_repository(name: str) -> list[str]:
    pages = [f"/{name}{path}" for path in (*OF_A_REPOSITORY, *OF_WRITERS, "/settings")]
    return [*pages, f"/badge/{name}.svg", *(path.format(name) for path in OF_A_REPOSITORYS_API)]


def places(catalog: Catalog) -> list[str]:
    """Every address at which somebody could learn that there is something he may not see."""
    of_the_registry = [*OF_THE_REGISTRY, *OF_SOMEBODY, *OF_ADMINISTRATORS, *OF_PLACES, *OF_THE_API, *SEARCHES]
    of_files = [f"{kind}/{sha256(lora_weights(seed=seed))}" for kind in BY_HASH for seed in (1, 77)]
    repositories = (catalog.adapter, catalog.base, PRIVATE)
    addresses = [*of_the_registry, *of_files, *(path for name in repositories for path in of_repository(name))]
    return list(with_twins(addresses))


def test_every_address_is_asked(catalog: Catalog) -> None:
    refusals = {path for path, what in NO_PAGES.items() if what.startswith("refused")}
    asked = {
        path for path in all_routes() if "{single}" not in path
    }  # nobody's names: `app._add_names_without_namespace`
    assert asked == routes_of(places(catalog)) | WITHOUT_CONTENT | refusals


BY_HASH = ("/by-hash", "/api/lorahub/v1/by-hash")
OF_THE_MOMENT = re.compile(
    r'request <code>\w+</code>|"(?:time|milliseconds|lastUsedAt|trendingScore|next)":[^,}]*'
    r'|(?:cursor=|"cursor":"|value=")[\w.%-]{40,}'
)
"""And the secrets of forms and cursors, which no two answers share. What trends sinks by itself; its order stays. The
feed's numbers count all that happens (docs/events.md).
"""

SAYING = ("location", "link", "x-total-count", "x-error-code", "x-error-message", "x-repo-commit")
"""Headers that could say something."""


def seen(catalog: Catalog, token: str | None) -> dict[str, Any]:
    """All that the bearer of the token is answered, by address."""
    found: dict[str, Any] = {}
    with catalog.registry.client(token) as client:
        client.headers["Accept"] = "text/html, application/json;q=0.9"
        for address in places(catalog):
            found[address] = _kept(client.get(address))
        digests = [sha256(lora_weights(seed=seed)) for seed in (1, 77)]
        found["identified"] = _kept(client.post("/api/lorahub/v1/by-hash", json={"digests": digests}))
        recipe = {"base": catalog.base, "adapters": [{"source": PRIVATE}]}
        found["planned"] = _kept(client.post("/api/lorahub/v1/merges/plan", json=recipe))
        found["checked"] = _kept(client.post("/api/lorahub/v1/checks", json={"adapters": [PRIVATE, catalog.adapter]}))
    return found


def _kept(answer: httpx2.Response) -> tuple[int, dict[str, str], str]:
    text = OF_THE_MOMENT.sub("", answer.text)
    if "atom" in answer.headers.get("content-type", "") and "<entry>" not in text:
        text = re.sub("<updated>.*?</updated>", "", text)
    kept = {name: OF_THE_MOMENT.sub("", value) for name, value in answer.headers.items() if name in SAYING}
    return answer.status_code, kept, text


def zebra(folder: Path, catalog: Catalog) -> Path:
    """An adapter that says what no other does, in every place that something is counted by; its weights are one's."""
    write_adapter(folder, base=catalog.base)
    front = {"base_model": [catalog.base, catalog.adapter, "pages-org/zebra-base"], "license": "wtfpl",
             "language": ["zu"], "tags": ["lora", "zebra-tag"], "pipeline_tag": "image-to-text"}  # fmt: skip
    (folder / "README.md").write_text(f"---\n{json.dumps(front)}\n---\nzebra card")
    (folder / "adapter_model.safetensors").write_bytes(lora_weights(seed=1))
    (folder / "other.safetensors").write_bytes(safetensors_bytes({"zebra": np.zeros(8)}, {"zebra": "zebra metadata"}))
    (folder / "zebra.md").write_text("zebra file")
    return folder


def test_what_is_hidden_changes_no_answer_to_anybody_else(catalog: Catalog, tmp_path: Path) -> None:
    callers = (None, catalog.stranger)
    before = [seen(catalog, caller) for caller in callers]
    folder = zebra(tmp_path / "zebra", catalog)
    with lorahub.Hub(catalog.url, token=catalog.owner) as hub, catalog.registry.client(catalog.owner) as owner:
        for name, is_private in ((PRIVATE, True), (HELD, False)):
            hub.push(folder, name, private=is_private, message="zebra message")
            owner.post(f"/api/models/{name}/like").raise_for_status()
            owner.get(f"/{name}/resolve/main/adapter_model.safetensors").raise_for_status()
            owner.get(f"/api/lorahub/v1/models/{name}/check/main").raise_for_status()
        recipe = {"base": catalog.base, "adapters": [{"source": PRIVATE}]}
        job = {"recipe": recipe, "target": "pages-owner/zebra-merged", "private": True}
        owner.post("/api/lorahub/v1/merges", json=job).raise_for_status()
        assert owner.get("/search.json?search=zebra").json()["found"] >= 2
    with catalog.registry.client() as admin:
        reason = {"reason": "it was copied"}
        admin.put(f"/api/lorahub/v1/models/{HELD}/quarantine", json=reason).raise_for_status()
    for caller, earlier in zip(callers, before, strict=True):
        later = seen(catalog, caller)
        changed = {
            address: (earlier[address], later[address]) for address in later if later[address] != earlier[address]
        }
        assert not changed, "\n\n".join(f"{address}\n{was}\n{now}" for address, (was, now) in changed.items())


def test_of_a_gated_adapter_everybody_reads_what_a_list_shows(catalog: Catalog, tmp_path: Path) -> None:
    folder = zebra(tmp_path / "zebra", catalog)
    with lorahub.Hub(catalog.url, token=catalog.owner) as hub, catalog.registry.client(catalog.owner) as owner:
        hub.push(folder, GATED)
        owner.put(f"/api/models/{GATED}/settings", json={"gated": "manual"}).raise_for_status()
    of_files = ("zebra card", "zebra file", "zebra metadata")  # their names are listed, as on the Hub
    for token in (None, catalog.stranger):
        with catalog.registry.client(token) as client:
            client.headers["Accept"] = "text/html, application/json;q=0.9"
            assert GATED in client.get("/search?search=zebra-tag").text
            for address in with_twins([*of_repository(GATED), "/pages-owner", *SEARCHES]):
                text = client.get(address).text
                assert not [words for words in of_files if words in text], address


def test_its_members_read_of_it_everywhere(as_owner: httpx2.Client) -> None:
    for address in ("/search?search=zebra", "/search.atom?search=zebra", "/pages-org", "/base/pages-org/pages-base"):
        assert "zebra-secret" in as_owner.get(address).text, address
    assert as_owner.get("/search.json?author=pages-org").json()["found"] == 4


def without_what_differs(answer: httpx2.Response, name: str) -> tuple[int, str]:
    text = answer.text.replace(name, "NAME").replace(name.replace("/", "%2F"), "NAME")
    return answer.status_code, re.sub(r"request <code>\w+</code>", "", text)


@pytest.mark.parametrize("caller", ["anonymous", "stranger"])
def test_every_page_of_a_private_adapter_is_that_of_a_missing_one(catalog: Catalog, caller: str) -> None:
    token = None if caller == "anonymous" else catalog.stranger
    with catalog.registry.client(token) as client:
        client.headers["Accept"] = "text/html"
        for path in (*OF_A_REPOSITORY, "/settings"):
            there = client.get(f"/{catalog.private}{path}")
            missing = client.get(f"/pages-org/zebra-nothing{path}")
            assert there.status_code == 404
            shown = [without_what_differs(there, catalog.private)]
            assert shown == [without_what_differs(missing, "pages-org/zebra-nothing")], path
            assert client.get(f"/{catalog.private}{path}.json").status_code == 404, path


def test_pages_for_somebody_ask_who_it_is(catalog: Catalog) -> None:
    with httpx2.Client(base_url=catalog.url, headers={"Accept": "text/html"}) as client:
        for address in [*OF_SOMEBODY[:3], *OF_ADMINISTRATORS]:
            answer = client.get(address)
            assert answer.status_code == 303, address
            assert answer.headers["Location"].startswith("/login?next="), address
            assert client.get(f"{address}.json").status_code == 401, address


def test_administrators_pages_are_for_administrators(catalog: Catalog, as_owner: httpx2.Client) -> None:
    for address in OF_ADMINISTRATORS:
        assert as_owner.get(address).status_code == 403, address
    assert as_owner.get(f"/{catalog.adapter}/settings").status_code == 200
    with logged_in(catalog.registry, catalog.stranger) as stranger:
        assert stranger.get(f"/{catalog.adapter}/settings").status_code == 403


def test_programs_are_answered_as_before(catalog: Catalog) -> None:
    with httpx2.Client(base_url=catalog.url) as client:
        for address in ("/nobody/nothing", "/api/nothing/here", "/nobody"):
            answer = client.get(address)
            assert answer.status_code == 404
            assert answer.json()["code"] == answer.headers["X-Error-Code"]
