"""Opens addresses on hosts that an operator named, to read or to tell them something: bounded in time and bytes, to the
address that was checked, through no proxy, with a token for nobody but the host that it is meant for.
"""

import re
import ssl
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import urljoin

import httpcore2
from lorahub.errors import NotPermitted, NotSupported, Unavailable
from opentelemetry import trace

from lorahub_registry.infrastructure import metrics
from lorahub_registry.infrastructure.outbound.addresses import Address, is_named, parse_address, resolve
from lorahub_registry.settings import Settings

_TRACER = trace.get_tracer("lorahub")  # of spans that go nowhere, unless somebody exports them
MOST_REDIRECTS = 3
_CONNECT_SECONDS = 5.0
_SILENT_SECONDS = 20.0
_MOST_WAIT = 86_400
_REDIRECTS = (301, 302, 303, 307, 308)
_FAULTS = (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError, OSError)


@dataclass(frozen=True, slots=True)
class Outbound:
    """`internal` hosts may be on a private network, and be spoken to without encryption."""

    hosts: tuple[str, ...]
    internal: tuple[str, ...]
    authorities: str | None
    """File of certificates, in PEM, that vouch for hosts beside those that the system knows."""

    @classmethod
    def of(cls, settings: Settings, *, also: Iterable[str] = ()) -> "Outbound":
        """`also`: hosts that another setting names."""
        authorities = settings.outbound_authorities
        return cls(
            (*settings.outbound_hosts, *also),
            tuple(settings.outbound_internal),
            None if authorities is None else str(authorities),
        )

    def require_open(self, text: str) -> Address:
        """The address, if it may be called. Resolves nothing.

        Raises `NotSupported` where nothing may be called at all, and `NotPermitted`.
        """
        if not self.hosts and not self.internal:
            raise NotSupported(
                "this registry calls no other host",
                hint="its operator names those it may call: LORAHUB_OUTBOUND_HOSTS",
            )
        address = parse_address(text)
        if not is_named(address, (*self.hosts, *self.internal)):
            raise NotPermitted(
                f"this registry may not call {address.host}:{address.port}",
                hint="its operator names the hosts it may call: LORAHUB_OUTBOUND_HOSTS",
            )
        if address.scheme == "http" and not is_named(address, self.internal):
            raise NotPermitted(
                f"{_shown(address)} is not encrypted",
                hint="use https; an internal host is named in LORAHUB_OUTBOUND_INTERNAL",
            )
        return address

    @contextmanager
    def get(
        self,
        text: str,
        *,
        most_bytes: int,
        seconds: float,
        token: str | None = None,
        redirects: int = MOST_REDIRECTS,
        headers: Mapping[str, str] = MappingProxyType({}),
        statuses: Collection[int] = (200,),
    ) -> Iterator["OutboundAnswer"]:
        """One of `statuses`, after at most so many redirects, to hosts that may be called too.

        Raises `NotSupported`, `NotPermitted`, and `Unavailable` for anything that isn't an answer; `facts["status"]`
        is what the host said instead, `facts["retry_after"]` the seconds after which it wants to be asked again.
        """
        end, outcome = time.monotonic() + seconds, "failed"
        try:
            with self._follow(text, end, token, redirects, headers) as (address, response):
                yield _checked(OutboundAnswer(address, response, most_bytes), statuses)
            outcome = "answered"
        except (NotPermitted, NotSupported):
            outcome = "refused"
            raise
        except _FAULTS as error:
            raise Unavailable(f"{text.partition('?')[0][:200]!a} can't be read: {type(error).__name__}") from error
        finally:
            metrics.OUTBOUND.labels(outcome).inc()

    def post(
        self, text: str, body: bytes, headers: Mapping[str, str], *, most_bytes: int, seconds: float
    ) -> tuple[int, bytes]:
        """Whatever status comes back from that very address, and the beginning of what it says.

        Raises `NotSupported`, `NotPermitted`, and `Unavailable` where nothing came back.
        """
        end, outcome = time.monotonic() + seconds, "failed"
        try:
            address = self.require_open(text)
            numbers = resolve(address, is_internal=is_named(address, self.internal))
            with (
                _TRACER.start_as_current_span(f"POST {address.host}", attributes={"server.address": address.host}),
                self._ask(address, numbers, end, headers, body) as response,
            ):
                said = bytearray()
                for piece in response.iter_stream():
                    said += piece
                    if len(said) >= most_bytes:
                        break
            outcome = "answered"
            return response.status, bytes(said[:most_bytes])
        except (NotPermitted, NotSupported):
            outcome = "refused"
            raise
        except _FAULTS as error:
            raise Unavailable(f"{text[:200]!a} can't be reached: {type(error).__name__}") from error
        finally:
            metrics.OUTBOUND.labels(outcome).inc()

    def get_document(self, text: str, *, most_bytes: int, seconds: float, token: str | None = None) -> bytes:
        """A small one, whole, from that very address. Raises `NotSupported`, `NotPermitted`, `Unavailable`."""
        with self.get(text, most_bytes=most_bytes, seconds=seconds, token=token, redirects=0) as answer:
            return b"".join(answer.pieces())

    @contextmanager
    def _follow(
        self, text: str, end: float, token: str | None, redirects: int, headers: Mapping[str, str]
    ) -> Iterator[tuple[Address, httpcore2.Response]]:
        first = address = self.require_open(text)
        for left in range(redirects, -1, -1):
            is_internal = is_named(address, self.internal)
            if is_internal and not is_named(first, self.internal):
                raise NotPermitted(f"{first.host} leads to {address.host}, which is internal")
            is_for_it = token is not None and address.origin == first.origin
            sent = {**headers, "Authorization": f"Bearer {token}"} if is_for_it else headers
            with (
                _TRACER.start_as_current_span(f"GET {address.host}", attributes={"server.address": address.host}),
                self._ask(address, resolve(address, is_internal=is_internal), end, sent) as response,
            ):
                location = _header(response, b"location") if response.status in _REDIRECTS else None
                if location is None or not left:
                    yield address, response
                    return
                address = self.require_open(_joined(address, location))

    @contextmanager
    def _ask(
        self,
        address: Address,
        numbers: list[str],
        end: float,
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> Iterator[httpcore2.Response]:
        """With a body a POST, without one a GET."""
        host = f"[{address.host}]" if ":" in address.host else address.host
        url = httpcore2.URL(
            scheme=address.scheme.encode(), host=host.encode(), port=address.port, target=address.target.encode()
        )
        timeouts = {"connect": _CONNECT_SECONDS, "read": _SILENT_SECONDS, "write": _SILENT_SECONDS}
        sent = {"Accept-Encoding": "identity", "User-Agent": "lorahub", **headers}
        with (
            httpcore2.ConnectionPool(ssl_context=self._certificates(), network_backend=_Pinned(numbers, end)) as pool,
            pool.stream(
                "GET" if body is None else "POST",
                url,
                headers=list(sent.items()),
                content=body,
                extensions={"timeout": timeouts},
            ) as response,
        ):
            yield response

    def _certificates(self) -> ssl.SSLContext:
        context = httpcore2.default_ssl_context()
        if self.authorities is not None:
            context.load_verify_locations(self.authorities)
        return context


@dataclass(frozen=True, slots=True)
class OutboundAnswer:
    address: Address
    response: httpcore2.Response
    most_bytes: int

    @property
    def status(self) -> int:
        return self.response.status

    def header(self, name: str) -> str | None:
        return _header(self.response, name.lower().encode())

    def pieces(self) -> Iterator[bytes]:
        """Raises `Unavailable` where there is more than was asked for."""
        received = 0
        for piece in self.response.iter_stream():
            received += len(piece)
            if received > self.most_bytes:
                raise Unavailable(f"{_shown(self.address)} sends more than {self.most_bytes} bytes")
            yield piece


def _checked(answer: OutboundAnswer, statuses: Collection[int]) -> OutboundAnswer:
    if answer.status not in statuses:
        facts: dict[str, Any] = {"status": answer.status, **_wait(answer)}
        raise Unavailable(f"{_shown(answer.address)} answers {answer.status}", **facts)
    if answer.header("content-encoding") not in (None, "identity"):
        raise Unavailable(f"{_shown(answer.address)} sends compressed bytes that nobody asked for")
    return answer


def _wait(answer: OutboundAnswer) -> dict[str, int]:
    """Seconds; a date, which RFC 9110 allows too, no hub sends."""
    text = answer.header("retry-after") or ""
    return {"retry_after": min(int(text), _MOST_WAIT)} if re.fullmatch(r"[0-9]{1,9}", text) else {}


def _shown(address: Address) -> str:
    """Without its query, which may be a signature."""
    return str(address).partition("?")[0][:200]


def _header(response: httpcore2.Response, wanted: bytes) -> str | None:
    return next((value.decode("latin-1") for name, value in response.headers if name.lower() == wanted), None)


def _joined(address: Address, location: str) -> str:
    try:
        return urljoin(str(address), location)
    except ValueError:
        return location  # which no strict parser takes


# --- connections ------------------------------------------------------------------------------------------------------


class _Pinned(httpcore2.NetworkBackend):
    """Connects to the addresses that were checked, whatever the name means by now, and is done at `end`."""

    def __init__(self, numbers: list[str], end: float) -> None:
        self._numbers = numbers
        self._end = end

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        fault: Exception = httpcore2.ConnectError(f"no address of {host}")
        for number in self._numbers:
            try:
                made = httpcore2.SyncBackend().connect_tcp(
                    number, port, _left(timeout, self._end), local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                fault = error
                continue
            return _Timed(made, self._end)
        raise fault


class _Timed(httpcore2.NetworkStream):
    """No single operation goes on beyond `end`, however little the other side sends at a time."""

    def __init__(self, stream: httpcore2.NetworkStream, end: float) -> None:
        self._stream = stream
        self._end = end

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout, self._end))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(timeout, self._end))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Timed(self._stream.start_tls(ssl_context, server_hostname, _left(timeout, self._end)), self._end)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(timeout: float | None, end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise httpcore2.ReadTimeout("the time for this call is over")
    return left if timeout is None else min(timeout, left)
