"""All of the client's HTTP: token to its own origin only, time-outs, retries, an answer or one of our exceptions.

Whoever answers may be hostile. Nothing is read without a bound, nothing is unpacked, no cookie is kept, no redirect
leads to another scheme, and JSON is parsed strictly; what breaks a rule is `RegistryFailed`, whatever was sent.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

import httpx2

from lorahub.adapters.strict_json import parse_json
from lorahub.errors import (
    InvalidUsage,
    LorahubError,
    RegistryFailed,
    RegistryUnreachable,
    RepositoryMoved,
    TooManyRequests,
    Unavailable,
    error_class,
)

Result = TypeVar("Result")
Body = Callable[[], Iterator[bytes]]
"""What is sent, made anew for each try."""


class Bound(NamedTuple):
    """Of an answer. Parsed, it takes as much memory as its bytes twice, and 200 bytes for each value."""

    bytes: int
    values: int


ANSWER = Bound(16 << 20, 500_000)
"""A revision of 80,000 files, or the layout of 100,000 tensors."""
RECORD = Bound(64 << 20, 2_000_000)
"""The whole history of a repository, for a bundle."""
LISTED_BYTES = 64 << 20
"""Of all pages of a list together."""
REFUSED_BYTES = 64 << 10
"""Of an answer that is none: longer ones are told by their status alone."""

RETRIED_STATUSES = frozenset({408, 429, 502, 503, 504})
TRIES = 5
LONGEST_WAIT_SECONDS = 30.0
_HOPS = 5
_TIMES_THE_TIMEOUT = 10
"""A whole answer may take so many time-outs: nobody holds a client for ever by a byte a minute."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`content` has at most as many bytes as were asked for."""

    status: int
    headers: httpx2.Headers
    content: bytes
    origin: str
    following: str | None
    """The address of a list's next page."""

    def json(self, bound: Bound = ANSWER) -> Any:
        """Raises `RegistryFailed`."""
        values = 1 + self.content.count(b",") + self.content.count(b"[") + self.content.count(b"{")
        if values > bound.values:
            raise _too_large(self.origin, f"{values:,} values", f"{bound.values:,}")
        try:
            return parse_json(self.content, error=RegistryFailed)
        except RegistryFailed as error:
            raise RegistryFailed(
                f"{self.origin} answered something else than a lorahub registry does: {error.message}",
                hint="check the endpoint: lorahub config list --show-origin",
                rule=error.facts["rule"],
            ) from None


class Incoming:
    """A file that is being received."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response

    def goes_on(self, start: int) -> bool:
        """Whether the answer to a range that begins at `start` begins there; False where it is the whole file.

        Raises `RegistryFailed` for another range.
        """
        if self._response.status_code != 206:
            return False
        if not self._response.headers.get("content-range", "").startswith(f"bytes {start}-"):
            raise RegistryFailed(
                f"{_origin(str(self._response.url))} sent other bytes of a file than it was asked for",
                hint="nothing of them was kept; try again, and tell the operator if it happens twice",
            )
        return True

    def pieces(self) -> Iterator[bytes]:
        """As they were sent: the reader counts them."""
        return self._response.iter_raw()


class Transport:
    """Talks to one endpoint. Use it as a context manager; its connections are shared by threads."""

    def __init__(self, endpoint: str, token: str | None, *, timeout: float = 60, closed_by: str | None = None) -> None:
        """`closed_by` is what forbids the network: then every request raises `InvalidUsage`."""
        self.endpoint = endpoint.rstrip("/")
        self._token = token
        self._longest = timeout * _TIMES_THE_TIMEOUT
        self._client = httpx2.Client(
            timeout=httpx2.Timeout(timeout, connect=min(timeout, 10)),
            headers={"User-Agent": _user_agent(), "Accept-Encoding": "identity"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=16),
            transport=None if closed_by is None else _Closed(closed_by),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    # --- answers ------------------------------------------------------------------------------------------------------

    def json(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        bound: Bound = ANSWER,
    ) -> Any:
        """The answer's JSON. Raises what the registry said, or `RegistryUnreachable`, `RegistryFailed`."""
        return self._answer(method, path, bound, json=body, params=query).json(bound)

    def health(self, path: str) -> Any:
        """As `json`, asked once; a 503 is an answer too."""
        with _named(self.endpoint):
            answer = self._ask("GET", path, ANSWER)
        return (answer if answer.status == 503 else _checked(answer)).json()

    def rows(self, path: str, query: Mapping[str, Any] | None = None) -> Iterator[Any]:
        """Those of a list, page after page. Raises `RegistryFailed` for a list without an end, or that is none."""
        address: str | None = path
        received = 0
        while address is not None:
            answer = self._answer("GET", address, ANSWER, params=query)
            received += len(answer.content)
            if received > LISTED_BYTES:
                raise _too_large(answer.origin, "a list that is still not at its end", f"{LISTED_BYTES >> 20} MiB")
            page = answer.json()
            if not isinstance(page, list) or (not page and answer.following is not None):
                raise RegistryFailed(
                    f"{answer.origin} answered {'an empty page' if page == [] else 'no list'} of a list"
                )
            yield from page
            address, query = answer.following, None

    def post_bytes(self, path: str, body: Body, headers: Mapping[str, str]) -> Any:
        return self._answer("POST", path, ANSWER, content=body, headers=headers).json()

    def put(self, address: str, body: Body, size: int) -> str:
        """To a signed address, which is its own credential: no token goes with it. The answer's ETag."""

        def send() -> Answer:
            headers = {"Content-Length": str(size)}
            answer = self._exchange("PUT", address, REFUSED_BYTES, content=body, headers=headers)
            if answer.status >= 300 and answer.origin != _origin(self.endpoint):
                raise _storage_refusal(answer.origin, answer.status)
            return _checked(answer)

        return str(retrying(send).headers.get("etag", ""))

    def post_signed(self, address: str, body: Any) -> None:
        retrying(lambda: _checked(self._exchange("POST", address, REFUSED_BYTES, json=body)))

    def _answer(self, method: str, path: str, bound: Bound, **parts: Any) -> Answer:
        return retrying(lambda: _checked(self._ask(method, path, bound, **parts)))

    def _ask(self, method: str, path: str, bound: Bound, **parts: Any) -> Answer:
        """With our token; follows redirects within the origin."""
        headers = {**self._authorization(), **parts.pop("headers", {})}
        address = self.address(path)
        for _ in range(_HOPS):
            answer = self._exchange(method, address, bound.bytes, headers=headers, **parts)
            if answer.following is None or not 300 <= answer.status < 400:
                return answer
            address = self.address(answer.following)
            parts.pop("params", None)  # the new address has its own
        return answer

    def _exchange(self, method: str, address: str, most: int, *, content: Body | None = None, **parts: Any) -> Answer:
        """One request, and its answer of at most `most` bytes."""
        _require_http(address)
        sent = None if content is None else content()
        with self._client.stream(method, address, content=sent, **parts) as response:
            origin, end = _origin(address), time.monotonic() + self._longest
            if response.status_code < 300:
                _require_plain(response, origin)
            received = _received(response, origin, most if response.status_code < 300 else None, end)
            return Answer(response.status_code, response.headers, received, origin, _following(response))

    # --- files --------------------------------------------------------------------------------------------------------

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str]) -> Iterator[Incoming]:
        """A GET that is read piece by piece; not retried here, because only the reader knows what it has."""
        with _named(self.endpoint), self._open(self.address(path), headers, is_own=True, hops=_HOPS) as response:
            yield Incoming(response)

    @contextmanager
    def _open(self, address: str, headers: Mapping[str, str], *, is_own: bool, hops: int) -> Iterator[httpx2.Response]:
        """Files may lie at another origin, which gets no token."""
        _require_http(address)
        own = self._authorization() if is_own else {}
        with self._client.stream("GET", address, headers={**headers, **own}) as response:
            target = _following(response) if response.is_redirect else None
            if target is not None and hops:
                stays = is_own and _origin(target) == _origin(self.endpoint)
                with self._open(target, headers, is_own=stays, hops=hops - 1) as final:
                    yield final
                return
            origin = _origin(address)
            if response.status_code >= 300:
                if not is_own:
                    raise _storage_refusal(origin, response.status_code)
                received = _received(response, origin, None, time.monotonic() + self._longest)
                raise refusal(Answer(response.status_code, response.headers, received, origin, target))
            _require_plain(response, origin)
            yield response

    def address(self, path: str) -> str:
        """Raises `RegistryFailed` for an address of another origin: a registry can't send our token away."""
        if path.startswith("/"):
            return self.endpoint + path
        if _origin(path) != _origin(self.endpoint):
            raise RegistryFailed(
                f"{_origin(self.endpoint)} sent us to another host: {path[:200]}",
                hint="where the registry has moved: lorahub config set endpoint ADDRESS",
            )
        return path

    def _authorization(self) -> dict[str, str]:
        return {} if self._token is None else {"Authorization": f"Bearer {self._token}"}


class _Closed(httpx2.BaseTransport):
    def __init__(self, by: str) -> None:
        self._by = by

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        raise InvalidUsage(
            f"this needs {_origin(str(request.url))}, and no network is asked ({self._by})", hint="run it without"
        )


# --- what may come ----------------------------------------------------------------------------------------------------


def _received(response: httpx2.Response, origin: str, most: int | None, end: float) -> bytes:
    """The body. Without `most` it is a refusal's, which nobody needs whole: what is too long is left."""
    limit = REFUSED_BYTES if most is None else most
    declared = response.headers.get("content-length", "")
    received = bytearray()
    if not _is_number(declared) or int(declared) <= limit:
        for piece in response.iter_raw():
            received += piece
            if len(received) > limit or time.monotonic() > end:
                break
        else:
            return bytes(received)
    if most is None:
        return b""
    if len(received) <= limit and time.monotonic() > end:
        raise RegistryFailed(f"{origin} took too long to send an answer", hint="try again, or with a larger --timeout")
    raise _too_large(origin, "a longer one", f"{limit >> 20} MiB")


def _too_large(origin: str, what: str, most: str) -> RegistryFailed:
    return RegistryFailed(
        f"an answer of at most {most} was expected, and {origin} sent {what}",
        hint="ask for less; if the registry is right, tell its operator",
    )


def _require_plain(response: httpx2.Response, origin: str) -> None:
    """A few compressed bytes can be any number; we ask for none."""
    coding = response.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise RegistryFailed(
            f"{origin} compressed its answer ({coding[:40]}), which was not asked for",
            hint="does something on the way change answers? it must heed Accept-Encoding",
        )


def _require_http(address: str) -> None:
    if urlsplit(_origin(address)).scheme not in ("http", "https"):
        raise RegistryFailed(f"the registry sent us to an address that is not on the web: {address[:200]}")


def _following(response: httpx2.Response) -> str | None:
    """Where a redirect leads, or a list goes on; absolute."""
    link = response.headers.get("location") if response.is_redirect else response.links.get("next", {}).get("url")
    return None if link is None else str(response.url.join(link))


def _is_number(text: str) -> bool:
    """Digits that `int` takes, and not so many that it refuses."""
    return text.isascii() and text.isdecimal() and len(text) < 19


# --- tries ------------------------------------------------------------------------------------------------------------


def retrying(act: Callable[[], Result]) -> Result:
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
    waited = float(asked) if isinstance(asked, int | float) and asked >= 0 else 0.25 * 2 ** (attempt - 1)
    return min(waited, LONGEST_WAIT_SECONDS) * random.uniform(0.9, 1.1)  # noqa: S311 (spreads load, hides nothing)


@contextmanager
def _named(endpoint: str) -> Iterator[None]:
    """The library's faults under our names."""
    try:
        yield
    except httpx2.RequestError as error:
        where = endpoint or _asked(error)
        raise _unreachable(where, str(error) or type(error).__name__) from error
    except (httpx2.InvalidURL, httpx2.StreamError) as error:
        raise RegistryFailed(f"{endpoint or 'the registry'} sent what is no HTTP: {error}") from error


def _unreachable(where: str, why: str) -> RegistryUnreachable:
    if where.startswith("https://") and any(sign in why for sign in _NOT_TLS):
        plain = where.replace("https", "http", 1)
        return RegistryUnreachable(f"{where} speaks no TLS", hint=f"is it {plain}? else it is another port's")
    return RegistryUnreachable(
        f"can't reach {where}: {why}",
        hint="is the registry running, and is this its address? lorahub doctor tells more",
    )


_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_MESSAGE")
"""OpenSSL's words for an answer that isn't one, across its versions."""


def _asked(error: httpx2.RequestError) -> str:
    try:
        return _origin(str(error.request.url))
    except RuntimeError:
        return "the registry"


# --- refusals ---------------------------------------------------------------------------------------------------------


def _checked(answer: Answer) -> Answer:
    if answer.status >= 300:
        raise refusal(answer)
    return answer


def refusal(answer: Answer) -> LorahubError:
    """The exception that this answer stands for, with everything that the registry said."""
    code, after = answer.headers.get("x-error-code"), answer.headers.get("retry-after", "")
    kind = error_class(code, answer.status)
    if answer.status < 400 and kind is not RepositoryMoved:
        return RegistryFailed(
            f"{answer.origin} sends us on and on, or nowhere", hint="check the endpoint: lorahub doctor"
        )
    try:
        body = answer.json()
    except RegistryFailed:
        body = {}
    body = body if isinstance(body, dict) else {}
    message = body.get("error") or answer.headers.get("x-error-message") or f"HTTP {answer.status}"
    hint, facts = body.get("hint"), body.get("facts")
    error = kind(str(message)[:2000], hint=hint[:2000] if isinstance(hint, str) else None)
    error.facts |= facts if isinstance(facts, dict) else {}
    error.facts["http_status"] = answer.status
    if _is_number(after):
        error.facts["retry_after"] = int(after)
    error.request_id = answer.headers.get("x-request-id")
    return error


def _storage_refusal(origin: str, status: int) -> LorahubError:
    """Of a storage that the registry sent us to. Tried again like any fault of the registry: its address has expired,
    or the storage is busy.
    """
    return RegistryFailed(
        f"the registry's storage at {origin} answered {status}",
        hint="try again; what arrived is kept",
        http_status=RegistryFailed.status,
    )


def _origin(address: str) -> str:
    """Raises `RegistryFailed` for what is no address."""
    try:
        parts = urlsplit(address)
    except ValueError:
        raise RegistryFailed(f"the registry sent an address that is none: {address[:200]!r}") from None
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _user_agent() -> str:
    from lorahub import __version__

    return f"lorahub/{__version__}"
