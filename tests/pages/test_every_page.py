"""What holds on every page: the policy, the twin, no barrier, no width, no weight."""

import gzip
from collections.abc import Iterator
from importlib.resources import files

import brotli
import httpx2
import pytest
from pages.addresses import OF_A_REPOSITORY, OF_ADMINISTRATORS, OF_SOMEBODY, OF_THE_REGISTRY, OF_WRITERS, TWINS
from pages.conftest import Catalog, logged_in
from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.xdist_group("every-page")

AXE = (files("axe_playwright_python") / "axe.min.js").read_text()
NOT_THERE = "/nobody-at-all/nothing"


def addresses(catalog: Catalog) -> list[str]:
    of_repositories = [f"/{name}{path}" for name in (catalog.adapter, catalog.base) for path in OF_A_REPOSITORY[:1]]
    of_adapter = [f"/{catalog.adapter}{path}" for path in (*OF_A_REPOSITORY[1:], *OF_WRITERS, "/settings")]
    places = ["/pages-org", f"/base/{catalog.base}", "/base/pages-org"]
    return [*OF_THE_REGISTRY, *OF_SOMEBODY, *OF_ADMINISTRATORS, *of_repositories, *of_adapter, *places[:2], NOT_THERE]


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


def test_axe_finds_nothing_and_no_page_is_wider_than_its_window(catalog: Catalog, page: Page) -> None:
    faults = []
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    for address in addresses(catalog):
        page.goto(catalog.url + address)
        page.evaluate(AXE)
        found = page.evaluate("axe.run().then(r => r.violations.map(v => v.id + ': ' + v.nodes[0].html))")
        faults += [f"{address}: {one}" for one in found]
        width = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        faults += [f"{address} is {width} px too wide"] if width > 0 else []
    assert not faults, "\n".join(faults)
    assert not [said for said in complaints if "404" not in said], complaints


def test_every_page_has_the_policy_and_a_twin(catalog: Catalog, admin: httpx2.Client) -> None:
    for address in [one for one in addresses(catalog) if one != "/login"]:
        answer = admin.get(address)
        assert answer.status_code == (404 if address == NOT_THERE else 200), address
        policy = answer.headers["Content-Security-Policy"]
        assert "script-src 'self';" in policy, address
        assert "unsafe" not in policy, address
        assert answer.headers["X-Content-Type-Options"] == "nosniff", address
        path, _, query = address.partition("?")
        is_file = any(address.endswith(ending) for ending in TWINS)
        if not is_file and address not in (NOT_THERE, "/by-hash"):
            twin = admin.get(f"{path}.json?{query}")
            assert twin.status_code == 200, address
            assert isinstance(twin.json(), dict), address


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
