"""What two adapters have in common, which base takes them, and a merge from the form to its result, without scripts."""

import json
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import builders
import httpx2
import lorahub
import numpy as np
import pytest
from pages.conftest import Catalog, csrf, logged_in
from pages.test_journeys import log_in
from playwright.sync_api import Browser, expect
from registry_process import Registry


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


@pytest.fixture
def working(own_registry: Registry, tmp_path: Path) -> Registry:
    """With its worker; of `worked`, a base and an adapter of two versions."""
    own_registry.stop()
    own_registry.settings = {"LORAHUB_WORKER": "true"}
    own_registry.start()
    token = own_registry.add_user("worked")
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    weights = {f"model.layers.{i}.self_attn.q_proj.weight": np.full((16, 16), 0.5) for i in range(2)}
    (base / "model.safetensors").write_bytes(builders.safetensors_bytes(weights))
    adapter = builders.write_adapter(tmp_path / "adapter", base="worked/base")
    with lorahub.Hub(own_registry.url, token=token) as hub:
        hub.push(base, "worked/base")
        hub.push(adapter, "worked/tuned")
        (adapter / "adapter_model.safetensors").write_bytes(builders.lora_weights(seed=9))
        hub.push(adapter, "worked/tuned")
    (tmp_path / "token").write_text(token)
    return own_registry


def test_numbers_are_the_apis_and_a_merge_runs_to_its_result(
    working: Registry, tmp_path: Path, browser: Browser
) -> None:
    token = (tmp_path / "token").read_text()
    with logged_in(working, token) as client:
        numbers_are_the_apis(client)
        a_merge_runs(client)
    for has_scripts in (True, False):
        a_merge_is_composed(browser, working.url, token, has_scripts=has_scripts)


def a_merge_is_composed(browser: Browser, url: str, token: str, *, has_scripts: bool) -> None:
    target = f"worked/composed-{'js' if has_scripts else 'plain'}"
    context = browser.new_context(java_script_enabled=has_scripts)
    page = context.new_page()
    page.goto(f"{url}/merges")
    log_in(page, token)
    page.get_by_label("Base model").fill("worked/base")
    for line, (source, weight) in enumerate((("worked/tuned@v1", "1"), ("worked/tuned@v2", "0.25")), start=1):
        page.get_by_role("textbox", name=f"Adapter {line}", exact=True).fill(source)
        page.get_by_role("textbox", name=f"Weight of adapter {line}").fill(weight)
    page.get_by_role("button", name="Work out the cost").click()
    expect(page.get_by_role("region", name="What it comes to")).to_contain_text("Size of the result")
    page.get_by_label("Repository of the result").fill(target)
    page.get_by_role("button", name="Start the merge").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Merge into {target}")
    for _ in range(200):
        if page.get_by_role("status").inner_text().startswith("done"):
            break
        page.reload()
    page.get_by_role("link", name=f"{target}@v1").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(target)
    context.close()


def numbers_are_the_apis(client: httpx2.Client) -> None:
    first, second = ready(client, "worked/tuned", "v1"), ready(client, "worked/tuned", "v2")
    page = client.get("/worked/tuned/weights/v1").text
    assert sorted(map(float, drawn(page, "‖ΔW‖ by layer"))) == sorted(first.values())
    address = "/compare?a=worked/tuned%40v1&b=worked/tuned%40v2"
    differences = sorted(map(float, drawn(client.get(address).text, "‖ΔW‖ of tuned@v2")))
    assert differences == sorted(second[module] - first[module] for module in first)
    twin = client.get(address.replace("/compare", "/compare.json")).json()
    assert {row[0] for row in twin["norms"]} == set(first)
    assert {"fact": "Method", "first": "lora", "second": "lora", "same": True} in twin["facts"]


def a_merge_runs(client: httpx2.Client) -> None:
    asked = {"base": "worked/base", "adapter1": "worked/tuned@v1", "weight1": "0.5", "adapter2": "worked/tuned@v2"}
    plan = client.get("/merges.json", params=asked).json()["plan"]
    assert plan["cost"]["bytes"] > 0
    assert plan["recipe"]["adapters"][0] == {"source": "worked/tuned@v1", "weight": 0.5}
    fields = {"csrf": csrf(client, "/merges"), **asked, "target": "worked/mixed", "visibility": "private"}
    started = client.post("/merges", data=fields)
    assert started.status_code == 303, started.text
    place = started.headers["Location"]
    for _ in range(200):
        job = client.get(f"{place}.json").json()["job"]
        if not job["open"]:
            break
        time.sleep(0.1)
    assert job["status"] == "done", job
    assert "worked/mixed@v1" in client.get(place).text
    assert client.get("/worked/mixed/resolve/v1/config.json").json()["model_type"] == "llama"
    client.get("/worked/mixed/resolve/v1/model.safetensors").raise_for_status()
    days = client.get("/worked/mixed.json").json()["downloadsPerDay"]
    assert sum(days.values()) == 1
    assert [float(value) for value in drawn(client.get("/worked/mixed").text, "Downloads per day")] == list(
        days.values()
    )


def test_a_comparison_shows_nothing_of_what_one_may_not_see(catalog: Catalog, as_stranger: httpx2.Client) -> None:
    for twin in ("", ".json"):
        answer = as_stranger.get(f"/compare{twin}?a={catalog.adapter}&b={catalog.private}")
        assert answer.status_code == 404
        assert as_stranger.get(f"/compare{twin}?a=x&b=y").status_code == 400
    fits = as_stranger.get(f"/base/{catalog.base}.json").json()["fits"]
    assert {(one["adapter"], one["verdict"]) for one in fits} == {
        (catalog.adapter, "compatible"),
        (catalog.other, "compatible"),
    }
    assert len(drawn(as_stranger.get(f"/base/{catalog.base}").text, "Which adapter fits")) == len(fits)


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
