"""The feed: every change is in it, in order, and nothing is skipped or seen by whoever may not."""

import itertools
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import wire
from in_process import OWNER, App, running
from lorahub.protocol.names import RepositoryName
from lorahub_registry.core.accounts import service as accounts
from lorahub_registry.core.accounts.permissions import OPERATOR
from lorahub_registry.core.events import service as events
from lorahub_registry.core.repositories import service as repositories
from lorahub_registry.infrastructure.database import now
from publishing.test_statements import counted
from services import production

EVENTS = "/api/lorahub/v1/events"
MODELS = "/api/lorahub/v1/models"
_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    url = {"database_url": production.postgres().new_database()} if request.param == "postgres" else {}
    with running(tmp_path_factory.mktemp(request.param), event_readers=8, **url) as started:
        yield started


@pytest.fixture
def start(app: App) -> int:
    return int(app.client.get(EVENTS).json()["next"])


def ask(app: App, token: str | None = None, **query: Any) -> dict[str, Any]:
    """As the owner, or as whoever has the token."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return dict(wire.require(app.client.get(EVENTS, params=query, headers=headers)).json())


def kinds_of(page: dict[str, Any]) -> list[str]:
    return [event["kind"] for event in page["events"]]


def account(app: App, name: str) -> str:
    made = accounts.add_user(app.backend, name, by="test")
    return accounts.issue_token(app.backend, made.id, by="test", name="test", scope="admin")[0]


def repository(app: App, *, private: bool = False) -> str:
    return wire.create_repo(app.client, f"{OWNER}/fed-{next(_numbers)}", private=private)


def repository_id(app: App, name: str) -> int:
    with app.backend.database.read() as session:
        return repositories.visible(session, OPERATOR, RepositoryName.parse(name)).id


def published(app: App, repo: str, content: bytes = b"x") -> None:
    version = {"key": "version", "value": {"name": None, "aliases": ["latest"]}}
    wire.require(wire.commit(app.client, repo, [wire.inline("f.txt", content), version]))


# --- what is in it ----------------------------------------------------------------------------------------------------


def test_every_change_of_a_repository_is_there_in_order(app: App, start: int) -> None:
    repo = repository(app)
    published(app, repo)
    call = app.client.request
    call("PUT", f"{MODELS}/{repo}/aliases/champion", json={"revision": "v1"})
    call("POST", f"{MODELS}/{repo}/versions/v1/yank", json={"reason": "overfit"})
    call("DELETE", f"{MODELS}/{repo}/versions/v1/yank")
    call("PUT", f"/api/models/{repo}/settings", json={"private": True})
    call("POST", "/api/repos/move", json={"fromRepo": repo, "toRepo": f"{repo}-new"})
    call("DELETE", "/api/repos/delete", json={"name": f"{repo}-new".split("/")[1], "organization": OWNER})
    page = ask(app, after=start)
    assert kinds_of(page) == [
        "repository.created", "branch.moved", "branch.moved", "version.published", "alias.moved", "alias.moved",
        "version.yanked", "alias.moved", "version.unyanked", "alias.moved", "repository.changed",
        "repository.renamed", "repository.deleted",
    ]  # fmt: skip
    numbers = [event["number"] for event in page["events"]]
    assert numbers == list(range(start + 1, start + 14)), "numbered without a gap"
    assert page["next"] == numbers[-1]
    by_kind = {event["kind"]: event for event in page["events"]}
    assert by_kind["version.yanked"]["data"]["reason"] == "overfit"
    assert by_kind["repository.renamed"]["name"] == f"{repo}-new"
    assert by_kind["repository.renamed"]["data"] == {"from": repo}
    assert len({event["repository"] for event in page["events"]}) == 1, "one id, whatever it was called"
    assert {event["by"] for event in page["events"]} == {OWNER}


def test_a_page_at_a_time_leads_through_all_of_it(app: App, start: int) -> None:
    repository(app), repository(app)
    seen, after = [], start
    while (page := ask(app, after=after, limit=3))["events"]:
        seen += page["events"]
        after = page["next"]
    assert [event["number"] for event in seen] == list(range(start + 1, start + 5))


def test_kinds_and_repositories_are_chosen(app: App, start: int) -> None:
    repo, other = repository(app), repository(app)
    assert kinds_of(ask(app, after=start, kinds="repository.*", repository=repo)) == ["repository.created"]
    assert {event["name"] for event in ask(app, after=start, repository=other.upper())["events"]} == {other}
    wire.require(app.client.post("/api/repos/move", json={"fromRepo": repo, "toRepo": f"{repo}-new"}))
    assert len(ask(app, after=start, repository=f"{repo}-new")["events"]) == 3, "under its new name, the old ones too"
    unknown = app.client.get(EVENTS, params={"kinds": "alias.shaken"})
    assert (unknown.status_code, unknown.headers["x-error-code"]) == (400, "InvalidInput")


def test_a_change_that_is_undone_is_no_event(app: App, start: int) -> None:
    repo = repository(app)
    number = repository_id(app, repo)

    def fail() -> None:
        with app.backend.database.write() as session:
            events.happened(session, "repository.changed", number, {}, by=OWNER)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "repository.changed" not in kinds_of(ask(app, after=start))


# --- who sees it ------------------------------------------------------------------------------------------------------


def test_only_what_the_reader_may_see_at_the_moment_of_reading(app: App, start: int) -> None:
    stranger = account(app, f"stranger{next(_numbers)}")
    hidden, shown = repository(app, private=True), repository(app)
    assert {event["name"] for event in ask(app, stranger, after=start)["events"]} == {shown}
    call = app.client.put
    wire.require(call(f"/api/models/{hidden}/settings", json={"private": False}))
    assert hidden in {event["name"] for event in ask(app, stranger, after=start)["events"]}
    wire.require(call(f"/api/models/{hidden}/settings", json={"private": True}))
    assert hidden not in {event["name"] for event in ask(app, stranger, after=start)["events"]}
    assert ask(app, stranger, after=start, repository=hidden)["events"] == []


def test_of_what_is_gone_strangers_hear_only_that(app: App, start: int) -> None:
    stranger = account(app, f"stranger{next(_numbers)}")
    hidden, shown = repository(app, private=True), repository(app)
    for repo in (hidden, shown):
        body = {"name": repo.split("/")[1], "organization": OWNER}
        wire.require(app.client.request("DELETE", "/api/repos/delete", json=body))
    told = ask(app, stranger, after=start)["events"]
    assert [(event["kind"], event["name"]) for event in told] == [("repository.deleted", shown)]
    assert kinds_of(ask(app, after=start)).count("repository.deleted") == 2


def test_who_asks_for_access_is_told_to_managers_and_to_himself(app: App, start: int) -> None:
    name = f"asker{next(_numbers)}"
    asker, other = account(app, name), account(app, f"other{next(_numbers)}")
    repo = repository(app)
    wire.require(app.client.put(f"/api/models/{repo}/settings", json={"gated": "manual"}))
    headers = {"Authorization": f"Bearer {asker}"}
    wire.require(app.client.post(f"/api/models/{repo}/ask-access", headers=headers))
    body = {"user": name, "status": "accepted"}
    wire.require(app.client.post(f"/api/models/{repo}/user-access-request/handle", json=body))
    asked = {"after": start, "kinds": "access.*"}
    assert kinds_of(ask(app, **asked)) == kinds_of(ask(app, asker, **asked)) == ["access.asked", "access.decided"]
    assert ask(app, other, **asked)["events"] == []


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("app", ["postgres"], indirect=True)
def test_a_change_that_commits_later_gets_a_larger_number(app: App, start: int) -> None:
    """Whatever was written first: a reader who has seen the other's number still sees this one."""
    slow, quick = (repository_id(app, repository(app)) for _ in range(2))
    after = ask(app, after=start)["next"]
    with app.backend.database.write() as session:
        events.happened(session, "repository.changed", slow, {"private": False}, by="slow")
        session.flush()
        with app.backend.database.write() as other:
            events.happened(other, "repository.changed", quick, {"private": False}, by="quick")
        seen = ask(app, after=after)
        assert [event["by"] for event in seen["events"]] == ["quick"]
    later = ask(app, after=seen["next"])
    assert [event["by"] for event in later["events"]] == ["slow"]


def test_readers_beside_writers_see_all_in_order_and_nothing_twice(app: App, start: int) -> None:
    """8 writers of 4 repositories, who hold their transactions open for odd times, and readers who follow them."""
    repositories = [repository_id(app, repository(app)) for _ in range(4)]
    after = ask(app, after=start)["next"]
    turns = {one: threading.Lock() for one in repositories}
    counts, total = dict.fromkeys(repositories, 0), 160

    def write(number: int) -> None:
        one = repositories[number % 4]
        with app.backend.database.write() as session, turns[one]:  # as a repository's row does for real changes
            events.happened(session, "repository.changed", one, {"turn": counts[one]}, by=str(one))
            counts[one] += 1
            session.flush()
            session.commit()
            time.sleep(0.001 * (number % 7))

    def follow() -> list[dict[str, Any]]:
        seen: list[dict[str, Any]] = []
        at = after
        while len(seen) < total:
            page = ask(app, after=at, limit=7, wait=0)
            seen += page["events"]
            at = page["next"]
        return seen

    with ThreadPoolExecutor(12) as pool:
        readers = [pool.submit(follow) for _ in range(2)]
        list(pool.map(write, range(total)))
        followed = [reader.result(timeout=60) for reader in readers]
    for seen in followed:
        assert [event["number"] for event in seen] == list(range(after + 1, after + total + 1))
        for one in repositories:
            turns_of_one = [event["data"]["turn"] for event in seen if event["by"] == str(one)]
            assert turns_of_one == list(range(total // 4))


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_who_waits_is_told_when_it_happens(app: App, start: int) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, app, after=start, wait=30)
        time.sleep(0.5)
        assert not waiting.done()
        begun = time.monotonic()
        repository(app)
        assert kinds_of(waiting.result(timeout=20))[0] == "repository.created"
        assert time.monotonic() - begun < 10


def test_waiting_asks_the_database_nothing(app: App, start: int) -> None:
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(ask, app, after=start, wait=2.5) for _ in range(2)]
        time.sleep(1)
        with counted(app) as statements:
            time.sleep(1.5)
        assert [one.result()["events"] for one in waiting] == [[], []]
    assert [one for one in statements if "LISTEN" not in one] == []


def test_too_many_who_wait_are_refused(app: App, start: int) -> None:
    """A quarter of all places are one caller's."""
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(ask, app, after=start, wait=2) for _ in range(2)]
        time.sleep(0.5)
        refused = app.client.get(EVENTS, params={"after": start, "wait": 2})
        assert (refused.status_code, refused.headers["x-error-code"], refused.headers["retry-after"]) == (
            503,
            "Busy",
            "5",
        )
        assert app.client.get(EVENTS, params={"after": start}).is_success, "without `wait` it is answered"
        assert all(one.result()["next"] == start for one in waiting)


def test_a_stream_says_each_event_once_and_goes_on_after_the_last(app: App, start: int) -> None:
    repo = repository(app)
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(start)}
    app.client.app.state.is_stopping = True  # type: ignore[attr-defined]  # the stream ends after what there is
    try:
        answer = app.client.get(EVENTS, headers=headers)
    finally:
        app.client.app.state.is_stopping = False  # type: ignore[attr-defined]
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in answer.text.split("\n\n") if block]
    assert [block.get("event") for block in blocks] == ["repository.created", "branch.moved", None]
    assert json.loads(blocks[0]["data"])["name"] == repo
    assert [int(block["id"]) for block in blocks] == [start + 1, start + 2, start + 2]


# --- forgetting -------------------------------------------------------------------------------------------------------


def test_who_has_missed_what_is_forgotten_is_told(app: App, start: int) -> None:
    repository(app)
    assert ask(app, after=start)["events"]
    with app.backend.database.read() as session:
        kept_before = session.connection().exec_driver_sql("SELECT count(*) FROM events").scalar_one()
    assert events.forget(app.backend, now() + timedelta(seconds=1)) == kept_before
    last = ask(app)["next"]
    missed = app.client.get(EVENTS, params={"after": start})
    assert (missed.status_code, missed.headers["x-error-code"]) == (410, "EventsForgotten")
    assert missed.json()["facts"] == {"oldest": last}
    repository(app)
    assert kinds_of(ask(app, after=last))[0] == "repository.created", "numbers go on"
    assert ask(app, after=0)["events"], "whoever begins has missed nothing"
    beyond = app.client.get(EVENTS, params={"after": last + 1000})
    assert (beyond.status_code, beyond.headers["x-error-code"]) == (400, "InvalidInput")
