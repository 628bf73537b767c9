"""Routes on the path as it was sent, percent-encoding intact.

Revisions and branches arrive as one encoded element (`feat%2Fx`). Decoding before routing would split them, and
decoding twice is how traversal gets through: so each element is decoded exactly once, by `decode`, where it is used.
"""

from urllib.parse import unquote_to_bytes

from lorahub.errors import InvalidInput
from starlette.types import ASGIApp, Receive, Scope, Send


class RawPath:
    """ASGI middleware: `scope["path"]` becomes the undecoded path."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("raw_path"):
            scope["path"] = scope["raw_path"].split(b"?")[0].decode("latin-1")
        await self.app(scope, receive, send)


def decode(element: str) -> str:
    """The single decode. Raises `InvalidInput` for what isn't percent-encoded UTF-8."""
    try:
        return unquote_to_bytes(element).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInput(f"the address is not percent-encoded UTF-8: {element[:200]!a}") from None
