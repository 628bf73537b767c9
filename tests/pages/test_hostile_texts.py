"""Whatever people write in names, tags, cards, messages and metadata is text: no script of theirs runs."""

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import builders
import httpx2
import lorahub
import numpy as np
import wire
from pages.conftest import Catalog, csrf, logged_in
from pages.payloads import PAYLOADS
from playwright.sync_api import Browser

NAME, STATED = "pages-owner/hostile", "pages-owner/hostile-record"
PAGES = ["", "/versions", "/commits/main", "/tree/main", "/blob/main/README.md", "/blob/main/adapter_config.json",
         "/weights/main", "/training/main", "/lineage", "/compat", "/settings"]  # fmt: skip


CONFIGURED = ("task_type", "auto_mapping", "init_lora_weights", "layers_pattern", "peft_version", "corda_config")
STATED_IN_WEIGHTS = ("format", "modelspec.title", "modelspec.trigger_phrase", "modelspec.description",
                     "ss_tag_frequency", "ss_base_model_version", "ss_network_module", "ss_sd_model_name")  # fmt: skip
FILES = [f"notes/{text.replace('/', chr(0x2215))}.md" for text in PAYLOADS if not set(text) & set('<>:"|?*{}%&')]
FILES += ["notes/' autofocus onfocus=window.hurt=1 x='.md", "notes/[x](javascript)'.md"]
"""As far as a path may have their letters."""


def publish(catalog: Catalog, folder: Path) -> None:
    """Every payload in the card and its tags; some in each other place that takes a text."""
    tags = "\n".join(f"- {json.dumps(text)}" for text in PAYLOADS)
    first = json.dumps(PAYLOADS[0])
    front = f"base_model: {first}\nlanguage: {first}\nlibrary_name: {first}\npipeline_tag: {first}\ntags:\n{tags}"
    card = f"---\n{front}\n---\n" + "\n\n".join(PAYLOADS)
    (folder / "README.md").write_text(card)
    config = builders.lora_config(base=PAYLOADS[1]) | dict.fromkeys(CONFIGURED, PAYLOADS[3]) | {"revision": PAYLOADS[2]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    log = [{"step": PAYLOADS[0], "loss": PAYLOADS[1], PAYLOADS[2]: 1}, {"step": 2, "loss": 1.0},
           {"step": 1, "loss": 1.5, "learning_rate": PAYLOADS[3]}]  # fmt: skip
    state = {"log_history": log, "best_model_checkpoint": PAYLOADS[4], PAYLOADS[5]: PAYLOADS[6]}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    with lorahub.Hub(catalog.url, token=catalog.owner) as hub:
        hub.push(folder, NAME, message="\n".join([PAYLOADS[4], *PAYLOADS[:40]]))
    with catalog.registry.client(catalog.owner) as client:
        lines = [
            {"key": "header", "value": {"summary": "".join(PAYLOADS[60:70]), "description": "".join(PAYLOADS[70:])}},
            *(wire.inline(path, b"x") for path in FILES),
        ]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        client.post(f"/api/models/{NAME}/commit/main", content=content).raise_for_status()


def publish_what_is_stated(catalog: Catalog, folder: Path) -> None:
    """A whole adapter, whose maker's words are payloads in its header, its record and the front of its card."""
    said = {f"ss_{number}{text}": text for number, text in enumerate(PAYLOADS)}
    said |= {name: PAYLOADS[number] for number, name in enumerate(STATED_IN_WEIGHTS)}
    weights = {f"base_model.model.model.layers.0.{PAYLOADS[12]}.lora_{side}.weight": np.ones((4, 4)) for side in "AB"}
    (folder / "adapter_model.safetensors").write_bytes(builders.safetensors_bytes(weights, said))
    config = builders.lora_config(base=PAYLOADS[1]) | {"target_modules": [PAYLOADS[12]]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    told = iter(PAYLOADS)
    run = {"config": {"method": next(told), "lr": next(told)}, "stopped": next(told), "curve": [[1, 2.0, None]]}
    record = {"parents": PAYLOADS[:20], "run": run, "data": {"train": {"rows": next(told)}}}
    record |= {"code": dict.fromkeys(("lorahub", "torch", "peft"), next(told)), "triggers": PAYLOADS[20:30]}
    record["hardware"] = {"device": next(told), "dtype": next(told)}
    widgets = [{"text": text, "output": {"url": text}} for text in PAYLOADS[:40]]
    front = {"widget": widgets, "instance_prompt": PAYLOADS[8], "license": "other",
             "license_name": PAYLOADS[9], "license_link": PAYLOADS[40], "datasets": PAYLOADS[:9],
             "base_model_relation": PAYLOADS[9], "model-index": [{"name": PAYLOADS[0]}],
             PAYLOADS[1]: PAYLOADS[2]}  # fmt: skip
    (folder / "README.md").write_text(f"---\n{json.dumps(front)}\n---\n")
    with lorahub.Hub(catalog.url, token=catalog.owner) as hub:
        hub.push(folder, STATED)
    with catalog.registry.client(catalog.owner) as client:
        written = client.get(f"/{STATED}/resolve/main/lorahub.json").json() | record
        line = wire.inline("lorahub.json", json.dumps(written).encode())
        wire.require(wire.commit(client, STATED, [line, wire.version("latest")]))


def name_bases(catalog: Catalog) -> list[str]:
    """Of the registry's administrator, who alone names what is no repository; where their pages are."""
    names = [text for text in PAYLOADS[:100:9] if "@" not in text]
    with catalog.registry.client() as client:
        for name in names:
            body = {"names": [name], "layout": f"lorahub-base-layout-v1\nw{quote(name)}\tF32\t2\n",
                    "config": {"architectures": [name], "model_type": name}}  # fmt: skip
            assert client.post("/api/lorahub/v1/bases", json=body).status_code == 200, name
    return ["/bases", *(f"/base/{quote(name, safe='')}" for name in [*names, PAYLOADS[1]])]


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
    publish_what_is_stated(catalog, write_folder(""))
    bases = name_bases(catalog)
    with logged_in(catalog.registry, catalog.owner) as client:
        fill_in(client)
        session = client.cookies["lorahub_session"]
    context = browser.new_context()
    context.add_cookies([{"name": "lorahub_session", "value": session, "url": catalog.url}])
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("dialog", lambda dialog: said.append(dialog.message))
    for address, texts in (
        (f"/{NAME}/commits/main", ["".join(PAYLOADS[60:70])]),
        (f"/{STATED}", [PAYLOADS[1], PAYLOADS[8]]),
        (f"/{STATED}/training/main", PAYLOADS[:6]),
        (bases[1], [PAYLOADS[0]]),
    ):
        page.goto(catalog.url + address)
        shown = page.locator("main").inner_text()
        assert [text for text in texts if text not in shown] == [], address
    searches = [f"/search?search={httpx2.QueryParams({'x': text})}"[:900] for text in PAYLOADS[:4]]
    others = ["/", "/search?author=pages-owner", "/hostile-org", "/tokens", "/settings", "/pages-owner", *searches]
    files = [f"/{NAME}/blob/main/{quote(path)}" for path in FILES]
    of_adapters = [f"/{name}{path}" for name in (NAME, STATED) for path in PAGES]
    for address in [*of_adapters, *files, *bases, *others, f"/compare?a={NAME}&b={STATED}"]:
        answer = page.goto(catalog.url + address)
        assert answer is not None
        assert "script-src 'self';" in answer.headers["content-security-policy"], address
        assert answer.status == 200, address
        assert page.evaluate("window.hurt") is None, address
        foreign = "script:not([src^='/static/']), [onerror], [onload], [onfocus], [ontoggle], [href^='javascript:' i]"
        assert page.locator(foreign).count() == 0, address
    assert not [text for text in said if "Content Security Policy" in text or "404" not in text], said
    context.close()
