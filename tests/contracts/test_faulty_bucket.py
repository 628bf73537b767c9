"""A bucket that lies or breaks off: no wrong byte is taken for a right one, and every fault is `Unavailable`."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from lorahub.errors import Unavailable
from lorahub_registry.infrastructure.storage.s3_blob_store import S3BlobStore

CONTENT = bytes(range(256)) * 8192  # 2 MiB
Make = Callable[..., AbstractContextManager[S3BlobStore]]
ERROR = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>We failed</Message></Error>"


class Bucket(BaseHTTPRequestHandler):
    """Answers as `CONTENT` under every key, until the test says otherwise."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(200, b"", size=len(CONTENT))

    def do_GET(self) -> None:
        start, stop = self.wanted()
        self.answer(206, CONTENT[start:stop], ranged=(start, stop))

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(200, ERROR)

    do_POST = do_PUT  # noqa: N815 (the library's name)

    def do_DELETE(self) -> None:
        self.answer(204, b"")

    def wanted(self) -> tuple[int, int]:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert match
        return int(match[1]), int(match[2]) + 1

    def answer(
        self, status: int, body: bytes, *, size: int | None = None, ranged: tuple[int, int] | None = None
    ) -> None:
        """`size` is what the answer announces, however long `body` is."""
        announced = len(body) if size is None else size
        self.send_response(status)
        self.send_header("Content-Length", str(announced))
        if ranged:
            self.send_header("Content-Range", f"bytes {ranged[0]}-{ranged[1] - 1}/{len(CONTENT)}")
        self.end_headers()
        self.wfile.write(body)
        if self.command != "HEAD" and announced != len(body):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Make:
    """A store on a bucket whose methods the test replaces."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)

    @contextmanager
    def make(**methods: Callable[[Bucket], None]) -> Iterator[S3BlobStore]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("ThisBucket", (Bucket,), methods))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield S3BlobStore.at("b", "p", endpoint=f"http://127.0.0.1:{server.server_port}", public_endpoint=None)
        finally:
            server.shutdown()
            server.server_close()

    return make


def test_a_read_that_breaks_off_goes_on_where_it_broke(bucket: Make) -> None:
    asked: list[int] = []

    def half(self: Bucket) -> None:
        start, stop = self.wanted()
        asked.append(start)
        self.answer(206, CONTENT[start : start + 700_000], size=stop - start, ranged=(start, stop))

    with bucket(do_GET=half) as store:
        assert b"".join(store.open_range("k", 5, len(CONTENT))) == CONTENT[5:]
    assert len(asked) == 3


def test_a_read_that_brings_nothing_is_given_up(bucket: Make) -> None:
    def nothing(self: Bucket) -> None:
        start, stop = self.wanted()
        self.answer(206, b"", size=stop - start, ranged=(start, stop))

    with bucket(do_GET=nothing) as store, pytest.raises(Unavailable):
        b"".join(store.open_range("k", 0, len(CONTENT)))


def test_other_bytes_than_asked_for_are_refused(bucket: Make) -> None:
    def from_the_start(self: Bucket) -> None:
        self.answer(200, CONTENT)

    with bucket(do_GET=from_the_start) as store, pytest.raises(Unavailable):
        store.open_range("k", 1000, 2000)


def test_an_error_inside_a_success_is_an_error(bucket: Make) -> None:
    with bucket() as store:
        with pytest.raises(Unavailable):
            store.move("one", "two")
        with pytest.raises(Unavailable):
            store.join(["one", "two"], "whole")


@pytest.mark.parametrize("status", [403, 500, 503])
def test_every_refusal_is_one_of_ours(bucket: Make, status: int) -> None:
    def refuse(self: Bucket) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(status, ERROR if self.command != "HEAD" else b"")

    methods = {f"do_{verb}": refuse for verb in ("GET", "HEAD", "PUT", "POST", "DELETE")}
    with bucket(**methods) as store:
        for act in (
            lambda: store.size("k"),
            lambda: store.open_range("k", 0, 1),
            lambda: store.delete("k"),
            lambda: list(store.list("blobs/")),
            lambda: store.writer("k").__enter__().close() or store.move("k", "l"),
        ):
            with pytest.raises(Unavailable):
                act()


def test_many_small_objects_are_written_and_read_several_at_once(bucket: Make) -> None:
    """Each answer waits for eight requests: one after the other would never get one."""
    together = threading.Barrier(8, timeout=60)
    objects = {f"k{number}": b"%d" % number for number in range(64)}

    def put(self: Bucket) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        together.wait()
        self.send_response(200)
        self.send_header("ETag", '"x"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def get(self: Bucket) -> None:
        together.wait()
        start, stop = self.wanted()
        content = objects[self.path.rpartition("/")[2]]
        self.answer(206, content[start:stop], ranged=(start, min(stop, len(content))))

    with bucket(do_PUT=put, do_GET=get) as store:
        store.write_all(objects)
        assert list(store.read_all({key: len(content) for key, content in objects.items()})) == [*objects.values()]


def test_one_fault_among_many_small_objects_is_a_fault(bucket: Make) -> None:
    def put(self: Bucket) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        is_bad = self.path.endswith("/k7")
        self.send_response(200)
        if not is_bad:
            self.send_header("ETag", '"x"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    with bucket(do_PUT=put) as store, pytest.raises(Unavailable):
        store.write_all({f"k{number}": b"x" for number in range(20)})
