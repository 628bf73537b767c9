"""A server that answers like the Hub: Xet headers, redirects to another host, tags of documents, 429."""

import gzip
import hashlib
import http.server
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from lorahub.protocol.digests import git_blob_sha1, lfs_pointer

SMALL = 1 << 16
"""Bytes up to which a file is no large one."""

Request = http.server.BaseHTTPRequestHandler


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class StandIn:
    """`repos`: by name, by revision, the files. A commit's id follows from the files, as git's does."""

    port: int = 0
    cdn_port: int = 0
    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    """Said of every repository, beside what follows from its files."""
    counts: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes of each file."""
    heard: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    is_away: bool = False
    token: str | None = None
    """Without which it gives no files."""
    wait: int | None = None
    """Of its 429."""
    cut: dict[str, int] = field(default_factory=dict)
    """By path: after how many bytes the connection ends, once."""
    pace: float = 0
    """Seconds for each MiB."""
    bodies: dict[str, Callable[[Request], None]] = field(default_factory=dict)
    """By path of a file: what is answered instead of it."""
    leads_to: str | None = None
    """Where files are, if not at the other host."""
    elsewhere: str | None = None
    """Where it says that a name in another case is."""
    listed: Callable[[dict[str, Any]], Any] = lambda said: said

    def __enter__(self) -> Self:
        self._servers = [self._serve("127.0.0.1", self._api), self._serve("127.0.0.1", self._cdn)]
        self.port, self.cdn_port = (server.server_address[1] for server in self._servers)
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def hosts(self) -> list[str]:
        return [f"127.0.0.1:{self.port}", f"127.0.0.1:{self.cdn_port}"]

    def put(self, repo: str, files: dict[str, bytes], revision: str = "main") -> str:
        """The commit."""
        commit = self.commit(files)
        self.repos.setdefault(repo, {}).update({revision: files, commit: files})
        return commit

    @staticmethod
    def commit(files: dict[str, bytes]) -> str:
        return hashlib.sha1(json.dumps({path: sha256(one) for path, one in files.items()}).encode()).hexdigest()

    @property
    def asked(self) -> Counter[str]:
        """By kind of what was asked for."""
        return Counter({kind: self.counts[kind] for kind in ("revision", "resolve", "refs") if self.counts[kind]})

    def forget(self) -> None:
        """As if it had just started, with what it has."""
        for counted in (self.counts, self.sent, self.heard, self.cut, self.bodies, self.info):
            counted.clear()
        self.is_away, self.token, self.wait, self.pace = False, None, None, 0
        self.leads_to = self.elsewhere = None
        self.listed = lambda said: said

    def _serve(self, host: str, answer: Callable[[Request], None]) -> http.server.ThreadingHTTPServer:
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.heard.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                self.close_connection = True
                if hub.is_away:
                    return
                answer(self)

            do_HEAD = do_GET  # noqa: N815 (the library's name)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass

        server = Server((host, 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    # --- what it says -------------------------------------------------------------------------------------------------

    def _api(self, request: Request) -> None:
        path = urlsplit(request.path).path
        if self.wait is not None:
            return answer(request, 429, b"", {"Retry-After": str(self.wait)})
        if path.startswith("/api/models/"):
            return self._document(request, path.removeprefix("/api/models/").split("/"))
        namespace, name, _, revision, rest = path.removeprefix("/").split("/", 4)
        files = self._files(f"{namespace}/{name}", unquote(revision))
        content = files.get(unquote(rest)) if files else None
        if content is None:
            return answer(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return answer(request, 403, b"", {"X-Error-Code": "GatedRepo"})
        self.counts["resolve"] += 1
        self.counts[unquote(rest)] += 1
        if len(content) <= SMALL:
            return self._bytes(request, unquote(rest), content)
        place = self.leads_to or f"http://127.0.0.1:{self.cdn_port}/{sha256(content)}?name={rest}&Signature=secret"
        xet = {"X-Xet-Hash": "0" * 64, "Link": f'<{self.url}/api/models/x/xet-read-token/main>; rel="xet-auth"'}
        linked = {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{sha256(content)}"'}
        return answer(request, 302, b"", {"Location": place, **xet, **linked})

    def _document(self, request: Request, parts: list[str]) -> None:
        repo, kind = "/".join(parts[:2]), parts[2]
        known = next((name for name in self.repos if name.lower() == repo.lower()), None)
        if known is None:
            return answer(request, 401, b"", {"X-Error-Code": "RepoNotFound"})
        if known != repo:
            return answer(request, 307, b"", {"Location": self.elsewhere or request.path.replace(repo, known)})
        self.counts[kind] += 1
        files = self._files(repo, "main" if kind == "refs" else unquote(parts[3]))
        if files is None:
            return answer(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
        said = {"refs": self._refs, "commits": self._commits, "revision": self._info}[kind](repo, files)
        body = json.dumps(said).encode()
        tag = f'W/"{sha256(body)[:40]}"'
        is_known = request.headers.get("If-None-Match") == tag
        return answer(request, 304 if is_known else 200, b"" if is_known else body, {"ETag": tag})

    def _refs(self, repo: str, _: dict[str, bytes]) -> Any:
        names = [
            {"name": name, "targetCommit": self.commit(one)} for name, one in self.repos[repo].items() if len(name) < 40
        ]
        return {"branches": names, "tags": [], "converts": []}

    def _commits(self, _: str, files: dict[str, bytes]) -> Any:
        one = {"id": self.commit(files), "title": "upstream's", "message": "", "date": "2026-01-02T03:04:05.000Z"}
        return [{**one, "authors": [{"user": "ada"}]}]

    def _info(self, repo: str, files: dict[str, bytes]) -> Any:
        return self.listed(
            {
                "id": repo,
                "sha": self.commit(files),
                "siblings": [_sibling(path, content) for path, content in files.items()],
                "lastModified": "2026-01-02T03:04:05.000Z",
                "tags": ["license:mit"],
                "cardData": {"license": "mit"},
                **self.info,
            }
        )

    def _files(self, repo: str, revision: str) -> dict[str, bytes] | None:
        return self.repos.get(repo, {}).get(revision)

    # --- bytes --------------------------------------------------------------------------------------------------------

    def _cdn(self, request: Request) -> None:
        parts = urlsplit(request.path)
        digest, path = parts.path.removeprefix("/"), parse_qs(parts.query)["name"][0]
        contents = (one for repo in self.repos.values() for files in repo.values() for one in files.values())
        self._bytes(request, path, next(content for content in contents if sha256(content) == digest))

    def _bytes(self, request: Request, path: str, content: bytes) -> None:
        if path in self.bodies:
            return self.bodies[path](request)
        start, stop = 0, len(content)
        if wanted := request.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last or stop), stop - 1) + 1
        headers = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"} if wanted else {}
        end = min(stop, self.cut.pop(path)) if path in self.cut else stop
        request.send_response(206 if wanted else 200)
        for name, value in {"Content-Length": str(stop - start), "X-Xet-Hash": "0" * 64, **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        for at in range(start, end, 1 << 18):
            if self.is_away:
                break
            piece = content[at : min(at + (1 << 18), end)]
            request.wfile.write(piece)
            self.sent[path] += len(piece)
            time.sleep(self.pace / 4)
        return None


def weights(seed: int, megabytes: float = 1) -> bytes:
    """No safetensors; bytes."""
    return random.Random(seed).randbytes(int(megabytes * (1 << 20)))


def _sibling(path: str, content: bytes) -> dict[str, Any]:
    if len(content) <= SMALL:
        return {"rfilename": path, "size": len(content), "blobId": git_blob_sha1(content)}
    digest, size = sha256(content), len(content)
    pointer = lfs_pointer(digest, size)  # type: ignore[arg-type]
    lfs = {"sha256": digest, "size": size, "pointerSize": len(pointer)}
    return {"rfilename": path, "size": size, "blobId": git_blob_sha1(pointer), "lfs": lfs, "xetHash": "0" * 64}


def answer(request: Request, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


def bomb(size: int) -> bytes:
    """A megabyte for each kilobyte."""
    return gzip.compress(b"\0" * size, 9)
