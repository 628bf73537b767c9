"""Starts a GitHub workflow when the registry says that something happened: from a webhook to `repository_dispatch`.

    export WEBHOOK_SECRET=whsec_… GITHUB_TOKEN=… GITHUB_REPOSITORY=acme/adapters
    python examples/dispatch.py 8080
    lorahub webhook add https://relay.acme.example/ base:acme/llama-7b --kind base.registered

The workflow is `on: repository_dispatch: types: [lorahub.base.registered]`, and finds the event in
`github.event.client_payload`. GITHUB_API_URL is another GitHub's. Nothing but Python is needed.
"""

import base64
import hashlib
import hmac
import http.server
import json
import os
import sys
import time
import urllib.request
from collections.abc import Mapping

MOST_BYTES = 1 << 20
MOST_AGE_SECONDS = 300


def is_genuine(headers: Mapping[str, str], body: bytes, secret: str) -> bool:
    """By https://www.standardwebhooks.com: one of the signatures is ours, and the message is no old one."""
    message_id, second = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not second.isdecimal() or abs(time.time() - int(second)) > MOST_AGE_SECONDS:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{message_id}.{second}.".encode() + body, hashlib.sha256).digest()
    ours = "v1," + base64.b64encode(digest).decode()
    return any(hmac.compare_digest(ours, one) for one in headers.get("webhook-signature", "").split(" "))


def dispatch(message: Mapping[str, object]) -> int:
    """What GitHub answers: 204 where the workflow starts."""
    api = os.environ.get("GITHUB_API_URL", "https://api.github.com")
    asked = {"event_type": f"lorahub.{message['type']}", "client_payload": message["data"]}
    request = urllib.request.Request(
        f"{api}/repos/{os.environ['GITHUB_REPOSITORY']}/dispatches",
        data=json.dumps(asked).encode(),
        headers={
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {os.environ['GITHUB_TOKEN']}",
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return int(answer.status)


class Relay(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(min(int(self.headers.get("content-length", 0)), MOST_BYTES))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if not is_genuine(headers, body, os.environ["WEBHOOK_SECRET"]):
            self._answer(401)
            return
        message = json.loads(body)
        try:
            is_done = message["type"] == "webhook.test" or dispatch(message) == 204
        except OSError as error:
            self.log_message("GitHub can't be asked: %s", error)
            is_done = False
        self._answer(200 if is_done else 502)  # whoever isn't told so tries again

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Relay).serve_forever()
