"""Commits of many small files: what they cost, what is refused before anything is kept, and what a crash leaves."""

import json
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest
import wire
from in_process import OWNER, App, running
from lorahub_registry.infrastructure.database.tables import CommitFile
from pace import pace
from registry_process import Registry
from sqlalchemy import event

MOST_CPU_MS = 5  # of the registry, for each file of a commit
_numbers = iter(range(1_000_000))


def texts(count: int) -> dict[str, bytes]:
    """Small files that no registry has."""
    start = next(_numbers)
    return {f"d{number % 7}/f{number}.txt": b"small %d of %d" % (number, start) for number in range(count)}


def lines(files: dict[str, bytes]) -> list[dict[str, object]]:
    return [wire.inline(path, content) for path, content in files.items()]


class Acts:
    """Calls of the storage by name, and statements to the database."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self.statements = 0


@contextmanager
def counted(app: App) -> Iterator[Acts]:
    acts = Acts()

    def hear(*_: object) -> None:
        acts.statements += 1

    counting: CountingStore = app.backend.blobs  # type: ignore[assignment]
    counting.calls = acts.calls
    event.listen(app.backend.database.engine, "before_cursor_execute", hear)
    yield acts
    event.remove(app.backend.database.engine, "before_cursor_execute", hear)
    counting.calls = {}


class CountingStore:
    """The storage behind it."""

    def __init__(self, store: object) -> None:
        self._store = store
        self.calls: dict[str, int] = {}

    def __getattr__(self, name: str) -> object:
        self.calls[name] = self.calls.get(name, 0) + 1
        return getattr(self._store, name)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with running(tmp_path_factory.mktemp("counted"), around=CountingStore) as started:  # type: ignore[arg-type]
        yield started


def test_a_commit_asks_database_and_storage_as_often_for_400_files_as_for_4(app: App) -> None:
    asked = {}
    for count in (4, 400):
        repo = wire.create_repo(app.client, f"{OWNER}/counted{count}")
        files = texts(count)
        with counted(app) as acts:
            wire.require(wire.commit(app.client, repo, lines(files)))
        asked[count] = acts
        assert len(wire.files(app.client, repo)) == count + 1
    assert asked[400].calls == asked[4].calls
    assert asked[400].calls["write_all"] == 1
    assert asked[400].statements <= asked[4].statements + 3


def test_asking_how_to_send_files_costs_as_much_beside_many_as_beside_few(app: App) -> None:
    repo = wire.create_repo(app.client, f"{OWNER}/asked")
    files = texts(600)
    wire.require(wire.commit(app.client, repo, lines(files)))
    body = {"files": [{"path": path, "size": len(content)} for path, content in [*files.items()][:5]]}
    fetched = 0

    def hear(*_: object) -> None:
        nonlocal fetched
        fetched += 1

    event.listen(CommitFile, "load", hear)
    answer = app.client.post(f"/api/models/{repo}/preupload/main", json=body).json()["files"]
    event.remove(CommitFile, "load", hear)
    assert fetched <= 6, "files that were not asked for were read"
    assert [one["path"] for one in answer] == [one["path"] for one in body["files"]]
    assert all(len(one["oid"]) == 40 for one in answer)


def test_a_commit_of_many_small_files_is_whole_and_cheap(own_registry: Registry) -> None:
    files = texts(1500)
    twin = dict.fromkeys(["twin/a.txt", "twin/b.txt"], b"the same bytes twice")
    assert own_registry.process is not None
    process = psutil.Process(own_registry.process.pid)
    with own_registry.client() as client:
        repo = wire.create_repo(client, "owner/many")
        wire.require(wire.commit(client, repo, lines(texts(50))))  # whatever is imported when it is first needed
        before = process.cpu_times()
        wire.require(wire.commit(client, repo, [*lines(files), *lines(twin)]))
        after = process.cpu_times()
        found = wire.files(client, repo)
        for path in [*files][::150]:
            assert client.get(f"/{repo}/resolve/main/{path}").content == files[path]
    assert {path: found[path] for path in [*files, *twin]} == {
        path: wire.sha256(content) for path, content in {**files, **twin}.items()
    }
    spent = (after.user + after.system - before.user - before.system) / pace()
    assert 1000 * spent / len(files) <= MOST_CPU_MS
    assert own_registry.sql("SELECT count(*) FROM uploads") == [(0,)], "a lease was left"
    own_registry.assert_sound()


def test_a_commit_of_more_than_one_sync_is_whole(own_registry: Registry) -> None:
    """17 MiB of files are kept in three goes; those that are there already in none."""
    dice = random.Random(5)
    files = {f"f{number}.bin": dice.randbytes(1 << 20) for number in range(17)}
    with own_registry.client() as client:
        repo = wire.create_repo(client, "owner/large")
        wire.require(wire.commit(client, repo, lines(files)))
        assert wire.files(client, repo).items() >= {path: wire.sha256(files[path]) for path in files}.items()
        kept = len(own_registry.objects.list())
        wire.require(wire.commit(client, repo, [wire.inline("again.bin", files["f3.bin"])]))
    assert len(own_registry.objects.list()) == kept
    own_registry.assert_sound()


# --- refused before anything is kept ----------------------------------------------------------------------------------


def test_a_body_of_too_many_files_is_refused_at_the_first_that_is(tmp_path: Path) -> None:
    """The rest of it needn't be sent, and never is here."""
    registry = Registry(tmp_path / "home", {"LORAHUB_COMMIT_OPERATIONS": "20"}).start()
    try:
        with registry.client() as client:
            repo = wire.create_repo(client, "owner/refused")
            here = registry.objects.list()
            allowed = [
                {"key": "header", "value": {"summary": "all new", "description": ""}},
                {"key": "deletedFolder", "value": {"path": ""}},
                *lines(texts(20)),
                wire.version("latest"),
            ]
            status = half_sent(registry, repo, [*allowed, wire.inline("more.txt", b"more")])
            assert status == 413
            assert registry.objects.list() == here
            assert registry.sql("SELECT count(*) FROM uploads") == [(0,)]
            assert half_sent(registry, repo, allowed, rest=b"") == 200
            assert len(wire.files(client, repo)) == 20
    finally:
        registry.kill()


def half_sent(registry: Registry, repo: str, said: list[dict[str, object]], rest: bytes | None = None) -> int:
    """The status of the answer to a body of which a megabyte is promised and never comes, unless it is `rest`."""
    body = b"".join(json.dumps(line).encode() + b"\n" for line in said)
    size = len(body) + (1 << 20 if rest is None else len(rest))
    head = (
        f"POST /api/models/{repo}/commit/main HTTP/1.1\r\nHost: {urlsplit(registry.url).netloc}\r\n"
        f"Authorization: Bearer {registry.token}\r\nContent-Type: application/x-ndjson\r\n"
        f"Content-Length: {size}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", registry.port), timeout=40) as connection:
        connection.sendall(head.encode() + body + b" " * (0 if rest is None else len(rest)))
        return int(connection.recv(4096).split()[1])


def test_a_refused_tree_keeps_none_of_its_files(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "home", {"LORAHUB_REVISION_FILES": "30"}).start()
    try:
        with registry.client() as client:
            repo = wire.create_repo(client, "owner/full")
            wire.require(wire.commit(client, repo, lines(texts(20))))
            head, here = wire.head(client, repo), registry.objects.list()
            refused = [
                lines({f"more/{path}": content for path, content in texts(15).items()}),
                [*lines(texts(3)), wire.inline("d0", b"a file where a folder is")],
                [*lines(texts(3)), {"key": "deletedFile", "value": {"path": "nothing"}}],
                [*lines(texts(3)), wire.uploaded("w.safetensors", b"never sent")],
            ]
            statuses = [wire.commit(client, repo, each).status_code for each in refused]
            assert statuses == [400, 422, 404, 400]
            assert wire.commit(client, repo, lines(texts(3)), parent="0" * 40).status_code == 412
            assert (wire.head(client, repo), registry.objects.list()) == (head, here)
            assert registry.sql("SELECT count(*) FROM uploads") == [(0,)]
            wire.require(wire.commit(client, repo, lines({f"more/{path}": each for path, each in texts(10).items()})))
            assert len(wire.files(client, repo)) == 31, "30, and the .gitattributes that a repository begins with"
        registry.assert_sound()
    finally:
        registry.kill()


def test_blocked_bytes_are_refused_among_others(own_registry: Registry) -> None:
    blocked = b"these bytes were blocked"
    with own_registry.client() as client:
        repo = wire.create_repo(client, "owner/blocked")
        here = own_registry.objects.list()
        own_registry.admin_command("block-hash", wire.sha256(blocked), "--reason", "a test")
        refused = wire.commit(client, repo, [*lines(texts(30)), wire.inline("bad.txt", blocked)])
        assert (refused.status_code, refused.json()["code"]) == (403, "ContentBlocked")
        assert own_registry.objects.list() == here
        own_registry.admin_command("block-hash", "0" * 64, "--reason", "no bytes have this digest")
        wire.require(wire.commit(client, repo, lines(texts(3))))


def test_what_is_refused_once_it_is_stored_takes_no_room(own_registry: Registry) -> None:
    """The check reads what was sent; nobody waits for it afterwards."""
    with own_registry.client() as client:
        repo = wire.create_repo(client, "owner/unfit")
        here = own_registry.objects.list()
        refused = wire.commit(client, repo, [*lines(texts(5)), wire.inline("adapter_config.json", b'{"r": ')])
        assert (refused.status_code, refused.json()["code"]) == (422, "InvalidAdapterConfig")
        assert own_registry.sql("SELECT count(*) FROM uploads") == [(0,)]
        assert own_registry.sql("SELECT sum(bytes), sum(uploads) FROM reserved_totals") == [(0, 0)]
        own_registry.admin_command("gc", "--grace-hours", "0")
        assert own_registry.objects.list() == here
    own_registry.assert_sound()


def test_bytes_that_another_repository_has_are_stored_once(own_registry: Registry) -> None:
    files = texts(5)
    with own_registry.client() as client:
        first, second = (wire.create_repo(client, f"owner/{name}") for name in ("first", "second"))
        wire.require(wire.commit(client, first, lines(files)))
        here = own_registry.objects.list()
        wire.require(wire.commit(client, second, lines(files)))
        assert own_registry.objects.list() == here
        assert wire.files(client, second).items() >= {path: wire.sha256(each) for path, each in files.items()}.items()
    own_registry.assert_sound()


# --- operations -------------------------------------------------------------------------------------------------------


def test_any_order_of_operations_is_that_order(app: App) -> None:
    """Against the rule itself: each operation on all the files that there are when its turn comes."""
    dice = random.Random(11)
    repo = wire.create_repo(app.client, f"{OWNER}/orders")
    wire.require(wire.commit(app.client, repo, [{"key": "deletedFolder", "value": {"path": ""}}, *lines(texts(0))]))
    expected: dict[str, str] = {}
    names = [f"{folder}{name}" for folder in ("", "a/", "a/b/", "a.b/", "a0/") for name in ("x", "y", "z-0", "z/0")]
    for turn in range(25):
        said: list[dict[str, object]] = [wire.inline("turn.txt", b"%d" % turn)]
        expected["turn.txt"] = wire.sha256(b"%d" % turn)
        for _ in range(20):
            path, act = dice.choice(names), dice.randrange(4)
            folder = path.rpartition("/")[0]
            if act < 2:
                content = b"%d" % dice.randrange(50)
                said.append(wire.inline(path, content))
                expected[path] = wire.sha256(content)
            elif act == 2 and path in expected:
                said.append({"key": "deletedFile", "value": {"path": path}})
                del expected[path]
            elif folder and any(each.startswith(f"{folder}/") for each in expected):
                said.append({"key": "deletedFolder", "value": {"path": f"{folder}/"}})
                expected = {each: digest for each, digest in expected.items() if not each.startswith(f"{folder}/")}
        wire.require(wire.commit(app.client, repo, said))
        assert wire.files(app.client, repo) == expected


def test_thousands_of_deletions_cost_no_more_each_than_a_few(own_registry: Registry) -> None:
    assert own_registry.process is not None
    process = psutil.Process(own_registry.process.pid)
    count = 4000
    names = [f"d{number}/f" for number in range(count)]
    with own_registry.client() as client:
        repo = wire.create_repo(client, "owner/emptied")
        wire.require(wire.commit(client, repo, [wire.inline(name, b"the same") for name in names]))
        before = process.cpu_times()
        gone = [{"key": "deletedFolder", "value": {"path": f"d{number}"}} for number in range(count)]
        wire.require(wire.commit(client, repo, gone))
        after = process.cpu_times()
        assert set(wire.files(client, repo)) == {".gitattributes"}
    spent = (after.user + after.system - before.user - before.system) / pace()
    assert 1000 * spent / count <= MOST_CPU_MS / 5


# --- crashes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failpoint", ["files-stored", "files-verified", "files-recorded", "transaction-ready"])
def test_a_killed_commit_of_many_files_leaves_nothing_that_stays(tmp_path: Path, failpoint: str) -> None:
    registry = Registry(tmp_path / "home", {"LORAHUB_UPLOAD_LIFETIME": "PT1S"})
    registry.start()
    with registry.client() as client:
        repo = wire.create_repo(client, "owner/killed")
        wire.require(wire.commit(client, repo, lines(texts(10))))
        before = wire.files(client, repo)
    registry.stop()
    here = registry.objects.list()
    registry.start(LORAHUB_FAILPOINT=failpoint)
    files = texts(120)
    with registry.client() as client, pytest.raises(httpx2.HTTPError):
        wire.commit(client, repo, lines(files))
    registry.wait_until_dead()
    assert len(registry.objects.list()) == len(here) + len(files), "bytes first"
    registry.start(LORAHUB_UPLOAD_LIFETIME="PT24H")
    try:
        with registry.client() as client:
            assert wire.files(client, repo) == before, "row last"
            time.sleep(1.1)
            registry.admin_command("gc", "--grace-hours", "0")
            assert registry.objects.list() == here
            wire.require(wire.commit(client, repo, lines(files)))
            assert wire.files(client, repo).items() > {path: wire.sha256(files[path]) for path in files}.items()
        registry.assert_sound()
    finally:
        registry.kill()
