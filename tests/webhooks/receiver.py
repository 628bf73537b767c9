"""A receiver of webhooks in a thread, which keeps what it is told and answers as a test says."""

import base64
import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Told:
    """One request. `status` is what it was answered."""

    headers: dict[str, str]
    body: bytes
    status: int
    at: float

    @property
    def message(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def is_signed_with(self, secret: str) -> bool:
        """As the specification of Standard Webhooks says."""
        key = base64.b64decode(secret.removeprefix("whsec_")) if secret.startswith("whsec_") else secret.encode()
        content = f"{self.id}.{self.headers['webhook-timestamp']}.".encode() + self.body
        made = "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
        return made in self.headers["webhook-signature"].split(" ")


@dataclass
class Receiver:
    answer: Callable[[dict[str, Any]], int] = lambda _: 200
    """The status for a message; 0 breaks the connection."""
    told: list[Told] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def taken(self, name: str | None = None) -> list[dict[str, Any]]:
        """Messages that were answered with 200, of one repository where it is named."""
        found = [one.message for one in list(self.told) if one.status == 200]
        return [one for one in found if name is None or one["data"].get("name") == name]

    def __enter__(self) -> Self:
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver.answer(json.loads(body))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.told.append(Told(headers, body, status, time.time()))
                if not status:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
