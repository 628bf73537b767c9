"""Upstreams that lie, never end or lead elsewhere, by the name of the attack."""

import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import httpx2
import pytest
import wire
from hub_stand_in import Request, StandIn, answer, bomb, sha256, weights
from registry_process import Registry, serve

pytestmark = pytest.mark.xdist_group("upstreams")

LOG = "registry.log"


@pytest.fixture(scope="module")
def here(the_hub: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    defined = {"name": "hub", "endpoint": the_hub.url, "allow": ["*"], "hosts": the_hub.hosts}
    settings = {
        "LORAHUB_UPSTREAMS": json.dumps([defined]),
        "LORAHUB_OUTBOUND_INTERNAL": json.dumps(the_hub.hosts),
        "LORAHUB_JSON_BODY_BYTES": str(1 << 16),
    }
    running = serve(tmp_path_factory.mktemp("hostile"), settings)
    yield running
    running.stop()
    running.assert_sound()


@pytest.fixture
def canary() -> Iterator[tuple[str, list[str]]]:
    """A service beside the registry that nobody named; what it heard."""
    heard: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.path)
            answer(self, 200, b"x" * 100_000)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/latest/meta-data", heard
    server.shutdown()
    server.server_close()


def read(here: Registry, repo: str, path: str = "model.safetensors") -> Any:
    with here.client(None) as client:
        return client.get(f"/{repo}/resolve/main/{path}")


def _begin(here: Registry, address: str) -> tuple[int, str]:
    """How many bytes came, and the status, or that it broke."""
    got = 0
    with here.client(None) as client:
        try:
            with client.stream("GET", address) as response:
                for piece in response.iter_bytes():
                    got += len(piece)
                return got, str(response.status_code)
        except httpx2.HTTPError:
            return got, "it broke"


def nothing_is_stored(here: Registry, repo: str) -> bool:
    namespace, name = repo.split("/")
    rows = here.sql(
        "SELECT 1 FROM commit_files JOIN commits ON commits.id = commit_files.commit_id "
        "JOIN repositories ON repositories.id = commits.repository_id "
        "WHERE repositories.namespace = :namespace AND repositories.name = :name",
        namespace=namespace,
        name=name,
    )
    return not rows


def test_ssrf_a_redirect_to_an_inner_address(here: Registry, hub: StandIn, canary: tuple[str, list[str]]) -> None:
    for number, place in enumerate([canary[0], "http://169.254.169.254/latest/", "http://localhost/", "file:///etc"]):
        repo = f"evil/redirect{number}"
        hub.put(repo, {"model.safetensors": weights(40 + number)})
        hub.leads_to = place
        refused = read(here, repo)
        assert refused.status_code in (403, 503), place
        assert nothing_is_stored(here, repo)
    assert canary[1] == []


def test_ssrf_a_document_that_leads_elsewhere(here: Registry, hub: StandIn, canary: tuple[str, list[str]]) -> None:
    hub.put("evil/UPPER", {"config.json": b"{}"})
    hub.elsewhere = canary[0]
    with here.client(None) as client:
        assert client.get("/api/models/evil/upper").status_code == 503
    assert canary[1] == []


@pytest.mark.parametrize("more", [-1000, 1000])
def test_a_size_that_is_a_lie(here: Registry, hub: StandIn, more: int) -> None:
    content = weights(50 + more)
    repo = f"evil/size{'more' if more > 0 else 'less'}"
    hub.put(repo, {"model.safetensors": content})
    hub.listed = _changed(size=len(content) + more)
    _, outcome = _begin(here, f"/{repo}/resolve/main/model.safetensors")
    assert outcome in ("503", "it broke")
    assert nothing_is_stored(here, repo)


def test_a_digest_that_is_a_lie_reaches_nobody_to_its_end(here: Registry, hub: StandIn) -> None:
    content = weights(60, 10)
    hub.put("evil/digest", {"model.safetensors": content})
    hub.listed = _changed(sha256="ab" * 32)
    hub.leads_to = f"http://127.0.0.1:{hub.cdn_port}/{sha256(content)}?name=model.safetensors"
    got, response = _begin(here, "/evil/digest/resolve/main/model.safetensors")
    assert response in ("it broke", "503"), "the whole was here, and refused, before the answer began"
    assert got < len(content)
    assert nothing_is_stored(here, "evil/digest")
    again = read(here, "evil/digest")
    assert (again.status_code, "the hub sent" in again.text) == (503, True), "and isn't fetched again at once"
    assert hub.counts["model.safetensors"] == 1


def test_a_small_file_that_is_another_is_sent_to_nobody(here: Registry, hub: StandIn) -> None:
    hub.put("evil/small", {"config.json": b'{"a": 1}'})
    hub.bodies["config.json"] = lambda request: answer(request, 200, b'{"a": 2}')
    assert read(here, "evil/small", "config.json").status_code == 503
    assert nothing_is_stored(here, "evil/small")


def test_a_file_that_never_ends(here: Registry, hub: StandIn) -> None:
    hub.put("evil/endless", {"model.safetensors": weights(70)})
    sent = []

    def endless(request: Request) -> None:
        request.send_response(200)
        request.end_headers()
        while len(sent) < 10_000:
            request.wfile.write(b"\0" * (1 << 16))
            sent.append(1)

    hub.bodies["model.safetensors"] = endless
    _, outcome = _begin(here, "/evil/endless/resolve/main/model.safetensors")
    assert outcome in ("503", "it broke")
    assert len(sent) < 1000
    assert nothing_is_stored(here, "evil/endless")


def test_a_gzip_bomb(here: Registry, hub: StandIn) -> None:
    hub.put("evil/bomb", {"model.safetensors": weights(71), "config.json": b"{}"})
    packed = bomb(200 << 20)
    for path in ("model.safetensors", "config.json"):
        hub.bodies[path] = lambda request: answer(request, 200, packed, {"Content-Encoding": "gzip"})
        assert read(here, "evil/bomb", path).status_code == 503
    assert nothing_is_stored(here, "evil/bomb")


def test_a_listing_without_an_end(here: Registry, hub: StandIn) -> None:
    hub.put("evil/listing", {f"file{number}.txt": b"x" for number in range(2000)})
    with here.client(None) as client:
        assert client.get("/api/models/evil/listing").status_code == 503


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../b", "a\\b", "a\nb", "", ".git/config"])
def test_a_path_out_of_the_folder(here: Registry, hub: StandIn, path: str) -> None:
    repo = f"evil/path{hashlib.md5(path.encode()).hexdigest()[:6]}"
    hub.put(repo, {path: b"x"})
    with here.client(None) as client:
        refused = client.get(f"/api/models/{repo}")
    assert (refused.status_code, refused.headers["X-Error-Code"]) == (503, "Unavailable")


def test_a_commit_that_is_a_private_one_of_ours(here: Registry, hub: StandIn) -> None:
    with here.client() as admin:
        wire.require(admin.post("/api/lorahub/v1/organisations", json={"name": "ours"}))
        wire.create_repo(admin, "ours/private", private=True)
        head = wire.head(admin, "ours/private")
    hub.put("evil/twin", {"config.json": b"{}"})
    hub.listed = lambda said: {**said, "sha": head}
    with here.client(None) as anyone:
        assert anyone.get("/api/models/evil/twin").status_code == 503
        assert anyone.get(f"/api/models/evil/twin/revision/{head}").status_code in (404, 503)


def test_bytes_that_are_claimed_and_not_brought(here: Registry, hub: StandIn) -> None:
    """A hub that knows the digest of a private file of ours gets nobody to read it."""
    secret = weights(80)
    with here.client() as admin:
        wire.create_repo(admin, "ours/weights", private=True)
        wire.upload(admin, "ours/weights", secret)
        wire.require(wire.commit(admin, "ours/weights", [wire.uploaded("notes.bin", secret)]))
    hub.put("evil/claims", {"model.bin": weights(81)})
    hub.listed = _changed(sha256=sha256(secret), size=len(secret))
    assert read(here, "evil/claims", "model.bin").status_code == 503
    assert nothing_is_stored(here, "evil/claims")


def test_tokens_go_to_nobody_else_and_into_no_log(hub: StandIn, tmp_path: Path) -> None:
    """Ours never up, the upstream's never down, nor to where it leads."""
    hub.token = "hf_the-upstreams-own-secret"
    hub.put("evil/gated", {"model.safetensors": weights(90), "config.json": b"{}"})
    defined = {"name": "hub", "endpoint": hub.url, "allow": ["*"], "hosts": hub.hosts}
    settings = {
        "LORAHUB_UPSTREAMS": json.dumps([defined]),
        "LORAHUB_OUTBOUND_INTERNAL": json.dumps(hub.hosts),
        "LORAHUB_LOG_LEVEL": "debug",
    }
    here = Registry(tmp_path / "logged", settings, log=tmp_path / LOG).start()
    _seal(here, hub.token, tmp_path)
    with here.client() as admin:
        said = [wire.require(admin.get("/api/models/evil/gated"))]
        said += [admin.get(f"/evil/gated/resolve/main/{path}") for path in ("model.safetensors", "config.json")]
        said.append(admin.get("/evil/gated/resolve/main/nothing.txt"))
        assert [one.status_code for one in said] == [200, 200, 200, 404]
        audit = admin.get("/api/lorahub/v1/audit").text
    rows = here.sql("SELECT definition, fault, sealed_token FROM upstreams")
    listed = here.admin_command("upstream", "ls")
    here.stop()
    of_api = [headers for path, headers in hub.heard if "Signature" not in path]
    of_files = [headers for path, headers in hub.heard if "Signature" in path]
    assert of_files
    assert not any("authorization" in headers for headers in of_files)
    assert all(headers["authorization"] == f"Bearer {hub.token}" for headers in of_api)
    heard = json.dumps([[path, headers] for path, headers in hub.heard])
    assert here.token not in heard
    assert "cookie" not in heard
    seen = "".join([*(one.text + str(one.headers) for one in said if one.status_code != 200), audit, str(listed)])
    for text in (seen, str(rows), (tmp_path / LOG).read_text(), str(said[0].headers) + said[0].text):
        assert hub.token not in text
        assert here.token not in text
        assert "Signature=secret" not in text


def _seal(here: Registry, token: str, folder: Path) -> None:
    (folder / "token.txt").write_text(f"{token}\n")
    with (folder / "token.txt").open() as given, mock.patch("sys.stdin", given):
        assert here.admin_command("upstream", "token", "hub") == {"upstream": "hub", "has_token": True}


def _changed(**values: Any) -> Callable[[dict[str, Any]], Any]:
    """Lies about every large file."""

    def listed(said: dict[str, Any]) -> Any:
        lies = {"size": values["size"]} if "size" in values else {}
        for sibling in said["siblings"]:
            if "lfs" in sibling:
                sibling.update(lies)
                sibling["lfs"].update(values)
        return said

    return listed
