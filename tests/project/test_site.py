"""The documents' site: built strictly, whole, reachable, made of the code, and served by the registry."""

import html
import json
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import click
import lorahub
import pytest
from cli.test_commands import every_command
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lorahub.adapters.rules import RULES
from lorahub.errors import all_errors
from lorahub.protocol.client_settings import SETTINGS
from lorahub_registry.infrastructure.web import documents, problems
from lorahub_registry.settings import Settings

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("site")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents") / "site"
    subprocess.run([sys.executable, ROOT / "docs/build.py", folder], check=True)
    return folder


def links(page: Path) -> Iterator[tuple[str, str]]:
    """What a page leads to and loads, without what is elsewhere: (file, anchor)."""
    for address in re.findall(r'(?:href|src)="([^"]*)"', page.read_text()):
        path, _, anchor = html.unescape(address).partition("#")
        if not re.match(r"[a-z]+:", path) and not path.startswith("data:"):
            place = page.parent / urllib.parse.unquote(path) if path else page
            place = (place / "index.html" if place.is_dir() else place).resolve()
            yield str(place), urllib.parse.unquote(anchor)


def test_every_page_is_reached_from_the_first_and_every_link_leads_somewhere(site: Path) -> None:
    seen, coming = set[str](), [str((site / "index.html").resolve())]
    anchors: dict[str, set[str]] = {}
    while coming:
        place = coming.pop()
        if place in seen:
            continue
        seen.add(place)
        assert Path(place).is_file()
        if place.endswith(".html"):
            for leads_to, anchor in links(Path(place)):
                coming.append(leads_to)
                if anchor and anchor != "__skip" and leads_to.endswith(".html"):
                    anchors.setdefault(leads_to, set()).add(anchor)
    pages = {str(page.resolve()) for page in site.rglob("*.html")} - {str((site / "404.html").resolve())}
    assert pages - seen == set()
    for place, wanted in anchors.items():
        assert wanted - set(re.findall(r'id="([^"]*)"', Path(place).read_text())) == set(), place


def test_pages_run_no_script_of_their_own_and_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert re.findall(r"<script(?![^>]*(?:src=|application/json))", text) == []
        assert re.findall(r'<(?:style|[a-z]+[^>]* style=")', text) == []
        assert re.findall(r'(?:src|<link[^>]* href)="(?:https?:)?//[^"]*', text) == []


def words(site: Path, page: str) -> str:
    text = (site / page / "index.html").read_text()
    return html.unescape(re.sub(r"<[^>]+>", "", text))


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    said = words(site, "commands")
    for path, command in every_command().items():
        assert f"lorahub {path}" in said
        shown = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
        assert [name for one in shown for name in (*one.opts, *one.secondary_opts) if name not in said] == [], path


def test_every_setting_error_and_rule_is_in_the_reference(site: Path) -> None:
    said = words(site, "settings") + words(site, "settings-client")
    assert [name for name in Settings.model_fields if f"LORAHUB_{name.upper()}" not in said] == []
    assert [name for name in SETTINGS if name not in said] == []
    assert [error.code for error in all_errors() if error.code not in words(site, "errors")] == []
    assert [rule for rule in RULES if rule not in words(site, f"rules/{rule}")] == []


def test_every_operation_is_in_the_reference(site: Path) -> None:
    said = words(site, "http-api")
    described = json.loads((ROOT / "docs/openapi.json").read_text())
    for path, methods in described["paths"].items():
        assert all(f"{method.upper()} {path}" in said for method in methods)
    assert [name for name in described["components"]["schemas"] if name not in said] == []


@pytest.mark.torch
def test_every_public_name_is_in_the_reference(site: Path) -> None:
    said = words(site, "sdk")
    for name in lorahub.__all__:
        assert name in said
        found = getattr(lorahub, name)
        if isinstance(found, type) and not issubclass(found, Exception):
            methods = [one for one in dir(found) if not one.startswith("_") and callable(getattr(found, one))]
            assert [one for one in methods if f"{name}.{one}" not in said] == []


def served(folder: Path) -> TestClient:
    app = FastAPI(docs_url=None, redirect_slashes=False)
    problems.install(app)
    app.include_router(documents.routes_of(documents.Site(folder)))
    return TestClient(app, follow_redirects=False)


def test_the_registry_serves_it_and_nothing_beside_it(site: Path) -> None:
    (site.parent / "secret").write_text("not yours")
    client = served(site)
    assert client.get("/docs").headers["location"] == "docs/"
    assert client.get("/docs/commands").headers["location"] == "commands/"
    page = client.get("/docs/commands/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self';" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "public, no-cache"
    again = client.get("/docs/commands/", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    [bundle] = re.findall(r"assets/javascripts/bundle\.[^\"]*", page.text)
    assert "immutable" in client.get(f"/docs/{bundle}").headers["cache-control"]
    elsewhere = ("../secret", "%2e%2e/secret", "..%2fsecret", "assets/%2e%2e/%2e%2e/secret", "/etc/passwd", "x", "x/")
    for address in elsewhere:
        refused = client.get(f"/docs/{address}")
        assert refused.status_code == 404
        assert "not yours" not in refused.text


def test_a_registry_without_it_says_how_to_build_it(tmp_path: Path) -> None:
    answer = served(tmp_path / "nowhere").get("/docs/")
    assert answer.status_code == 404
    assert answer.json()["error"] == "this registry was installed without its documents"
    assert answer.json()["hint"] == "`make site` builds them in"
