"""Whatever people write in names, tags, cards, messages and metadata is text: no script of theirs runs."""

import json
from collections.abc import Callable
from pathlib import Path

import builders
import httpx2
import lorahub
import wire
from pages.conftest import Catalog, csrf, logged_in
from pages.payloads import PAYLOADS
from playwright.sync_api import Browser

NAME = "pages-owner/hostile"
PAGES = ["", "/versions", "/commits/main", "/tree/main", "/blob/main/README.md", "/blob/main/adapter_config.json",
         "/weights/main", "/training/main", "/lineage", "/compat", "/settings"]  # fmt: skip


def publish(catalog: Catalog, folder: Path) -> None:
    """Every payload in the card and its tags; some in each other place that takes a text."""
    tags = "\n".join(f"- {json.dumps(text)}" for text in PAYLOADS)
    first = json.dumps(PAYLOADS[0])
    front = f"base_model: {first}\nlanguage: {first}\nlibrary_name: {first}\npipeline_tag: {first}\ntags:\n{tags}"
    card = f"---\n{front}\n---\n" + "\n\n".join(PAYLOADS)
    (folder / "README.md").write_text(card)
    config = builders.lora_config(base=PAYLOADS[1]) | {"revision": PAYLOADS[2], "layers_pattern": PAYLOADS[3]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with lorahub.Hub(catalog.url, token=catalog.owner) as hub:
        hub.push(folder, NAME, message="\n".join([PAYLOADS[4], *PAYLOADS[:40]]))
    with catalog.registry.client(catalog.owner) as client:
        lines = [
            {"key": "header", "value": {"summary": "".join(PAYLOADS[60:70]), "description": "".join(PAYLOADS[70:])}},
            wire.inline("notes/' autofocus onfocus=window.hurt=1 x='.md", b"x"),
        ]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        client.post(f"/api/models/{NAME}/commit/main", content=content).raise_for_status()


def fill_in(client: httpx2.Client) -> None:
    for path, fields in (
        ("/tokens", {"name": PAYLOADS[5][:96], "scope": "read", "days": "7"}),
        ("/organizations", {"name": "hostile-org", "fullname": "".join(PAYLOADS[6:9])[:200]}),
        (f"/{NAME}/versions/yank", {"version": "v1", "reason": "".join(PAYLOADS[10:30])}),
    ):
        assert client.post(path, data={"csrf": csrf(client, "/tokens"), **fields}).status_code in (200, 303)


def test_no_text_runs(catalog: Catalog, browser: Browser, write_folder: Callable[[str], Path]) -> None:
    assert len(PAYLOADS) >= 100
    publish(catalog, write_folder(""))
    with logged_in(catalog.registry, catalog.owner) as client:
        fill_in(client)
        session = client.cookies["lorahub_session"]
    context = browser.new_context()
    context.add_cookies([{"name": "lorahub_session", "value": session, "url": catalog.url}])
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(f"{catalog.url}/{NAME}/commits/main")
    assert "".join(PAYLOADS[60:70]) in page.locator("main").inner_text()
    searches = [f"/search?search={httpx2.QueryParams({'x': text})}"[:900] for text in PAYLOADS[:4]]
    others = ["/", "/search?author=pages-owner", "/hostile-org", "/tokens", "/settings", "/pages-owner", *searches]
    for address in [*(f"/{NAME}{path}" for path in PAGES), *others]:
        page.goto(catalog.url + address)
        assert page.evaluate("window.hurt") is None, address
        foreign = "script:not([src^='/static/']), [onerror], [onload], [onfocus], [ontoggle], [href^='javascript:' i]"
        assert page.locator(foreign).count() == 0, address
    assert not [text for text in said if "Content Security Policy" in text or "404" not in text], said
    context.close()
