"""A registry's answers, recorded once and played again, as they were or with one of them changed."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2

_KEPT = ("content-type", "content-range", "etag", "link", "location", "x-error-code", "x-error-message", "retry-after")


@dataclass(frozen=True)
class Said:
    """One answer; `asked` is the request's method and path, and the how manieth such request it was."""

    asked: tuple[str, str, int]
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """None where it is no JSON."""
        is_json = "json" in self.headers.get("content-type", "")
        return json.loads(self.body) if is_json and self.body else None

    def saying(self, document: Any) -> "Said":
        return replace(self, body=json.dumps(document).encode())


Change = Callable[[Said], Said]


@dataclass
class Recorded:
    """A recorder's address, and what it has heard. `change` is what is done to each answer that is played."""

    url: str = ""
    heard: dict[tuple[str, str, int], Said] = field(default_factory=dict)
    change: Change = lambda said: said
    plays: bool = False
    _asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, *, plays: bool, change: Change = lambda said: said) -> None:
        with self._lock:
            self.plays, self.change = plays, change
            self._asked.clear()
            if not plays:
                self.heard = {}

    def number(self, method: str, path: str) -> tuple[str, str, int]:
        with self._lock:
            self._asked[method, path] += 1
            return method, path, self._asked[method, path]

    def play(self, asked: tuple[str, str, int]) -> Said:
        """The last answer of its kind again, where more is asked than was heard."""
        method, path, count = asked
        known = next(
            (self.heard[method, path, n] for n in range(count, 0, -1) if (method, path, n) in self.heard), None
        )
        if known is None:
            return Said(asked, 404, {"content-type": "application/json", "x-error-code": "NotFound"}, b'{"error":"no"}')
        return self.change(known)


@contextmanager
def recording(registry: str) -> Iterator[Recorded]:
    """Stands before the registry at this address."""
    recorded = Recorded()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or self._chunks()
            asked = recorded.number(self.command, self.path)
            said = recorded.play(asked) if recorded.plays else self._hear(asked, sent)
            self.send_response(said.status)
            for name, value in {**said.headers, "content-length": str(len(said.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(said.body)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):  # of any method
                return self._answer
            raise AttributeError(name)

        def _hear(self, asked: tuple[str, str, int], sent: bytes) -> Said:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
            answer = httpx2.request(self.command, registry + self.path, content=sent, headers=headers, timeout=60)
            kept = {name: answer.headers[name] for name in _KEPT if name in answer.headers}
            recorded.heard[asked] = said = Said(asked, answer.status_code, kept, answer.content)
            return said

        def _chunks(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return b""
            whole = b""
            while size := int(self.rfile.readline(), 16):
                whole += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return whole

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    recorded.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield recorded
    finally:
        server.shutdown()
        server.server_close()


_HOP_BY_HOP = frozenset({"connection", "content-length", "transfer-encoding"})
