"""A form is taken from a page of ours and from nobody else, and leaves one row in the audit log."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import lorahub
import pytest
from pages.conftest import Catalog, csrf, logged_in

FORMS = [
    ("/tokens", {"name": "made by a form", "scope": "read", "days": "7"}, "token.create"),
    ("/organizations", {"name": "forms-org"}, "organisation.create"),
    ("/organizations/pages-org/members", {"user": "pages-stranger", "role": "read"}, "organisation.member"),
    ("/organizations/pages-org/members/remove", {"user": "pages-stranger"}, "organisation.member"),
    ("/new", {"namespace": "pages-owner", "name": "made-by-a-form", "visibility": "private"}, "repository.create"),
    ("/pages-org/poet/settings", {"visibility": "public", "gated": "manual"}, "repository.settings"),
    ("/pages-org/poet/settings", {"visibility": "public", "gated": ""}, "repository.settings"),
    ("/pages-org/poet/settings/policy", {"policy": "warn"}, "repository.check_policy"),
    ("/pages-org/poet/versions/alias", {"alias": "champion", "version": "v1"}, "alias.create"),
    ("/pages-org/poet/versions/yank", {"version": "v1", "reason": "it rhymes"}, "version.yank"),
    ("/pages-org/poet/versions/yank", {"version": "v1", "undo": "1"}, "version.unyank"),
    ("/pages-org/poet/settings/move", {"to": "pages-org/bard"}, "repository.move"),
    ("/pages-org/bard/settings/move", {"to": "pages-org/poet"}, "repository.move"),
]
OF_ADMINISTRATORS = [
    ("/admin/users/disable", {"name": "pages-stranger"}, "user.disable"),
    ("/admin/users/disable", {"name": "pages-stranger", "undo": "1"}, "user.enable"),
    ("/admin/quarantine", {"name": "pages-org/poet", "reason": "a complaint"}, "repository.quarantine"),
    ("/admin/quarantine/release", {"name": "pages-org/poet"}, "repository.release"),
]


def audit(catalog: Catalog) -> list[str]:
    return [str(action) for (action,) in catalog.registry.sql("SELECT action FROM audit_events ORDER BY id")]


def send(client: httpx2.Client, path: str, fields: dict[str, str], **changed: Any) -> httpx2.Response:
    fields = {"csrf": csrf(client, "/tokens"), **fields}
    return client.post(path, data=fields, **changed)


def said_at(client: httpx2.Client, answer: httpx2.Response) -> str:
    """What the page that a form leads to says was done: once."""
    first, second = (client.get(answer.headers["Location"], headers={"Accept": "text/html"}).text for _ in range(2))
    [said] = re.findall(r'<p class="note good" role="status">([^<]+)</p>', first)
    assert str(said) not in second
    return str(said)


def test_a_notice_says_nothing_that_somebody_else_wrote(as_owner: httpx2.Client) -> None:
    for value in (
        "published%20%3Cb%3E",
        "published%20call%20555-1234",
        "nothing%20v1",
        "published",
        "%00",
        "saved%20x",
    ):
        page = as_owner.get("/search", headers={"Accept": "text/html", "Cookie": f"lorahub_done={value}"}).text
        assert "<b>" not in page
        assert "555" not in page
        assert ("Saved." in page) == value.startswith("saved")


def test_each_form_does_one_thing_and_says_so(catalog: Catalog, as_owner: httpx2.Client) -> None:
    for path, fields, action in FORMS:
        before = audit(catalog)
        answer = send(as_owner, path, fields)
        assert answer.status_code in (200, 303), f"{path}: {answer.text}"
        assert audit(catalog)[len(before) :] == [action], path
        assert path in ("/tokens", "/new") or said_at(as_owner, answer), f"{path} leads to a page that doesn't say so"


def test_administrators_forms_serve_administrators(catalog: Catalog, as_owner: httpx2.Client) -> None:
    with logged_in(catalog.registry, catalog.registry.token) as admin:
        for path, fields, action in OF_ADMINISTRATORS:
            assert send(as_owner, path, fields).status_code == 403, path
            before = audit(catalog)
            answer = send(admin, path, fields)
            assert answer.status_code == 303, path
            assert said_at(admin, answer)
            assert audit(catalog)[len(before) :] == [action], path


def test_a_stranger_changes_nothing_by_a_form(catalog: Catalog, as_stranger: httpx2.Client) -> None:
    before = audit(catalog)
    for path, fields, _ in [*FORMS[2:-1], *OF_ADMINISTRATORS]:
        assert send(as_stranger, path, fields).status_code in (403, 404), path
    assert audit(catalog) == before


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({"csrf": ""}, {}),
        ({"csrf": "0" * 40}, {}),
        ({}, {"Origin": "https://evil.test"}),
        ({}, {"Origin": "null"}),
        ({}, {"Origin": ""}),
    ],
    ids=["no secret", "another secret", "another origin", "an opaque origin", "no origin"],
)
def test_a_form_of_somebody_elses_page_is_refused(
    catalog: Catalog, as_owner: httpx2.Client, fields: dict[str, str], headers: dict[str, str]
) -> None:
    before = audit(catalog)
    answer = send(as_owner, "/tokens", {"name": "stolen", "scope": "admin", "days": "", **fields}, headers=headers)
    assert answer.status_code == 403
    assert audit(catalog) == before


def test_the_login_form_is_bound_to_its_browser(catalog: Catalog) -> None:
    headers = {"Accept": "text/html", "Origin": catalog.url}
    with httpx2.Client(base_url=catalog.url, headers=headers) as mine, httpx2.Client(base_url=catalog.url) as other:
        fields = {"csrf": csrf(other, "/login"), "token": catalog.owner, "next": "/"}
        mine.get("/login")
        assert mine.post("/login", data=fields).status_code == 403
        assert "lorahub_session" not in mine.cookies


def test_a_session_is_over_when_it_is_said_so(catalog: Catalog) -> None:
    with logged_in(catalog.registry, catalog.owner) as client:
        stolen = client.cookies["lorahub_session"]
        client.post("/logout", data={"csrf": csrf(client, "/tokens")})
    with httpx2.Client(base_url=catalog.url, cookies={"lorahub_session": stolen}) as thief:
        assert thief.get("/settings.json").status_code == 401
        assert thief.get(f"/{catalog.private}").status_code == 404


def test_a_session_is_over_with_its_token(catalog: Catalog) -> None:
    with catalog.registry.client(catalog.owner) as api:
        made = api.post("/api/lorahub/v1/tokens", json={"name": "short", "scope": "admin"}).json()
        with logged_in(catalog.registry, made["token"]) as client:
            assert client.get("/settings.json").status_code == 200
            api.delete(f"/api/lorahub/v1/tokens/{made['id']}")
            assert client.get("/settings.json").status_code == 401


def test_a_session_is_over_after_its_time(catalog: Catalog) -> None:
    with logged_in(catalog.registry, catalog.stranger) as client:
        assert client.get("/settings.json").status_code == 200
        catalog_of = "SELECT t.id FROM tokens t JOIN accounts a ON a.id = t.account_id WHERE a.name = 'pages-stranger'"
        with catalog.registry.database() as database:
            database.exec_driver_sql(
                f"UPDATE web_sessions SET expires_at = '2020-01-01 00:00:00' WHERE token_id IN ({catalog_of})"
            )
        assert client.get("/settings.json").status_code == 401


def test_a_session_opens_files_and_nothing_else_of_the_api(catalog: Catalog, as_owner: httpx2.Client) -> None:
    assert as_owner.get(f"/{catalog.private}/resolve/main/README.md").status_code == 200
    assert as_owner.get(f"/api/models/{catalog.private}").status_code == 404
    answer = as_owner.post("/api/repos/create", json={"name": "by-cookie"})
    assert answer.status_code == 401


def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(catalog: Catalog) -> None:
    with httpx2.Client(base_url=catalog.url, headers={"Origin": catalog.url}) as client:
        fields = {"csrf": csrf(client, "/login"), "token": catalog.owner, "next": "/"}
        answer = client.post("/login", data=fields)
    cookie = next(one for one in answer.headers.get_list("set-cookie") if one.startswith("lorahub_session="))
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert re.search(r"lorahub_session=[\w-]{43};", cookie)
    (kept,) = catalog.registry.sql("SELECT count(*) FROM web_sessions WHERE sha256 = :it", it=cookie[16:59])[0]
    assert kept == 0  # the cookie itself is nowhere


@pytest.mark.parametrize("next_", ["//evil.test", "https://evil.test", "/\\evil.test", "javascript:alert(1)", "/\nx"])
def test_a_login_leads_to_no_other_site(catalog: Catalog, next_: str) -> None:
    with httpx2.Client(base_url=catalog.url, headers={"Origin": catalog.url}) as client:
        fields = {"csrf": csrf(client, "/login"), "token": catalog.owner, "next": next_}
        assert client.post("/login", data=fields).headers["Location"] == "/"


def test_an_adapter_is_deleted_by_its_whole_name_only(
    catalog: Catalog, as_owner: httpx2.Client, write_folder: Callable[[str], Path]
) -> None:
    name = "pages-owner/to-delete"
    with lorahub.Hub(catalog.url, token=catalog.owner) as hub:
        hub.push(write_folder("---\nlicense: mit\n---\n"), name)
    assert send(as_owner, f"/{name}/settings/delete", {"name": "to-delete"}).status_code == 400
    assert as_owner.get(f"/{name}").status_code == 200
    assert send(as_owner, f"/{name}/settings/delete", {"name": name}).headers["Location"] == "/pages-owner"
    assert as_owner.get(f"/{name}").status_code == 404
