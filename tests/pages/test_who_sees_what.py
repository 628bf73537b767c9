"""What is private is in no page, count, feed or twin of those who may not see it."""

import re

import httpx2
import pytest
from pages.addresses import OF_A_REPOSITORY, OF_ADMINISTRATORS, OF_SOMEBODY, OF_THE_REGISTRY
from pages.conftest import Catalog, logged_in

SECRETS = ("zebra-secret", "wtfpl", ">zu<", '"zu"')
"""The private adapter's name, and what only it has: a licence, a language."""
PLACES = [*OF_THE_REGISTRY, "/search?license=wtfpl", "/search?language=zu", "/search?search=zebra", "/search.atom",
          "/search.atom?search=zebra", "/pages-org", "/base/pages-org/pages-base", "/pages-org/pages-base/lineage",
          "/pages-org/sql-writer/lineage"]  # fmt: skip


def texts(client: httpx2.Client, address: str) -> str:
    path, _, query = address.partition("?")
    return client.get(address).text + client.get(f"{path}.json?{query}").text


@pytest.mark.parametrize("caller", ["anonymous", "stranger"])
def test_nobody_else_reads_of_a_private_adapter(catalog: Catalog, caller: str) -> None:
    token = None if caller == "anonymous" else catalog.stranger
    with catalog.registry.client(token) as client:
        client.headers["Accept"] = "text/html"
        for address in PLACES:
            text = texts(client, address).replace(address.partition("=")[2] or "\0", "")
            assert not [secret for secret in SECRETS if secret in text], address
        counts = client.get("/search.json?author=pages-org").json()
        assert counts["found"] == 3
        assert [f["values"][0]["count"] for f in counts["facets"] if f["name"] == "method"] == [2]


def test_its_members_read_of_it_everywhere(as_owner: httpx2.Client) -> None:
    for address in ("/search", "/search.atom", "/pages-org", "/base/pages-org/pages-base"):
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
