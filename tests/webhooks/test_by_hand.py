"""Webhooks as people use them: by the command, on the pages, and from an example's relay to a CI."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.test_commands import Cli
from pages.conftest import csrf, logged_in
from registry_process import Registry, eventually
from services.ports import free_port
from webhooks.receiver import Receiver
from webhooks.test_webhooks import call, receivers, repository, told_registry

__all__ = ["receivers", "told_registry"]

RELAY = Path(__file__).parents[2] / "examples" / "dispatch.py"


@pytest.fixture
def cli(told_registry: Registry, tmp_path: Path) -> Cli:
    made = Cli(tmp_path, told_registry.url)
    assert made.run("login", told_registry.url, "--token-file", "-", stdin=told_registry.token).returncode == 0
    return made


def test_by_the_command(told_registry: Registry, receivers: list[Receiver], cli: Cli) -> None:
    receiver = receivers[0]
    repo = repository(told_registry)
    made = cli.json("webhook", "add", receiver.url, repo, "base:acme/llama", "--kind", "alias.*")[0]
    assert made["secret"].startswith("whsec_")
    assert "repository:" + repo in cli.run("webhook", "ls").stdout
    tried = cli.run("webhook", "test", made["id"])
    assert (tried.returncode, "200 after" in tried.stdout) == (0, True), tried.stderr
    receiver.answer = lambda _: 500
    assert cli.run("webhook", "test", made["id"]).returncode == 1
    receiver.answer = lambda _: 200
    log = cli.json("webhook", "log", made["id"])
    assert {one["kind"] for one in log} == {"webhook.test"}
    assert cli.json("webhook", "secret", made["id"])[0]["secret"] != made["secret"]
    assert cli.json("webhook", "pause", made["id"])[0]["paused"]
    assert "paused" in cli.run("webhook", "show", made["id"]).stdout
    assert not cli.json("webhook", "resume", made["id"])[0]["paused"]
    cli.json("webhook", "rm", made["id"])
    assert cli.json("webhook", "show", made["id"], code=5)["code"] == "NotFound"


def test_on_the_pages(told_registry: Registry, receivers: list[Receiver]) -> None:
    receiver, repo = receivers[0], repository(told_registry)
    receiver.answer = lambda _: 200
    with logged_in(told_registry, told_registry.token) as browser:
        form = {"csrf": csrf(browser, "/webhooks"), "url": receiver.url, "watched": repo, "kinds": "alias.*"}
        made = browser.post("/webhooks", data=form)
        assert made.status_code == 200, made.text
        assert re.search(r"whsec_[A-Za-z0-9+/=]{32}", made.text)
        [webhook] = re.findall(r'href="/webhooks/(\w{24})"', made.text)
        path = f"/webhooks/{webhook}"

        def press(act: str, **fields: str) -> str:
            answer = browser.post(path, data={"csrf": csrf(browser, path), "act": act, **fields})
            assert answer.status_code in (200, 303), answer.text
            return str(answer.text)

        press("test")
        eventually(lambda: "200 after" in browser.get(path, headers={"Accept": "text/html"}).text, 20)
        press("replay", message=str(call(told_registry, "GET", f"/api/lorahub/v1{path}/deliveries")[0]["id"]))
        assert "whsec_" in press("secret")
        assert "whsec_" not in browser.get(path, headers={"Accept": "text/html"}).text
        press("pause")
        assert "It is paused" in browser.get(path, headers={"Accept": "text/html"}).text
        press("remove")
        assert browser.get(path).status_code == 404


@pytest.fixture
def relay(told_registry: Registry, receivers: list[Receiver]) -> Iterator[tuple[Receiver, str]]:
    """The example, before what stands for GitHub; and its webhook."""
    github, port = receivers[1], receivers[0].port
    receivers[0].__exit__()  # the relay stands where the registry may call
    github.told.clear()
    github.answer = lambda _: 204
    url = f"http://127.0.0.1:{port}/"
    watched = [{"type": "base", "name": "acme/moved"}]
    body = {"url": url, "watched": watched, "kinds": ["base.registered"]}
    webhook = call(told_registry, "POST", "/api/lorahub/v1/webhooks", body)
    environment = {
        **os.environ,
        "WEBHOOK_SECRET": webhook["secret"],
        "GITHUB_TOKEN": "github_pat_example",
        "GITHUB_REPOSITORY": "acme/adapters",
        "GITHUB_API_URL": f"http://127.0.0.1:{github.port}",
    }
    process = subprocess.Popen([sys.executable, str(RELAY), str(port)], env=environment, stderr=subprocess.DEVNULL)
    yield github, url
    process.kill()
    process.wait()
    receivers[0].__enter__()


def test_a_base_that_moves_starts_a_run(told_registry: Registry, relay: tuple[Receiver, str]) -> None:
    import httpx2

    github, url = relay
    layout = f"lorahub-base-layout-v1\nmodel.embed_tokens.weight\tF32\t{free_port()},4\n"
    body = {"names": ["acme/moved"], "revision": "r2", "layout": layout}
    call(told_registry, "POST", "/api/lorahub/v1/organisations", {"name": "acme"})
    call(told_registry, "POST", "/api/lorahub/v1/bases", body)
    eventually(lambda: len(github.told) == 1, 30)
    asked = json.loads(github.told[0].body)
    assert asked["event_type"] == "lorahub.base.registered"
    assert (asked["client_payload"]["name"], asked["client_payload"]["data"]["revision"]) == ("acme/moved", "r2")
    assert github.told[0].headers["authorization"] == "Bearer github_pat_example"
    forged = httpx2.post(url, json={"type": "base.registered", "data": {}}, headers={"webhook-timestamp": "1"})
    assert forged.status_code == 401
    assert len(github.told) == 1
