"""What two adapters have in common, which base takes them, and a merge from the form to its result, without scripts."""

import time
from xml.etree import ElementTree as ET

import httpx2
from pages.conftest import Catalog, csrf


def drawn(page: str, title: str) -> list[str]:
    """The numbers of the picture with this title."""
    for part in page.split("<svg")[1:]:
        root = ET.fromstring("<svg" + part.partition("</svg>")[0] + "</svg>")
        if (root.findtext("title") or "").startswith(title):
            return [found for one in root.iter() if (found := one.get("data-value")) is not None]
    raise AssertionError(f"no picture {title}")


def ready(client: httpx2.Client, name: str, rev: str) -> dict[str, float]:
    """The API's own numbers, once the worker has them."""
    for _ in range(100):
        found = client.get(f"/api/lorahub/v1/models/{name}/statistics/{rev}").json()
        if found["status"] == "done":
            return {module: one["frobenius"] for module, one in found["statistics"]["modules"].items()}
        time.sleep(0.1)
    raise AssertionError(found)


def test_every_number_of_a_map_and_a_comparison_is_the_apis(catalog: Catalog, as_owner: httpx2.Client) -> None:
    first, second = ready(as_owner, catalog.adapter, "v1"), ready(as_owner, catalog.adapter, "v2")
    page = as_owner.get(f"/{catalog.adapter}/weights/v1").text
    assert sorted(map(float, drawn(page, "‖ΔW‖ by layer"))) == sorted(first.values())
    address = f"/compare?a={catalog.adapter}%40v1&b={catalog.adapter}%40v2"
    differences = sorted(map(float, drawn(as_owner.get(address).text, "‖ΔW‖ of sql-writer@v2")))
    assert differences == sorted(second[module] - first[module] for module in first)
    twin = as_owner.get(address.replace("/compare", "/compare.json")).json()
    assert {row[0] for row in twin["norms"]} == set(first)
    assert {"fact": "Method", "first": "lora", "second": "lora", "same": True} in twin["facts"]


def test_a_comparison_shows_nothing_of_what_one_may_not_see(catalog: Catalog, as_stranger: httpx2.Client) -> None:
    for twin in ("", ".json"):
        answer = as_stranger.get(f"/compare{twin}?a={catalog.adapter}&b={catalog.private}")
        assert answer.status_code == 404
        assert as_stranger.get(f"/compare{twin}?a=x&b=y").status_code == 400
    assert catalog.private not in as_stranger.get(f"/base/{catalog.base}.json").text


def test_a_merge_is_planned_started_and_looked_at(catalog: Catalog, as_owner: httpx2.Client) -> None:
    asked = {"base": catalog.base, "adapter1": catalog.adapter, "weight1": "0.5", "adapter2": catalog.other}
    plan = as_owner.get("/merges.json", params=asked).json()["plan"]
    assert plan["cost"]["bytes"] > 0
    assert plan["recipe"]["adapters"][0] == {"source": catalog.adapter, "weight": 0.5}
    token = csrf(as_owner, f"/merges?base={catalog.base}&adapter1={catalog.adapter}")
    started = as_owner.post(
        "/merges", data={"csrf": token, **asked, "target": "pages-org/mixed", "visibility": "private"}
    )
    assert started.status_code == 303, started.text
    place = started.headers["Location"]
    for _ in range(200):
        job = as_owner.get(f"{place}.json").json()["job"]
        if not job["open"]:
            break
        time.sleep(0.1)
    assert job["status"] == "done", job
    assert "pages-org/mixed@v1" in as_owner.get(place).text
    assert as_owner.get("/pages-org/mixed/resolve/v1/config.json").json()["model_type"] == "llama"


def test_a_merge_is_refused_in_words(catalog: Catalog, as_owner: httpx2.Client, as_stranger: httpx2.Client) -> None:
    for fields in (
        {"base": "nobody/nothing", "adapter1": catalog.adapter},
        {"base": catalog.base, "adapter1": catalog.adapter, "weight1": "much"},
        {"base": catalog.base, "adapter1": catalog.adapter, "method": "magic"},
        {"base": catalog.base, "adapter1": "x"},
    ):
        answer = as_owner.get("/merges.json", params=fields)
        assert (answer.status_code, answer.json()["plan"]) == (200, None)
        assert answer.json()["error"]["message"]
    hidden = {"base": catalog.base, "adapter1": catalog.private}
    assert as_stranger.get("/merges.json", params=hidden).json()["plan"] is None
    fields = {**hidden, "target": "pages-org/stolen", "csrf": "0" * 40}
    assert as_stranger.post("/merges", data=fields).status_code == 403
