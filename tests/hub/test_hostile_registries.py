"""A registry that lies, in any answer and in any way, gets a sentence and a documented exit status: it takes no memory,
no file outside the folder, no token and no terminal, and it makes no command crash.
"""

import copy
import gzip
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from builders import safetensors_bytes, write_adapter
from hub.test_names import Cli
from hub.test_transfers import revision
from lorahub.hub.bases import hash_folder
from lorahub.hub.hub import Hub
from lorahub.hub.progress import Silence
from registry_process import LORAHUB, Registry
from services.recorded_registry import Recorded, Said, recording

MiB = 1 << 20
MOST_MEMORY = 200 * MiB

pytestmark = pytest.mark.xdist_group("hostile registries")


# --- what comes over the wire -----------------------------------------------------------------------------------------

Say = Callable[[str], Iterator[bytes]]
"""The bytes that are sent for a request's path, until the client hangs up."""


class Wire:
    """A server of raw bytes, and what it heard."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.heard: list[str] = []
        self.sent = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            request = connection.recv(65536).decode("latin-1")
            self.heard.append(request)
            for piece in self._say(request.split(" ")[1]):
                connection.sendall(piece)
                self.sent += len(piece)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def wire(say: Say) -> Iterator[Wire]:
    made = Wire(say)
    try:
        yield made
    finally:
        made.close()


def head(status: int = 200, **headers: object) -> bytes:
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def whole(body: bytes, status: int = 200, **headers: object) -> Say:
    return lambda _: iter([head(status, Content_Length=len(body), **headers) + body])


def endless(status: int = 200, first: bytes = b"[", piece: bytes = b"0," * 500_000) -> Say:
    def say(_: str) -> Iterator[bytes]:
        yield head(status) + first
        for _number in range(1000):
            yield piece

    return say


def redirecting(location: str, status: int = 302) -> Say:
    return lambda path: iter([head(status, Content_Length=0, Location=location.replace("@", path))])


MEASURED = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(used * (1 if sys.platform == "darwin" else 1024), file=sys.stderr)
sys.exit(status)
"""
"""Runs a command; the last line says how many bytes of memory it took. Not asked here: what a child takes is counted
from its parent's memory on, and the tests' own is large.
"""


def pull(url: str, home: Path) -> tuple[int, str, str, int]:
    """Exit status, both outputs, and the most memory that it took."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LORAHUB_", "HF_"))}
    own = {"LORAHUB_HOME": str(home / "home"), "LORAHUB_ENDPOINT": url, "LORAHUB_TOKEN": "lh_secret"}
    command = [sys.executable, "-c", MEASURED, LORAHUB, "--json", "pull", "a/b", str(home / "target")]
    done = subprocess.run(command, env={**kept, **own}, capture_output=True, text=True, check=False)
    said, _, memory = done.stderr.rstrip().rpartition("\n")
    return done.returncode, done.stdout, said, int(memory)


HUGE = b"[" + b",".join(b'"%d"' % number for number in range(490_000)) + b"]"
MANY_KEYS = b"{" + b",".join(b'"%d":0' % number for number in range(490_000)) + b"}"


@pytest.mark.parametrize(
    ("say", "code"),
    [
        pytest.param(endless(), 8, id="an answer without an end"),
        pytest.param(endless(400), 2, id="a refusal without an end"),
        pytest.param(endless(503), 8, id="a fault without an end", marks=pytest.mark.slow),
        pytest.param(whole(gzip.compress(b" " * (256 * MiB), 1), Content_Encoding="gzip"), 8, id="a compressed bomb"),
        pytest.param(whole(b"[" * 200_000), 8, id="200,000 levels"),
        pytest.param(whole(b"[" + b"[]," * 5_000_000 + b"[]]"), 8, id="five million lists"),
        pytest.param(whole(HUGE), 8, id="as many values as are taken"),
        pytest.param(whole(MANY_KEYS), 8, id="as many keys as are taken"),
        pytest.param(whole(b'["' + b"x" * (16 * MiB - 4) + b'"]'), 8, id="as many bytes as are taken"),
    ],
)
def test_no_answer_takes_memory(tmp_path: Path, say: Say, code: int) -> None:
    with wire(say) as server:
        status, out, err, memory = pull(server.url, tmp_path)
    assert status == code, out
    assert "Traceback" not in err
    assert json.loads(out)["error"]["message"]
    assert memory <= MOST_MEMORY, f"{memory / MiB:.0f} MiB"
    assert server.sent < 40 * MiB, "it was cut off"


def lies_about(name: str, value: object) -> Say:
    return lambda _: iter([head(200, **{name: value}) + b"{}"])


@pytest.mark.parametrize(
    "say",
    [
        pytest.param(lies_about("Content_Length", 10), id="a body shorter than it says", marks=pytest.mark.slow),
        pytest.param(lies_about("Content_Length", 1), id="a body longer than it says"),
        pytest.param(lies_about("Content_Length", -1), id="a negative length", marks=pytest.mark.slow),
        pytest.param(lies_about("Content_Length", "9" * 5000), id="a length of 5000 digits"),
        pytest.param(lies_about("Content_Encoding", "br"), id="another coding"),
        pytest.param(lies_about("Transfer_Encoding", "chunked"), id="no chunks", marks=pytest.mark.slow),
        pytest.param(lambda _: iter([b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000]), id="headers without an end"),
        pytest.param(lambda _: iter([b"\0\xff\r\n\r\n"]), id="no HTTP"),
        pytest.param(redirecting("@"), id="a redirect to itself"),
        pytest.param(redirecting("@/x"), id="redirects without an end"),
        pytest.param(redirecting("file:///etc/passwd"), id="a redirect to a file"),
        pytest.param(redirecting("http://[::1"), id="a redirect to no address"),
        pytest.param(lambda _: iter([head(302)]), id="a redirect to nowhere"),
        pytest.param(whole(b"{}", 500, X_Error_Code="Bug"), id="its own bug is not ours"),
        pytest.param(whole(b"{}", 500, X_Error_Code="Interrupted"), id="nobody pressed Ctrl-C"),
        pytest.param(whole(b'{"facts":{"message":1,"hint":2,"self":3,"retry_after":-5}}', 404), id="facts of any name"),
        pytest.param(whole(b'{"error":{},"hint":[],"facts":[]}', 404), id="a refusal of other types"),
        pytest.param(whole(b"[]", 404, Retry_After="\xb2"), id="a superscript is no number"),
        pytest.param(whole(b"{}", 409, Retry_After="9" * 5000), id="5000 digits of seconds"),
        pytest.param(whole(b'{"commit": NaN}'), id="not a number"),
        pytest.param(whole(b'{"commit": 1e999}'), id="infinite"),
        pytest.param(whole(b'{"commit": "\\ud800"}'), id="half a character"),
        pytest.param(whole(b"\xff\xfe{"), id="another encoding"),
        pytest.param(whole(b"1" * 5000), id="5000 digits"),
        pytest.param(whole(b'{"a":1,"a":2}'), id="a key twice"),
        pytest.param(whole(b""), id="nothing"),
        pytest.param(whole(b"null"), id="null"),
    ],
)
def test_no_answer_makes_a_command_crash(tmp_path: Path, say: Say) -> None:
    with wire(say) as server:
        answer = Cli(tmp_path, LORAHUB_ENDPOINT=server.url, LORAHUB_TOKEN="lh_secret")("pull", "a/b", code=None)
    assert answer.code in (2, 4, 5, 6, 8), answer
    assert answer.error["message"]


def test_a_redirect_takes_the_token_nowhere(tmp_path: Path) -> None:
    with wire(whole(json.dumps(revision(("f.txt", b"x"))).encode())) as elsewhere:
        for status in (301, 302, 303, 307, 308):
            with wire(redirecting(f"{elsewhere.url}@", status)) as server:
                run = Cli(tmp_path, LORAHUB_ENDPOINT=server.url, LORAHUB_TOKEN="lh_secret")
                assert run("pull", "a/b", code=8).error["code"] == "RegistryFailed"
    assert elsewhere.heard == []


def test_a_cookie_is_given_back_to_nobody(tmp_path: Path) -> None:
    with wire(whole(b"{}", 404, Set_Cookie="a=b; Path=/")) as server:
        run = Cli(tmp_path, LORAHUB_ENDPOINT=server.url)
        run("info", "a/b", code=5)
        run("doctor", code=None)
    assert server.heard
    assert not [request for request in server.heard if "cookie:" in request.lower()]


@pytest.mark.parametrize("row", [b"[]", b'[{"id":"a/b"}]'], ids=["empty pages", "full pages"])
def test_a_list_without_an_end_is_left(tmp_path: Path, row: bytes) -> None:
    filler = row[:-1] + b" " * MiB + b"]"

    def say(path: str) -> Iterator[bytes]:
        yield (
            head(Content_Length=len(filler), Link=f'<{path.partition("?")[0]}?{random.random()}>; rel="next"') + filler
        )

    with wire(say) as server:
        run = Cli(tmp_path, LORAHUB_ENDPOINT=server.url)
        assert run("search", "--limit", "10000", code=8).error["code"] == "RegistryFailed"
    assert server.sent < 80 * MiB


@pytest.mark.slow
def test_an_answer_that_trickles_is_left(tmp_path: Path) -> None:
    def say(_: str) -> Iterator[bytes]:
        yield head() + b"["
        for _number in range(600):
            time.sleep(0.2)
            yield b" "

    with wire(say) as server:
        refused = Cli(tmp_path, LORAHUB_ENDPOINT=server.url)("info", "a/b", "--timeout", "1", code=8)
    assert refused.error["code"] == "RegistryFailed"
    assert "too long" in refused.error["message"]
    assert len(server.heard) == 1, "nobody is asked again who does this"


def test_nothing_is_sent_to_a_terminal_that_it_obeys(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\r\u202egnp.exe\x9b31m"
    body = revision(("f.txt", b"x"), message=evil, author=evil, version=evil, aliases=[evil])
    run = Cli(tmp_path)
    for answer in (whole(json.dumps(body).encode()), whole(json.dumps({"error": evil, "hint": evil}).encode(), 404)):
        with wire(answer) as server:
            for form in ("human", "quiet", "agent"):
                said = run.run("ls", "a/b@v1", "--format", form, "--endpoint", server.url)[1]
                assert not set(said) & set("\x1b\x07\r\u202e\x9b"), said
                assert form != "human" or "\\x1b[2J" in said, "it is shown as what it is"


@pytest.mark.parametrize(
    "wrong",
    [
        {"LORAHUB_ENDPOINT": "http://[::1"},
        {"LORAHUB_ENDPOINT": "http://here:99999"},
        {"LORAHUB_ENDPOINT": "file:///etc/passwd"},
        {"LORAHUB_ENDPOINT": "http://127.0.0.1:9", "LORAHUB_TOKEN": "lh_é"},
        {"LORAHUB_ENDPOINT": "http://127.0.0.1:9", "LORAHUB_TOKEN": "a\r\nHost: b"},
    ],
    ids=str,
)
def test_a_setting_that_can_be_no_address_or_token_is_named(tmp_path: Path, wrong: dict[str, str]) -> None:
    assert Cli(tmp_path, **wrong)("info", "a/b", code=2).error["code"] == "InvalidConfiguration"


# --- every answer, every field ----------------------------------------------------------------------------------------

WRONG: list[Any] = [
    None, True, -1, 0, 1 << 62, -0.5, "", "x" * 5000, "../../x", "/etc/x", "a\x1b[2Jb\u202e", "http://[", "²", "2020",
    [], {}, [[]], [None], {"a": 1}, [{}], ["x"], "file:///etc/passwd", "lh_é",
]  # fmt: skip
"""Put in the place of every value that a registry answers."""

PLAYS = 14
"""Changed answers of each command, beside one with each field left out."""


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values are; of a list, in its first element."""
    yield at
    children = (
        value.items() if isinstance(value, dict) else [(0, value[0])] if isinstance(value, list) and value else []
    )
    for key, child in children:
        yield from places(child, (*at, key))


def changed(document: Any, at: Sequence[Any], value: Any, *, leave_out: bool = False) -> Any:
    if not at:
        return value
    document = copy.deepcopy(document)
    inner = document
    for key in at[:-1]:
        inner = inner[key]
    if leave_out:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    return document


def write_base(folder: Path) -> Path:
    import numpy as np

    folder.mkdir()
    tensors = {f"model.layers.{n}.self_attn.q_proj.weight": np.zeros((16, 16), np.float32) for n in range(2)}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    return folder


COMMANDS = [
    "pull owner/sql TARGET",
    "push FOLDER owner/NEW --base owner/base",
    "info owner/sql",
    "ls owner/sql",
    "ls owner/sql@v1",
    "search sql",
    "check owner/sql",
    "check owner/sql --base owner/base",
    "check --all-of owner/base",
    "base add BASE owner/base",
    "base info owner/base",
    "base ls",
    "alias ls owner/sql",
    "alias set owner/sql@v1 champion",
    "lock owner/sql --file TARGET.lock",
    "identify FOLDER/adapter_model.safetensors",
    "retention show owner/sql",
    "retention set owner/sql --keep 3",
    "trust ls owner/sql",
    "mirror ls",
    "merge owner/base owner/sql --server owner/merged --dry-run",
    "merge owner/base owner/sql --server owner/merged --no-wait",
    "export owner/sql -o TARGET.bundle",
    "yank owner/sql@v1 --reason bad --yes",
    "yank owner/sql@v1 --undo",
    "policy owner/sql warn",
    "whoami",
    "doctor",
]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Recorded, Path]]:
    """A registry with a base and an adapter, one that records before it, and folders of the same."""
    place = tmp_path_factory.mktemp("recorded")
    registry = Registry(place / "registry").start()
    folder, base = write_adapter(place / "adapter", base="owner/base"), write_base(place / "base")
    (place / "token").write_text(registry.token)
    with Hub(registry.url, token=registry.token) as hub:
        hub.push(base, "owner/base")
        hub.bases.add(hash_folder(base, Silence()), "owner/base")
        hub.push(folder, "owner/sql")
    with recording(registry.url) as recorder:
        yield recorder, place
    registry.stop()


@pytest.mark.parametrize("command", COMMANDS)
def test_whatever_a_registry_answers_a_command_ends_as_documented(
    recorded: tuple[Recorded, Path], tmp_path: Path, command: str
) -> None:
    recorder, place = recorded
    chance = random.Random(command)
    token = (place / "token").read_text()
    words = {"FOLDER": place / "adapter", "BASE": place / "base", "NEW": f"new-{abs(hash(command)) % 10**6}"}
    count = iter(range(10_000))

    def run(form: str) -> tuple[int, str]:
        own = tmp_path / str(next(count))
        arguments = command
        for word, meant in {**words, "TARGET": own / "target"}.items():
            arguments = arguments.replace(word, str(meant))
        (own / "target").mkdir(parents=True)
        cli = Cli(own / "home", LORAHUB_ENDPOINT=recorder.url, LORAHUB_TOKEN=token, LORAHUB_FORMAT=form)
        return cli.run(*arguments.split())

    recorder.begin(plays=False)
    status, said = run("json")
    assert status in (0, 1), said
    heard = [one for one in recorder.heard.values() if one.document is not None]
    assert heard

    def play(one: Said, document: Any) -> None:
        recorder.begin(plays=True, change=lambda said: said.saying(document) if said.asked == one.asked else said)
        form = chance.choice(["human", "json", "agent"])
        status, said = run(form)
        assert status in (0, 1, 2, 4, 5, 6, 7, 8), f"{one.asked} {json.dumps(document)[:2000]}: {said}"
        assert "Traceback" not in said
        assert not set(said) & set("\x1b\x9b\u202e"), said

    every = [(one, at) for one in heard for at in places(one.document)]
    for one, at in chance.sample(every, min(PLAYS, len(every))):
        play(one, changed(one.document, at, chance.choice(WRONG)))
    for one, at in chance.sample(every, min(PLAYS // 2, len(every))):
        if at and not isinstance(at[-1], int):
            play(one, changed(one.document, at, None, leave_out=True))
    outside = {path.name for path in tmp_path.iterdir()} | {path.name for path in place.iterdir()}
    assert all(name.isdecimal() for name in outside - {"registry", "adapter", "base", "token"}), outside
