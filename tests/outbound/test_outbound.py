"""Calls of the registry to other hosts: none but to those that an operator named, at the address that was checked."""

import http.server
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from lorahub.errors import LorahubError, NotPermitted, NotSupported, Unavailable
from lorahub_registry.infrastructure.outbound import Outbound

Reply = Callable[[http.server.BaseHTTPRequestHandler], None]


@dataclass
class Host:
    """A server in a thread. Every connection is counted, whatever is said on it."""

    answer: Reply
    address: str = "127.0.0.1"
    certificate: Path | None = None
    connections: int = 0
    heard: list[dict[str, str]] = field(default_factory=list)
    port: int = 0

    def __enter__(self) -> Self:
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.heard.append({name.lower(): value for name, value in self.headers.items()})
                host.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def verify_request(self, *_: Any) -> bool:
                host.connections += 1
                return True

            def handle_error(self, *_: Any) -> None:
                pass

        self._server = Server((self.address, 0), Handler)
        if self.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def says(content: bytes, status: int = 200, **headers: str) -> Reply:
    def reply(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(content)

    return reply


def leads_to(location: str) -> Reply:
    return says(b"", 302, Location=location)


@pytest.fixture(scope="module")
def canary() -> Iterator[Host]:
    with Host(says(b"secret")) as running:
        yield running


def outbound(
    hosts: list[str] | None = None, internal: list[str] | None = None, authorities: Path | None = None
) -> Outbound:
    """Also with names that no setting may have."""
    return Outbound(tuple(hosts or ()), tuple(internal or ()), None if authorities is None else str(authorities))


def fetch(opener: Outbound, address: str, **options: Any) -> bytes:
    with opener.get(address, **{"most_bytes": 1 << 16, "seconds": 5, **options}) as answer:
        return b"".join(answer.pieces())


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """What a resolver answers for a name, one list of addresses after the other; the last one for ever."""
    known: dict[str, list[list[str]]] = {}
    ask = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        if host not in known:
            return ask(host, port, *rest, **options)
        numbers = known[host].pop(0) if len(known[host]) > 1 else known[host][0]
        return [found for number in numbers for found in ask(number, port, *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


LOOPBACK = """
127.0.0.1 127.1 127.0.1 2130706433 0x7f000001 0x7f.0.0.1 0x7f.1 0177.0.0.1 0177.0.0.01 017700000001 127.0.0.1.
127.000.000.001 127.255.255.254 0.0.0.0 0 0x0 00.0.0.0 [::1] [::] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1]
[0:0:0:0:0:ffff:7f00:1] [::127.0.0.1] [64:ff9b::7f00:1] [2002:7f00:1::] [64:ff9b:1::7f00:1] [2001:0:7f00:1::]
[::1%25lo] [::1%lo] [fe80::1%25lo] localhost LOCALHOST localhost. localhost6 ip6-localhost 127.0.0.1.nip.test LocalHost
""".split()
"""This machine, under every name that some parser takes for it."""

PRIVATE = """
10.0.0.1 172.16.0.1 172.31.255.255 192.168.0.1 169.254.169.254 100.64.0.1 198.18.0.1 192.0.0.192 192.88.99.1 224.0.0.1
240.0.0.1 255.255.255.255 [fe80::1] [fec0::1] [fc00::1] [fd00:ec2::254] [ff02::1] [100::1] [::ffff:10.0.0.1]
[::ffff:169.254.169.254] [64:ff9b::a9fe:a9fe] 2852039166 0xa9fea9fe 0251.0376.0251.0376 169.254.43518
""".split()

FORMS = r"""
http://{canary} https://{canary}/#@hub.test/ https://hub.test@{canary}/ https://hub.test:x@{canary}/
https://{canary}\@hub.test/ https://hub.test\@{canary}/ https://hub.test#@{canary}/ https://hub.test?@{canary}/
https://{canary};hub.test/ https:\\{canary}\ https:///{canary}/ https:/{canary} //{canary}/ {canary} ftp://{canary}/
file:///etc/passwd gopher://{canary}/_x dict://{canary}/ ldap://{canary}/ jar:http://{canary}!/ http+unix://{canary}/
https:// https://１２７.０.０.１:{port}/ https://①②⑦.⓪.⓪.①:{port}/ https://127。0。0。1:{port}/ https://127．0．0．1:{port}/
https://localhoſt:{port}/ https://ｌocalhost:{port}/ httpſ://{canary}/ https://hub.test%2f@{canary}/
https://%31%32%37.0.0.1:{port}/ https://127.0.0.1%00.hub.test:{port}/ https://hub.test:{port}@127.0.0.1:{port}/
https://127.0.0.1:0x50/ https://127.0.0.1:99999/ https://127.0.0.1:+{port}/ https://127.0.0.1:１２/ https://[::1/
https://hub.test:443:{port}/ https://-hub.test/ https://hub..test/ https://hub_.test/
""".split()
"""Addresses that two parsers read in two ways, or that are none."""

WITH_SPACES = [
    "",
    " https://{canary}/",
    "https://{canary} /",
    "https://127.0.0.1\t:{port}/",
    "https://x\r\nHost: {canary}/",
]


def hostile(port: int) -> list[str]:
    named = [f"{scheme}://{host}:{port}/" for host in LOOPBACK for scheme in ("https", "http")]
    return [
        *named,
        *(f"https://{host}/latest/meta-data/" for host in PRIVATE),
        *(form.format(canary=f"127.0.0.1:{port}", port=port) for form in [*FORMS, *WITH_SPACES]),
    ]


def test_no_hostile_address_is_called(canary: Host, names: dict[str, list[list[str]]]) -> None:
    """Whatever host it names is in the list of those that may be called: what it is must stop it."""
    names["127.0.0.1.nip.test"] = [["127.0.0.1"]]
    corpus, seen = hostile(canary.port), canary.connections
    assert len(corpus) >= 60
    for address in corpus:
        everything = ["*.test", "hub.test", *LOOPBACK, *PRIVATE, *(f"{host}:{canary.port}" for host in LOOPBACK)]
        with pytest.raises((NotPermitted, Unavailable)):
            fetch(outbound(everything), address)
    assert canary.connections == seen


@pytest.mark.parametrize("number", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fd00::1"])
def test_a_name_that_leads_inside_is_refused_though_it_leads_elsewhere_too(
    number: str, names: dict[str, list[list[str]]], canary: Host
) -> None:
    names["hub.test"] = [["93.184.215.14", number]]
    seen = canary.connections
    with pytest.raises(NotPermitted, match="not on the public internet"):
        fetch(outbound([f"hub.test:{canary.port}"]), f"https://hub.test:{canary.port}/")
    assert canary.connections == seen


def test_a_name_is_asked_for_once_and_what_it_meant_is_what_is_called(names: dict[str, list[list[str]]]) -> None:
    with Host(says(b"right"), address="127.0.0.2") as right:
        names["mirror.test"] = [["127.0.0.2"], ["127.0.0.1"]]
        opener = outbound(internal=[f"mirror.test:{right.port}"])
        assert fetch(opener, f"http://mirror.test:{right.port}/") == b"right"
        assert names["mirror.test"] == [["127.0.0.1"]], "asked once"
        assert right.heard[0]["host"] == f"mirror.test:{right.port}"


def test_nothing_is_called_unless_an_operator_names_it(canary: Host) -> None:
    seen = canary.connections
    with pytest.raises(NotSupported, match="calls no other host"):
        fetch(outbound(), f"http://127.0.0.1:{canary.port}/")
    for named in ("127.0.0.1", f"127.0.0.1:{canary.port + 1}", "*.0.0.1", "hub.test"):
        with pytest.raises(NotPermitted, match="may not call"):
            fetch(outbound(internal=[named]), f"http://127.0.0.1:{canary.port}/")
    with pytest.raises(NotPermitted, match="not encrypted"):
        fetch(outbound([f"127.0.0.1:{canary.port}"]), f"http://127.0.0.1:{canary.port}/")
    assert canary.connections == seen
    assert fetch(outbound(internal=[f"127.0.0.1:{canary.port}"]), f"http://127.0.0.1:{canary.port}/") == b"secret"


def test_a_redirect_is_another_call(canary: Host, names: dict[str, list[list[str]]]) -> None:
    seen = canary.connections
    names["hub.test"] = [["127.0.0.1"]]
    with Host(says(b"")) as host:
        opener = outbound(["*.test"], [f"hub.test:{host.port}"])
        for location in [*hostile(canary.port), f"//127.0.0.1:{canary.port}/", "https:hub.test"]:
            if location.isascii() and location.isprintable() and location:
                host.answer = leads_to(location)
                with pytest.raises((NotPermitted, Unavailable)):
                    fetch(opener, f"http://hub.test:{host.port}/")
    assert canary.connections == seen


def test_a_redirect_takes_no_token_along(names: dict[str, list[list[str]]]) -> None:
    names["hub.test"] = names["store.test"] = [["127.0.0.1"]]
    with Host(says(b"bytes")) as store, Host(leads_to(f"http://store.test:{store.port}/x")) as hub:
        opener = outbound(internal=[f"hub.test:{hub.port}", f"store.test:{store.port}"])
        assert fetch(opener, f"http://hub.test:{hub.port}/", token="lh_secret") == b"bytes"
        assert hub.heard[0]["authorization"] == "Bearer lh_secret"
        assert "authorization" not in store.heard[0]


def test_a_redirect_is_followed_as_it_was_written(names: dict[str, list[list[str]]]) -> None:
    """Signed addresses are good for their very bytes."""
    asked: list[str] = []

    def stored(request: http.server.BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        says(b"bytes")(request)

    names["hub.test"] = names["store.test"] = [["127.0.0.1"]]
    target = "/a%2fb'c/x?X-Signature='1'%7e~[1]{}|&b=%C3%A9&a=//x"
    with Host(stored) as store, Host(leads_to(f"http://store.test:{store.port}{target}")) as hub:
        opener = outbound(internal=[f"hub.test:{hub.port}", f"store.test:{store.port}"])
        assert fetch(opener, f"http://hub.test:{hub.port}/") == b"bytes"
    assert asked == [target]


def test_what_comes_beside_a_redirect_is_not_read(names: dict[str, list[list[str]]], canary: Host) -> None:
    def endless(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", f"http://127.0.0.1:{canary.port}/")
        request.send_header("Content-Encoding", "gzip")
        request.end_headers()
        while True:
            request.wfile.write(b"x" * 65536)

    names["hub.test"] = [["127.0.0.1"]]
    with Host(endless) as hub:
        opener = outbound(internal=[f"hub.test:{hub.port}", f"127.0.0.1:{canary.port}"])
        assert fetch(opener, f"http://hub.test:{hub.port}/") == b"secret"


def test_redirects_end(names: dict[str, list[list[str]]]) -> None:
    names["hub.test"] = [["127.0.0.1"]]
    with Host(leads_to("/again")) as hub:
        with pytest.raises(Unavailable, match="answers 302"):
            fetch(outbound(internal=[f"hub.test:{hub.port}"]), f"http://hub.test:{hub.port}/")
        assert hub.connections == 4


def test_no_proxy_of_the_environment_is_asked(canary: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with Host(says(b"proxied")) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        opener = outbound(internal=[f"127.0.0.1:{canary.port}"])
        assert fetch(opener, f"http://127.0.0.1:{canary.port}/") == b"secret"
        assert proxy.connections == 0


# --- bounds -----------------------------------------------------------------------------------------------------------


def _endless(request: http.server.BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(b"x" * 65536)


def _dribbling_headers(request: http.server.BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    for _ in range(200):
        request.wfile.write(b"x")
        time.sleep(0.05)


def _dribbling_body(request: http.server.BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    for _ in range(200):
        request.wfile.write(b"x")
        time.sleep(0.05)


def _breaks_off(request: http.server.BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    request.wfile.write(b"half")


BAD: dict[str, Reply] = {
    "endless": _endless,
    "headers that dribble": _dribbling_headers,
    "a body that dribbles": _dribbling_body,
    "half an answer": _breaks_off,
    "compressed": says(b"\x1f\x8b", Content_Encoding="gzip"),
    "not there": says(b"no", 404),
    "no HTTP": lambda request: request.wfile.write(b"SSH-2.0-x\r\n\r\n") and None,
}


@pytest.mark.parametrize("what", BAD)
def test_an_answer_is_whole_and_in_time_or_none(what: str) -> None:
    begun = time.monotonic()
    with Host(BAD[what]) as host, pytest.raises(Unavailable):
        fetch(outbound(internal=[f"127.0.0.1:{host.port}"]), f"http://127.0.0.1:{host.port}/", seconds=0.6)
    assert time.monotonic() - begun < 5


# --- certificates -----------------------------------------------------------------------------------------------------


def _certificate(folder: Path, name: str) -> Path:
    """Certificate and key of a host, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    place = folder / f"{name}.pem"
    place.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return place


def test_a_host_proves_the_name_that_was_called(tmp_path: Path, names: dict[str, list[list[str]]]) -> None:
    certificate = _certificate(tmp_path, "hub.test")
    names["hub.test"] = names["other.test"] = [["127.0.0.1"]]
    with Host(says(b"proved"), certificate=certificate) as host:
        internal = [f"hub.test:{host.port}", f"other.test:{host.port}"]
        trusting = outbound(internal=internal, authorities=certificate)
        assert fetch(trusting, f"https://hub.test:{host.port}/") == b"proved"
        for opener, name in ((trusting, "other.test"), (outbound(internal=internal), "hub.test")):
            with pytest.raises(LorahubError) as refused:
                fetch(opener, f"https://{name}:{host.port}/")
            assert isinstance(refused.value, Unavailable)
