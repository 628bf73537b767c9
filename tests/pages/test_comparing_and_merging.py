"""What two adapters have in common, which base takes them, and a merge from the form to its result, without scripts."""

import json
import time
from pathlib import Path
from typing import Any
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
from safetensors.numpy import load
from sqlalchemy import text


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
        hub.push(with_short_names(builders.write_adapter(tmp_path / "short", base="worked/base")), "worked/short")
    (tmp_path / "token").write_text(token)
    return own_registry


def with_short_names(folder: Path) -> Path:
    """The same adapter, trained on the model without its head: `layers.0…` in place of `model.layers.0…`."""
    path = folder / "adapter_model.safetensors"
    tensors = {name.replace("model.model.", "model.", 1): array for name, array in load(path.read_bytes()).items()}
    path.write_bytes(builders.safetensors_bytes(tensors, {"format": "pt"}))
    return folder


def test_numbers_are_the_apis_and_a_merge_runs_to_its_result(
    working: Registry, tmp_path: Path, browser: Browser
) -> None:
    token = (tmp_path / "token").read_text()
    with logged_in(working, token) as client:
        numbers_are_the_apis(client)
        directions_are_compared_when_somebody_asks(client)
        each_two_of_a_merge_are_compared(client)
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


def directions_are_compared_when_somebody_asks(client: httpx2.Client) -> None:
    one, other, address = (
        "worked/tuned%40v1",
        "worked/tuned%40v2",
        "/compare.json?a=worked/tuned%40v1&b=worked/tuned@v2",
    )
    assert client.get(address).json()["overlap"]["status"] == "none"
    page = client.get(f"/compare?a={one}&b={other}").text
    assert "Nobody has had these two compared yet" in page
    fields = {"csrf": csrf(client, f"/compare?a={one}&b={other}"), "a": "worked/tuned@v1", "b": "worked/tuned@v2"}
    assert client.post("/compare", data=fields).status_code == 303
    overlap = compared(client, "worked/tuned", "v1", "worked/tuned@v2")
    assert overlap == compared(client, "worked/tuned", "v2", "worked/tuned@v1")
    assert overlap == client.get(address).json()["overlap"]["overlap"]
    page = client.get(f"/compare?a={one}&b={other}").text
    for title, figure in (("Cosine", "cosine"), ("Shared input", "input"), ("Shared output", "output")):
        assert list(map(float, drawn(page, title))) == [found[figure] for found in overlap["modules"].values()]

    updates = [formed(seed) for seed in (0, 9)]
    for module, found in overlap["modules"].items():
        first, second = (update[module] for update in updates)
        cosine = np.sum(first * second) / (np.linalg.norm(first) * np.linalg.norm(second))
        assert found["cosine"] == pytest.approx(cosine, abs=1e-9)
        u, v = (np.linalg.svd(update)[0][:, :4] for update in (first, second))
        assert found["output"] == pytest.approx(np.linalg.norm(u.T @ v) ** 2 / 4, abs=1e-9)
    assert len(overlap["modules"]) == overlap["whole"]["modules"] == 2

    client.post("/compare", data=fields | {"b": "worked/short@v1"})
    renamed = compared(client, "worked/tuned", "v1", "worked/short@v1")  # the base says which modules are the same
    assert (renamed["whole"]["modules"], renamed["skipped"]) == (2, {})
    assert renamed["whole"]["cosine"] == pytest.approx(1)


def each_two_of_a_merge_are_compared(client: httpx2.Client) -> None:
    overlap = compared(client, "worked/tuned", "v1", "worked/tuned@v2")
    asked = {"base": "worked/base", "adapter1": "worked/tuned@v1", "adapter2": "worked/tuned@v2"}
    asked["adapter3"] = "worked/tuned@v1"
    pairs = client.get("/merges.json", params=asked).json()["overlaps"]
    assert [pair["status"] for pair in pairs] == ["done", "none", "done"]
    answer = client.post("/merges/overlaps", data={"csrf": csrf(client, "/merges"), **asked})
    assert answer.status_code == 303
    assert compared(client, "worked/tuned", "v1", "worked/tuned@v1")["whole"]["cosine"] == pytest.approx(1)
    pairs = client.get("/merges.json", params=asked).json()["overlaps"]
    page = client.get(answer.headers["Location"]).text
    for title, figure in (("Cosine of each", "cosine"), ("Shared input", "input"), ("Shared output", "output")):
        assert list(map(float, drawn(page, title))) == [pair["whole"][figure] for pair in pairs]
    assert [pair["whole"]["cosine"] for pair in pairs][::2] == [overlap["whole"]["cosine"]] * 2


def compared(client: httpx2.Client, name: str, rev: str, other: str) -> dict[str, Any]:
    """The API's own, once the worker has it."""
    for _ in range(100):
        found = client.get(f"/api/lorahub/v1/models/{name}/overlap/{rev}", params={"with": other}).json()
        if found["status"] == "done":
            return dict(found["overlap"])
        time.sleep(0.1)
    raise AssertionError(found)


def formed(seed: int) -> dict[str, np.ndarray]:
    """ΔW by module of an adapter of the builder's."""
    weights = load(builders.lora_weights(seed=seed))
    down = {name: array for name, array in weights.items() if name.endswith("lora_A.weight")}
    return {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): 2.0
        * weights[name.replace("lora_A", "lora_B")].astype(np.float64)
        @ array
        for name, array in down.items()
    }


def a_merge_runs(client: httpx2.Client) -> None:
    asked = {"base": "worked/base@v1", "adapter1": "worked/tuned@v1", "weight1": "0.5", "adapter2": "worked/tuned@v2"}
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
    lines = {name: client.get(f"/worked/{name}/lineage.json").json()["line"]["edges"] for name in ("mixed", "base")}
    for edges in lines.values():  # found from both of its ends, though the recipe says versions
        assert ["worked/base", "worked/mixed"] in edges
        assert ["worked/tuned", "worked/mixed"] in edges
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


def test_an_overlap_is_for_whoever_may_read_both_and_made_for_accounts_only(
    catalog: Catalog, as_owner: httpx2.Client, as_stranger: httpx2.Client, tmp_path: Path
) -> None:
    """No worker runs here: what is wanted stays so."""
    hidden, registry = "pages-org/overlapping", catalog.registry
    with lorahub.Hub(registry.url, token=catalog.owner) as hub:
        hub.push(builders.write_adapter(tmp_path / "hidden", seed=77, base=catalog.base), hidden, private=True)
    with (
        registry.client(catalog.owner) as owner,
        registry.client(catalog.stranger) as stranger,
        registry.client(None) as anybody,
    ):
        assert asked(owner, "POST", hidden, catalog.adapter) == (202, "wanted")
        assert asked(owner, "POST", catalog.adapter, hidden) == (202, "wanted")
        for method in ("GET", "POST"):
            for pair in ((hidden, catalog.adapter), (catalog.adapter, hidden)):
                assert asked(stranger, method, *pair) == asked(anybody, method, *pair) == (404, None)
        assert asked(anybody, "POST", catalog.adapter, catalog.other) == (401, None)
        assert asked(anybody, "GET", catalog.adapter, catalog.other) == (200, "none")
        assert asked(owner, "GET", catalog.adapter, catalog.base) == (404, None)
        place = f"/compare?a={catalog.adapter}&b={hidden}"
        assert "No worker is running" in as_owner.get(place).text
        fields = {"csrf": csrf(as_stranger, "/merges"), "a": catalog.adapter, "b": hidden}
        assert as_stranger.post("/compare", data=fields).status_code == 404
        mix = {"base": catalog.base, "adapter1": catalog.adapter, "adapter2": hidden}
        assert as_stranger.get("/merges.json", params=mix).json()["overlaps"] == []
        fields = {"csrf": csrf(as_stranger, "/merges"), **mix}
        assert as_stranger.post("/merges/overlaps", data=fields).status_code == 404

        owner.put(f"/api/models/{hidden}/settings", json={"private": False}).raise_for_status()
        assert asked(anybody, "GET", hidden, catalog.adapter) == (200, "wanted")
        owner.request("DELETE", "/api/repos/delete", json={"name": hidden}).raise_for_status()
    with registry.database() as database:
        assert database.exec_driver_sql("SELECT count(*) FROM adapter_overlaps").scalar_one() == 0


def asked(client: httpx2.Client, method: str, one: str, other: str) -> tuple[int, str | None]:
    answer = client.request(method, f"/api/lorahub/v1/models/{one}/overlap/main", params={"with": f"{other}@main"})
    return answer.status_code, answer.json().get("status")


def test_an_account_has_so_many_comparisons_open(catalog: Catalog) -> None:
    insert = (
        "INSERT INTO adapter_overlaps (first_digest, second_digest, first_commit_id, second_commit_id, account_id,"
        " status, wanted_at) SELECT '0', :number, commits.id, commits.id, accounts.id, 'wanted', '2026-01-01 00:00:00'"
        " FROM commits, accounts WHERE accounts.name = 'pages-owner' LIMIT 1"
    )
    with catalog.registry.database() as database:
        for number in range(64):
            database.execute(text(insert), {"number": str(number)})
    try:
        with catalog.registry.client(catalog.owner) as owner, catalog.registry.client(catalog.stranger) as stranger:
            answer = owner.post(
                f"/api/lorahub/v1/models/{catalog.adapter}/overlap/main", params={"with": catalog.other}
            )
            assert (answer.status_code, answer.json()["code"]) == (429, "TooManyRequests")
            assert asked(stranger, "POST", catalog.adapter, catalog.other) == (202, "wanted")
            with catalog.registry.database() as database:
                database.exec_driver_sql("UPDATE adapter_overlaps SET status = 'failed', reason = 'ValueError: no'")
            assert asked(stranger, "GET", catalog.adapter, catalog.other) == (200, "failed")
            with catalog.registry.database() as database:
                digests = "SELECT first_digest, second_digest FROM adapter_overlaps WHERE first_digest != '0'"
                first, second = database.exec_driver_sql(digests).one()
            catalog.registry.admin_command("jobs", "requeue", f"overlap/{first}-{second}")
            assert asked(stranger, "GET", catalog.adapter, catalog.other) == (200, "wanted")
            with catalog.registry.database() as database:
                database.exec_driver_sql("UPDATE adapter_overlaps SET status = 'failed'")
            assert asked(owner, "POST", catalog.adapter, catalog.other) == (202, "wanted")
    finally:
        with catalog.registry.database() as database:
            database.exec_driver_sql("DELETE FROM adapter_overlaps")


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
