"""One request to a registry: token to its own origin only, time-outs, retries, an answer or one of our exceptions."""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx2

from lorahub.errors import (
    InvalidUsage,
    LorahubError,
    RegistryFailed,
    RegistryUnreachable,
    TooManyRequests,
    Unavailable,
    error_class,
)

Answer = TypeVar("Answer")

RETRIED_STATUSES = frozenset({408, 429, 502, 503, 504})
TRIES = 5
LONGEST_WAIT_SECONDS = 30.0


class Transport:
    """Talks to one endpoint. Use it as a context manager; its connections are shared by threads."""

    def __init__(self, endpoint: str, token: str | None, *, timeout: float = 60, closed_by: str | None = None) -> None:
        """`closed_by` is what forbids the network: then every request raises `InvalidUsage`."""
        self.endpoint = endpoint.rstrip("/")
        self._token = token
        self._client = httpx2.Client(
            timeout=httpx2.Timeout(timeout, connect=min(timeout, 10)),
            headers={"User-Agent": _user_agent()},
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=16),
            transport=None if closed_by is None else _Closed(closed_by),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def json(self, method: str, path: str, *, body: Any = None, query: Mapping[str, Any] | None = None) -> Any:
        """The answer's JSON. Raises what the registry said, or `RegistryUnreachable`, `RegistryFailed`."""
        return retrying(lambda: _json(self._send(method, path, json=body, params=query)))

    def health(self, path: str) -> Any:
        """As `json`, asked once; a 503 is an answer too."""
        with _named(self.endpoint):
            response = self._send("GET", path)
        return _parsed(response) if response.status_code == 503 else _json(response)

    def page(self, address: str, query: Mapping[str, Any] | None = None) -> tuple[Any, str | None]:
        """A list, and the address of the next page."""
        response = retrying(lambda: self._checked(self._send("GET", address, params=query)))
        following = response.links.get("next", {}).get("url")
        return _json(response), following

    def post_bytes(self, path: str, body: Callable[[], Iterator[bytes]], headers: Mapping[str, str]) -> Any:
        """`body` is called anew for each try."""
        return retrying(lambda: _json(self._send("POST", path, content=body(), headers=headers)))

    def put(self, address: str, body: Callable[[], Iterator[bytes]], size: int) -> httpx2.Response:
        """To a signed address, which is its own credential: no token goes with it."""
        headers = {"Content-Length": str(size)}

        def send() -> httpx2.Response:
            response = self._client.put(address, content=body(), headers=headers)
            if response.status_code >= 300 and _origin(address) != _origin(self.endpoint):
                raise _storage_refusal(response)
            return self._checked(response)

        return retrying(send)

    def post_signed(self, address: str, body: Any) -> None:
        retrying(lambda: self._checked(self._client.post(address, json=body)))

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
        """A GET that is read piece by piece; not retried here, because only the reader knows what it has."""
        with _named(self.endpoint), self._open(self.address(path), headers, is_own=True) as response:
            yield response

    @contextmanager
    def _open(
        self, address: str, headers: Mapping[str, str], *, is_own: bool, hops: int = 5
    ) -> Iterator[httpx2.Response]:
        own = self._authorization() if is_own else {}
        with self._client.stream("GET", address, headers={**headers, **own, "Accept-Encoding": "identity"}) as response:
            if response.is_redirect and hops:
                target = str(response.next_request.url) if response.next_request else ""
                with self._open(
                    target, headers, is_own=is_own and _origin(target) == _origin(self.endpoint), hops=hops - 1
                ) as final:
                    yield final
                return
            if response.status_code >= 400:
                response.read()
                raise refusal(response) if is_own else _storage_refusal(response)
            yield response

    def _send(self, method: str, path: str, **parts: Any) -> httpx2.Response:
        headers = {**self._authorization(), **(parts.pop("headers", None) or {})}
        response = self._client.request(method, self.address(path), headers=headers, **parts)
        if response.is_redirect and response.next_request is not None:
            target = str(response.next_request.url)
            if _origin(target) == _origin(self.endpoint):
                response = self._client.request(method, target, headers=headers, **parts)
        return response

    def address(self, path: str) -> str:
        """Raises `RegistryFailed` for an address of another origin: a registry can't send our token away."""
        if not path.startswith("http"):
            return self.endpoint + path
        if _origin(path) != _origin(self.endpoint):
            raise RegistryFailed(f"the registry sent us to another host: {path[:200]}")
        return path

    def _authorization(self) -> dict[str, str]:
        return {} if self._token is None else {"Authorization": f"Bearer {self._token}"}

    @staticmethod
    def _checked(response: httpx2.Response) -> httpx2.Response:
        if response.status_code >= 300:
            raise refusal(response)
        return response


class _Closed(httpx2.BaseTransport):
    def __init__(self, by: str) -> None:
        self._by = by

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        raise InvalidUsage(
            f"this needs {_origin(str(request.url))}, and no network is asked ({self._by})", hint="run it without"
        )


def goes_on(response: httpx2.Response, start: int) -> bool:
    """Whether the answer to a range that begins at `start` begins there; False where it is the whole file.

    Raises `RegistryFailed` for another range.
    """
    if response.status_code != 206:
        return False
    if not response.headers.get("content-range", "").startswith(f"bytes {start}-"):
        raise RegistryFailed(
            f"{_origin(str(response.url))} sent other bytes of a file than it was asked for",
            hint="nothing of them was kept; try again, and tell the operator if it happens twice",
        )
    return True


def retrying(act: Callable[[], Answer]) -> Answer:
    """Tries again what failed on the way or was refused for now; waits as long as the registry asks, within bounds.

    Every act passed here may safely happen twice.
    """
    for attempt in range(1, TRIES + 1):
        try:
            with _named(""):
                return act()
        except (Unavailable, TooManyRequests) as error:
            if not _is_worth_a_try(error) or attempt == TRIES:
                raise
            time.sleep(_wait(error, attempt))
    raise AssertionError


def _is_worth_a_try(error: LorahubError) -> bool:
    status = error.facts.get("http_status")
    return isinstance(error, RegistryUnreachable) if status is None else status in RETRIED_STATUSES


def _wait(error: LorahubError, attempt: int) -> float:
    asked = error.facts.get("retry_after")
    waited = float(asked) if isinstance(asked, int | float) else 0.25 * 2 ** (attempt - 1)
    return min(waited, LONGEST_WAIT_SECONDS) * random.uniform(0.9, 1.1)  # noqa: S311 (spreads load, hides nothing)


@contextmanager
def _named(endpoint: str) -> Iterator[None]:
    """The library's faults under our names."""
    try:
        yield
    except (httpx2.TimeoutException, httpx2.TransportError) as error:
        where = endpoint or _asked(error)
        raise RegistryUnreachable(
            f"can't reach {where}: {str(error) or type(error).__name__}",
            hint="is the registry running, and is this its address? lorahub doctor tells more",
        ) from error


def _asked(error: httpx2.RequestError) -> str:
    try:
        return _origin(str(error.request.url))
    except RuntimeError:
        return "the registry"


def _json(response: httpx2.Response) -> Any:
    return _parsed(Transport._checked(response))  # noqa: SLF001 (one module)


def _parsed(response: httpx2.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise RegistryFailed(
            f"{_origin(str(response.url))} answered something else than a lorahub registry does",
            hint="check the endpoint: lorahub config list --show-origin",
        ) from None


def refusal(response: httpx2.Response) -> LorahubError:
    """The exception that this answer stands for, with everything that the registry said."""
    kind = error_class(response.headers.get("x-error-code"), response.status_code)
    try:
        body = response.json()
    except ValueError:
        body = {}
    body = body if isinstance(body, dict) else {}
    message = body.get("error") or response.headers.get("x-error-message") or f"HTTP {response.status_code}"
    facts = body.get("facts") if isinstance(body.get("facts"), dict) else {}
    hint = body.get("hint") if isinstance(body.get("hint"), str) else None
    error = kind(str(message)[:2000], hint=hint, **{str(key): value for key, value in (facts or {}).items()})
    error.facts["http_status"] = response.status_code
    after = response.headers.get("retry-after", "")
    if after.isdigit():
        error.facts["retry_after"] = int(after)
    error.request_id = response.headers.get("x-request-id")
    return error


def _storage_refusal(response: httpx2.Response) -> LorahubError:
    """Of a storage that the registry sent us to. Tried again like any fault of the registry: its address has expired,
    or the storage is busy.
    """
    return RegistryFailed(
        f"the registry's storage at {_origin(str(response.url))} answered {response.status_code}",
        hint="try again; what arrived is kept",
        http_status=RegistryFailed.status,
    )


def _origin(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _user_agent() -> str:
    from lorahub import __version__

    return f"lorahub/{__version__}"
