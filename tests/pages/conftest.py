"""A registry with something to look at, a browser, and people who are logged in there."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import builders
import httpx2
import lorahub
import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Page
from registry_process import Registry
from services import browser as browsers

V1 = "/api/lorahub/v1"
AXE = (files("axe_playwright_python") / "axe.min.js").read_text()


@dataclass
class Catalog:
    """Of `pages-org`: a base, two public adapters of two versions, and a private one; a member, and a stranger."""

    registry: Registry
    owner: str
    stranger: str
    base: str = "pages-org/pages-base"
    adapter: str = "pages-org/sql-writer"
    other: str = "pages-org/poet"
    private: str = "pages-org/zebra-secret"

    @property
    def url(self) -> str:
        return self.registry.url


@pytest.fixture(scope="package")
def catalog(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("catalog")
    found = Catalog(registry, registry.add_user("pages-owner"), registry.add_user("pages-stranger"))
    with registry.client(found.owner) as client:
        client.post(f"{V1}/organisations", json={"name": "pages-org"}).raise_for_status()
    base = folder / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    weights = {f"model.layers.{i}.self_attn.q_proj.weight": np.full((16, 16), 0.5) for i in range(2)}
    (base / "model.safetensors").write_bytes(builders.safetensors_bytes(weights))
    log = {"log_history": [{"step": step, "loss": 1 / step, "learning_rate": 1e-4} for step in (1, 2, 3)]}
    with lorahub.Hub(registry.url, token=found.owner) as hub:
        hub.push(base, found.base)
        # No other test makes the private one's bytes: where they were public too, they would be anybody's to use.
        for seed, name in ((0, found.adapter), (1, found.other), (7_310_277, found.private)):
            adapter = builders.write_adapter(folder / f"adapter{seed}", seed=seed, base=found.base)
            (adapter / "trainer_state.json").write_text(json.dumps(log))
            (adapter / "notes").mkdir()
            (adapter / "notes" / "data.md").write_text("# Where it learned\n")
            if name == found.private:
                (adapter / "README.md").write_text(
                    f"---\nbase_model: {found.base}\nlanguage: zu\nlicense: wtfpl\n---\nx"
                )
            hub.push(adapter, name, private=name == found.private, base=found.base)
            if seed == 0:
                (adapter / "adapter_model.safetensors").write_bytes(builders.lora_weights(seed=9))
                hub.push(adapter, name, base=found.base)
    return found


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with browsers.running() as running:
        yield running


@pytest.fixture(params=["with scripts", "without scripts"])
def context(request: pytest.FixtureRequest, browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(java_script_enabled=request.param == "with scripts")
    made.set_default_timeout(10_000)
    yield made
    made.close()


def faults_of(page: Page) -> list[str]:
    """What bars people from the page that is shown, by axe; and a page wider than its window."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run().then(r => r.violations.map(v => v.id + ': ' + v.nodes[0].html))")
    width = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return [*found, *([f"{width} px too wide"] if width > 0 else [])]


@contextmanager
def logged_in(registry: Registry, token: str) -> Iterator[httpx2.Client]:
    """A client that has a browser's cookies and headers."""
    with httpx2.Client(base_url=registry.url, headers={"Accept": "text/html", "Origin": registry.url}) as client:
        answer = client.post("/login", data={"csrf": csrf(client, "/login"), "token": token, "next": "/"})
        assert answer.status_code == 303, answer.text
        yield client


def csrf(client: httpx2.Client, path: str) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]*)"', client.get(path).text)
    assert found is not None, f"{path} has no form"
    return found[1]


@pytest.fixture
def as_owner(catalog: Catalog) -> Iterator[httpx2.Client]:
    with logged_in(catalog.registry, catalog.owner) as client:
        yield client


@pytest.fixture
def as_stranger(catalog: Catalog) -> Iterator[httpx2.Client]:
    with logged_in(catalog.registry, catalog.stranger) as client:
        yield client


@pytest.fixture
def write_folder(tmp_path: Path) -> Callable[[str], Path]:
    """An adapter's folder with this card."""

    def write(card: str) -> Path:
        folder = builders.write_adapter(tmp_path / "written")
        (folder / "README.md").write_text(card)
        return folder

    return write
