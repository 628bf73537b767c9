"""What holds on every page: the policy, the twin, no barrier, no width, no weight."""

import gzip
from collections.abc import Iterator
from datetime import UTC, datetime

import brotli
import httpx2
import pytest
import sqlalchemy
from lorahub_registry.infrastructure.database.tables import Account, Webhook
from pages.addresses import (
    OF_A_REPOSITORY,
    OF_ADMINISTRATORS,
    OF_PLACES,
    OF_SOMEBODY,
    OF_THE_REGISTRY,
    OF_WRITERS,
    page_routes,
    routes_of,
    with_twins,
)
from pages.conftest import Catalog, faults_of, logged_in
from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.xdist_group("every-page")

NOT_THERE = "/nobody-at-all/nothing"


@pytest.fixture(scope="module")
def addresses(catalog: Catalog) -> list[str]:
    of_repositories = [f"/{name}{path}" for name in (catalog.adapter, catalog.base) for path in OF_A_REPOSITORY[:1]]
    of_adapter = [f"/{catalog.adapter}{path}" for path in (*OF_A_REPOSITORY[1:], *OF_WRITERS, "/settings")]
    return [
        *OF_THE_REGISTRY,
        *OF_SOMEBODY,
        *OF_ADMINISTRATORS,
        *of_repositories,
        *of_adapter,
        *OF_PLACES,
        a_merge(catalog),
        a_webhook(catalog),
    ]


def a_merge(catalog: Catalog) -> str:
    """The page of one that waits: no worker runs beside this registry."""
    recipe = {"base": catalog.base, "adapters": [{"source": catalog.adapter}, {"source": catalog.other}]}
    with catalog.registry.client() as admin:
        job = {"recipe": recipe, "target": f"{catalog.registry.admin}/looked-at", "private": True}
        answer = admin.post("/api/lorahub/v1/merges", json=job)
        return f"/merges/{answer.raise_for_status().json()['id']}"


def a_webhook(catalog: Catalog) -> str:
    """The page of one of the administrator's; written here, since this registry may call no host."""
    webhook = {"id": "a" * 24, "url": "https://hooks.test/in", "watched": [{"type": "registry", "name": ""}]}
    with catalog.registry.database() as connection:
        admin = connection.scalar(sqlalchemy.select(Account.id).where(Account.name == catalog.registry.admin))
        rest = {"account_id": admin, "kinds": [], "is_hub": False, "domains": [], "created_at": datetime.now(UTC)}
        connection.execute(sqlalchemy.insert(Webhook).values(**webhook, **rest))
    return f"/webhooks/{webhook['id']}"


def test_these_are_all_pages_there_are(addresses: list[str]) -> None:
    assert routes_of(addresses) == page_routes()


@pytest.fixture(scope="module")
def admin(catalog: Catalog) -> Iterator[httpx2.Client]:
    with logged_in(catalog.registry, catalog.registry.token) as client:
        yield client


@pytest.fixture(scope="module", params=[(1280, "light"), (360, "dark")], ids=["wide and light", "narrow and dark"])
def page(request: pytest.FixtureRequest, browser: Browser, catalog: Catalog, admin: httpx2.Client) -> Iterator[Page]:
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    context.add_cookies([{"name": "lorahub_session", "value": admin.cookies["lorahub_session"], "url": catalog.url}])
    yield context.new_page()
    context.close()


def test_axe_finds_nothing_and_no_page_is_wider_than_its_window(
    catalog: Catalog, addresses: list[str], page: Page
) -> None:
    faults = []
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    for address in [*addresses, NOT_THERE]:
        page.goto(catalog.url + address)
        faults += [f"{address}: {one}" for one in faults_of(page)]
    assert not faults, "\n".join(faults)
    assert not [said for said in complaints if "404" not in said], complaints


def test_every_page_has_the_policy_and_a_twin(addresses: list[str], admin: httpx2.Client) -> None:
    for address in [one for one in [*addresses, NOT_THERE] if one != "/login"]:
        answer = admin.get(address)
        assert answer.status_code == (404 if address == NOT_THERE else 200), address
        policy = answer.headers["Content-Security-Policy"]
        assert "script-src 'self';" in policy, address
        assert "unsafe" not in policy, address
        assert answer.headers["X-Content-Type-Options"] == "nosniff", address
        if address != NOT_THERE:
            for twin in list(with_twins([address]))[1:]:
                assert admin.get(twin).raise_for_status().json().keys(), twin


def test_nothing_is_sent_twice_and_everything_is_small(catalog: Catalog, admin: httpx2.Client) -> None:
    first = admin.get(f"/{catalog.adapter}", headers={"Accept-Encoding": "identity"})
    again = admin.get(f"/{catalog.adapter}", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert len(brotli.compress(first.content, quality=5)) <= 30_000
    total = len(gzip.compress(first.content))
    for address in {part.partition('"')[0] for part in first.text.split('"/static/')[1:]}:
        asset = admin.get(f"/static/{address}")
        assert "immutable" in asset.headers["Cache-Control"]
        total += int(asset.headers["Content-Length"])
    assert total <= 100_000


@pytest.mark.parametrize("coding", ["br", "gzip", "identity"])
def test_pages_come_in_the_coding_that_was_asked_for(catalog: Catalog, coding: str) -> None:
    with httpx2.Client(base_url=catalog.url, headers={"Accept": "text/html", "Accept-Encoding": coding}) as client:
        answer = client.get("/search")
    assert answer.headers.get("Content-Encoding", "identity") == coding
    assert "</html>" in answer.text
