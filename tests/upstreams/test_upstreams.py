"""Repositories of another hub under their own names: asked for when they are first read, fetched once, served from then
on. The hub is played by a server that answers like the public one, and by a second registry.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import sqlalchemy
import wire
from builders import safetensors_bytes, write_adapter
from hub_stand_in import StandIn, sha256, weights
from lorahub.hub.hub import Hub
from registry_process import Registry, eventually, serve

Start = Callable[..., Registry]

pytestmark = pytest.mark.xdist_group("upstreams")


@pytest.fixture(scope="module")
def start(the_hub: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """A registry that may ask the hub for what `rules` say; the same for the same rules and settings."""
    started: dict[str, Registry] = {}

    def start(settings: dict[str, str] | None = None, **rules: Any) -> Registry:
        defined = {"name": "hub", "endpoint": the_hub.url, "allow": ["*"], "hosts": the_hub.hosts, **rules}
        chosen = {
            "LORAHUB_UPSTREAMS": json.dumps([defined]),
            "LORAHUB_OUTBOUND_INTERNAL": json.dumps(the_hub.hosts),
            "LORAHUB_UPSTREAM_MISSING": "PT10M",
            **(settings or {}),
        }
        key = json.dumps(chosen)
        if key not in started:
            started[key] = serve(tmp_path_factory.mktemp("here"), chosen)
        return started[key]

    yield start
    for running in started.values():
        running.stop()
        running.assert_sound()


@pytest.fixture
def here(start: Start) -> Registry:
    """One that may ask for everything, and hasn't just heard that the hub is away."""
    registry = start()
    with registry.database() as connection:
        connection.exec_driver_sql("UPDATE upstreams SET quiet_until = NULL")
    return registry


def model(seed: int = 1, megabytes: float = 1) -> dict[str, bytes]:
    return {
        "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
        "README.md": b"---\nlicense: mit\n---\n# A model\n",
        "model.safetensors": weights(seed, megabytes),
    }


def past_fresh(here: Registry, days: float = 1) -> None:
    """As if what upstreams said had been said so long ago."""
    with here.database() as connection:
        is_sqlite = connection.dialect.name == "sqlite"
        ago = f"datetime(checked_at, '-{days} days')" if is_sqlite else f"checked_at - interval '{days} days'"
        connection.exec_driver_sql(f"UPDATE upstream_answers SET checked_at = {ago}")
        connection.exec_driver_sql("UPDATE upstreams SET quiet_until = NULL")


def test_a_repository_of_the_hub_is_read_as_one_of_ours(here: Registry, hub: StandIn) -> None:
    files = model()
    commit = hub.put("Qwen/Small", files)
    with here.client(None) as anyone:
        info = wire.require(anyone.get("/api/models/Qwen/Small", params={"blobs": True})).json()
        assert (info["sha"], info["id"], info["cardData"]) == (commit, "Qwen/Small", {"license": "mit"})
        assert {one["rfilename"]: one["size"] for one in info["siblings"]} == {p: len(c) for p, c in files.items()}
        assert hub.asked["resolve"] == 0, "files come when they are first read"
        tree = wire.require(anyone.get("/api/models/Qwen/Small/tree/main")).json()
        assert next(one for one in tree if one["path"] == "model.safetensors")["lfs"]["oid"] == sha256(
            files["model.safetensors"]
        )
        for path, content in files.items():
            head = wire.require(anyone.head(f"/Qwen/Small/resolve/main/{path}"))
            assert (head.headers["X-Repo-Commit"], int(head.headers["Content-Length"])) == (commit, len(content))
            got = wire.require(anyone.get(f"/Qwen/Small/resolve/main/{path}"))
            assert (got.content, got.headers["ETag"]) == (content, head.headers["ETag"])
        assert "X-Xet-Hash" not in head.headers
        assert anyone.get("/api/models/Qwen/Small/refs").json()["branches"][0]["targetCommit"] == commit
        [first] = anyone.get("/api/models/Qwen/Small/commits/main").json()
        assert (first["id"], first["title"], first["authors"][0]["user"]) == (commit, "upstream's", "ada")
        before = hub.counts.copy()
        assert anyone.get("/Qwen/Small/resolve/main/model.safetensors").content == files["model.safetensors"]
        part = anyone.get(f"/Qwen/Small/resolve/{commit}/model.safetensors", headers={"Range": "bytes=10-19"})
        assert part.content == files["model.safetensors"][10:20]
        assert anyone.get("/api/models/qwen/small").json()["id"] == "Qwen/Small"
        assert hub.counts == before, "what is fresh and here is asked for no more"


def test_eight_cold_clients_are_one_transfer(here: Registry, hub: StandIn) -> None:
    content = weights(2, 20)
    hub.put("Qwen/Large", {"model.safetensors": content})

    def fetch(number: int) -> bytes:
        with here.client(None) as client:
            start = number * 1_000_003
            headers = {"Range": f"bytes={start}-"} if number else {}
            return client.get("/Qwen/Large/resolve/main/model.safetensors", headers=headers).content

    with ThreadPoolExecutor(8) as clients:
        found = list(clients.map(fetch, range(8)))
    assert found == [content[number * 1_000_003 :] for number in range(8)]
    assert hub.asked["revision"] == 1
    assert (hub.counts["model.safetensors"], hub.sent["model.safetensors"]) == (1, len(content))


def test_a_transfer_that_breaks_is_gone_on_with(here: Registry, hub: StandIn) -> None:
    content = weights(3, 20)
    hub.put("Qwen/Broken", {"model.safetensors": content})
    hub.cut["model.safetensors"] = 17 << 20
    with here.client(None) as client:
        assert client.get("/Qwen/Broken/resolve/main/model.safetensors").content == content
    assert hub.sent["model.safetensors"] == len(content), "nothing came twice"


def test_an_upstream_that_is_killed_in_mid_file_leaves_nothing_half(here: Registry, hub: StandIn) -> None:
    content = weights(4, 12)
    commit = hub.put("Qwen/Killed", {"model.safetensors": content})
    hub.pace = 0.1
    with here.client(None) as client:
        with client.stream("GET", "/Qwen/Killed/resolve/main/model.safetensors") as answer:
            pieces = answer.iter_bytes()
            got = next(pieces)
            hub.is_away = True
            with pytest.raises(httpx2.HTTPError):
                got += b"".join(pieces)
        assert content.startswith(got)
        assert len(got) < len(content)
        assert not here.sql("SELECT path FROM commit_files WHERE commit_id = :commit", commit=commit)
        hub.is_away, hub.pace = False, 0
        eventually(lambda: client.head("/Qwen/Killed/resolve/main/model.safetensors").status_code == 200)

        def rest() -> httpx2.Response:
            return client.get("/Qwen/Killed/resolve/main/model.safetensors", headers={"Range": f"bytes={len(got)}-"})

        eventually(lambda: got + rest().content == content, 20)


def test_an_upstream_that_is_away_leaves_what_was_read_once(here: Registry, hub: StandIn) -> None:
    files = model(5)
    hub.put("Qwen/Away", files)
    hub.put("Qwen/Away", {**files, "new.txt": b"x"}, "dev")
    with here.client(None) as client:
        for path in files:
            wire.require(client.get(f"/Qwen/Away/resolve/main/{path}"))
        hub.is_away = True
        for days in (0.5, 1, 2, 4):
            past_fresh(here, days)
            for path, content in files.items():
                assert wire.require(client.get(f"/Qwen/Away/resolve/main/{path}")).content == content
                head = wire.require(client.head(f"/Qwen/Away/resolve/main/{path}"))
                assert int(head.headers["Age"]) >= days * 86_000
                assert head.headers["X-HF-Warning"].startswith("upstream; ")
            said = wire.require(client.get("/api/models/Qwen/Away/revision/main"))
            assert said.headers["Age"]
        assert client.get("/api/models/Qwen/Away/revision/dev").status_code == 503, "it was never asked for"
        assert client.get("/api/models/Qwen/Elsewhere").status_code == 503
        hub.is_away = False
        past_fresh(here)
        eventually(lambda: client.get("/api/models/Qwen/Away/revision/dev").status_code == 200)
        assert "Age" not in client.get("/Qwen/Away/resolve/main/config.json").headers


def test_a_revision_is_asked_for_again_when_it_is_no_longer_fresh(here: Registry, hub: StandIn) -> None:
    files = model(6)
    first = hub.put("Qwen/Moves", files)
    with here.client(None) as client:
        for _ in range(20):
            for path in files:
                client.head(f"/Qwen/Moves/resolve/main/{path}")
        assert hub.asked == {"revision": 1}
        past_fresh(here)
        assert client.head("/Qwen/Moves/resolve/main/README.md").headers["X-Repo-Commit"] == first
        assert (hub.asked["revision"], hub.heard[-1][1]["if-none-match"][:2]) == (2, "W/")
        client.get("/Qwen/Moves/resolve/main/model.safetensors")
        second = hub.put("Qwen/Moves", {**files, "README.md": b"new"})
        assert client.head("/Qwen/Moves/resolve/main/README.md").headers["X-Repo-Commit"] == first
        past_fresh(here)
        assert client.get("/Qwen/Moves/resolve/main/README.md").content == b"new"
        assert client.get("/api/models/Qwen/Moves").json()["sha"] == second
        before = hub.counts["model.safetensors"]
        assert client.get("/Qwen/Moves/resolve/main/model.safetensors").content == files["model.safetensors"]
        assert hub.counts["model.safetensors"] == before, "the same bytes of another commit are here"
        assert client.get(f"/Qwen/Moves/resolve/{first}/README.md").content == files["README.md"]


def test_what_is_not_there_is_not_asked_for_again_and_again(here: Registry, hub: StandIn) -> None:
    hub.put("Qwen/There", model(7))
    with here.client(None) as client:
        for _ in range(10):
            assert client.get("/api/models/Qwen/Nowhere").status_code == 404
            assert client.get("/api/models/Qwen/There/revision/nope").headers["X-Error-Code"] == "RevisionNotFound"
            missing = client.head("/Qwen/There/resolve/main/adapter_config.json")
            assert (missing.status_code, len(missing.headers["X-Repo-Commit"])) == (404, 40)
    asked = [path for path, _ in hub.heard]
    assert len([path for path in asked if "Nowhere" in path]) == 1
    assert len([path for path in asked if "nope" in path]) == 1


def test_a_hub_that_wants_patience_gets_it(here: Registry, hub: StandIn) -> None:
    hub.put("Qwen/Busy", model(8))
    hub.wait = 60
    with here.client(None) as client:
        for _ in range(5):
            answer = client.get("/api/models/Qwen/Busy")
            assert answer.status_code == 503
            assert 50 <= int(answer.headers["Retry-After"]) <= 60
    assert len(hub.heard) == 1


def test_nothing_is_asked_but_what_the_operator_allowed(start: Start, hub: StandIn) -> None:
    for name in ("Qwen/Small", "Qwen/Other", "evil/Small"):
        hub.put(name, model(9))
    with start(allow=["qwen/small"]).client() as client:
        assert client.get("/api/models/Qwen/Small").status_code == 200
        asked = len(hub.heard)
        for name in ("Qwen/Other", "evil/Small", "Qwen/Small2", "Qwen/..%2FOther"):
            assert client.get(f"/api/models/{name}").status_code == 404
        for revision in ("..%2F..%2Fapi", "main%3Fx=1", "merged%2Fv1", "main%23"):
            assert client.get(f"/api/models/Qwen/Small/revision/{revision}").status_code in (404, 422)
    assert all("/revision/main?" in path or "main%3Fx" in path for path, _ in hub.heard[asked:]), hub.heard[asked:]


def test_a_licence_that_is_not_taken_is_refused(start: Start, hub: StandIn) -> None:
    hub.put("Qwen/Licensed", model(10))
    with start(licenses=["apache-2.0"]).client(None) as client:
        answer = client.get("/api/models/Qwen/Licensed")
        assert (answer.status_code, "mit" in answer.json()["error"]) == (403, True)
        assert client.get("/Qwen/Licensed/resolve/main/config.json").status_code == 403
    assert hub.asked == {"revision": 1}


def test_private_names_are_never_asked_for(here: Registry, hub: StandIn) -> None:
    """Dependency confusion: whoever registers our name upstream gets nothing served here, and hears of nothing."""
    for name in ("acme/secret", "Acme/Secret", "ac-me/secret", "ac_me/other", "acme/new"):
        hub.put(name, model(11))
    with here.client() as admin, here.client(None) as anyone:
        wire.require(admin.post("/api/lorahub/v1/organisations", json={"name": "acme"}))
        wire.create_repo(admin, "acme/secret", private=True)
        for name in ("acme/secret", "ACME/secret", "Acme/Secret", "ac-me/secret", "acme/new", "aCmE/other"):
            expected = anyone.get("/api/models/acme/nothing").json()["error"].replace("acme/nothing", name)
            if name != "ac-me/secret":
                assert anyone.get(f"/api/models/{name}").json()["error"] == expected
                assert anyone.get(f"/{name}/resolve/main/config.json").status_code == 404
        assert [path for path, _ in hub.heard if "ac-me" not in path] == []
        wire.create_repo(admin, "acme/gone")
        wire.require(admin.request("DELETE", "/api/repos/delete", json={"name": "gone", "organization": "acme"}))
        assert admin.get("/api/models/acme/gone").status_code == 404
    assert [path for path, _ in hub.heard if "acme" in path.lower()] == []


def test_nobody_publishes_into_a_repository_of_an_upstream(here: Registry, hub: StandIn) -> None:
    hub.put("Qwen/Read", model(12))
    with here.client() as admin:
        wire.require(admin.get("/api/models/Qwen/Read"))
        refused = wire.commit(admin, "Qwen/Read", [wire.inline("x.txt", b"x")])
        assert (refused.status_code, "upstream" in refused.json()["error"]) == (403, True)
        body = {"fromRepo": "Qwen/Read", "toRepo": "root/Read", "type": "model"}
        assert admin.post("/api/repos/move", json=body).status_code == 403


def test_a_gated_repository_is_gated_here_too(here: Registry, hub: StandIn) -> None:
    hub.put("Qwen/Gated", model(13))
    hub.info, hub.token = {"gated": "manual"}, "hub-token"
    here.admin_command("upstream", "ls")
    with here.client() as admin, here.client(None) as anyone:
        assert anyone.get("/api/models/Qwen/Gated").json()["gated"] == "manual"
        assert anyone.get("/Qwen/Gated/resolve/main/model.safetensors").headers["X-Error-Code"] == "GatedRepo"
        refused = admin.get("/Qwen/Gated/resolve/main/model.safetensors")
        assert (refused.status_code, "without access" in refused.json()["error"]) == (403, True)


def test_our_own_client_pulls_it_and_judges_by_it(
    here: Registry, hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAHUB_HOME", str(tmp_path / "home"))
    files = {**model(14), "model.safetensors": llama(), "empty": b""}
    hub.put("Qwen/Pulled", files)
    with Hub(here.url, token=here.token) as ours:
        ours.pull("Qwen/Pulled", tmp_path / "pulled")
    assert {path: (tmp_path / "pulled" / path).read_bytes() for path in files} == files
    hub.forget()
    hub.put("Qwen/Judged", {**files, "README.md": b"judged", "empty": b""})
    with Hub(here.url, token=here.token) as ours:
        ours.push(write_adapter(tmp_path / "adapter", base="Qwen/Judged"), "owner/judged")
    with here.client() as client:
        judged = client.get("/api/models/owner/judged", params={"expand": "adapter"}).json()["adapter"]
    assert (judged["base"], judged["verdict"]) == ("Qwen/Judged", "fits")
    assert hub.sent["model.safetensors"] < 10_000, "its header is read, and not its weights"


def llama() -> bytes:
    """Weights that the small adapter fits."""
    shapes = {"model.embed_tokens.weight": (20_000, 16)}
    shapes |= {f"model.layers.{layer}.self_attn.q_proj.weight": (16, 16) for layer in range(2)}
    return safetensors_bytes({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})


def test_its_page_says_what_it_is_and_an_administrator_keeps_it(here: Registry, hub: StandIn) -> None:
    hub.put("Qwen/Paged", model(15))
    with here.client(None) as anyone:
        page = wire.require(anyone.get("/Qwen/Paged", headers={"Accept": "text/html"})).text
        assert "from hub" in page
        assert "A model" in page, "its card was fetched"
        eventually(lambda: _is_here(here, "Paged"))
        shown = wire.require(anyone.get("/Qwen/Paged.json")).json()["adapter"]
        assert (shown["upstream"]["name"], shown["upstream"]["filesHere"], shown["mayWrite"]) == ("hub", 1, False)
        for tab in ("tree/main", "commits/main", "versions", "lineage/main", "blob/main/config.json"):
            wire.require(anyone.get(f"/Qwen/Paged/{tab}", headers={"Accept": "text/html"}))
        found = wire.require(anyone.get("/api/models", params={"search": "Paged"})).json()
        assert [one["id"] for one in found] == ["Qwen/Paged"]
    assert here.admin_command("upstream", "keep", "Qwen/Paged") == {"repository": "Qwen/Paged", "kept": True}
    with here.client() as admin:
        assert admin.get("/Qwen/Paged.json").json()["adapter"]["upstream"]["kept"]
        settings = wire.require(admin.get("/Qwen/Paged/settings", headers={"Accept": "text/html"})).text
        assert "Let it go when others need room" in settings
    refused = here.admin_command("upstream", "keep", "owner/nothing")
    assert refused["error"]["code"] == "RepoNotFound"


def test_what_was_read_longest_ago_makes_room(start: Start, hub: StandIn) -> None:
    here = start({"LORAHUB_UPSTREAM_BYTES": str(3 << 20), "LORAHUB_BLOB_GRACE": "PT0S"})
    contents = {name: weights(number) for number, name in enumerate(("kept", "first", "second", "third"), 20)}
    with here.client(None) as client:
        for name, content in contents.items():
            hub.put(f"Qwen/{name}", {"model.safetensors": content})
            assert client.get(f"/Qwen/{name}/resolve/main/model.safetensors").content == content
            if name == "kept":
                eventually(lambda: _is_here(here, "kept"))
                here.admin_command("upstream", "keep", "Qwen/kept")
            if name == "second":
                eventually(lambda: _is_here(here, "second"))
                _read_long_ago(here, wire.sha256(content))
        eventually(lambda: [name for name in contents if _is_here(here, name)] == ["kept", "first", "third"])
        assert client.get("/Qwen/second/resolve/main/model.safetensors").content == contents["second"]
        hub.put("Qwen/large", {"model.safetensors": weights(25, 4)})
        refused = client.get("/Qwen/large/resolve/main/model.safetensors")
        assert refused.headers["X-Error-Code"] == "QuotaExceeded"
    held = here.admin_command("upstream", "ls")[0]
    assert held["bytes"] <= 3 << 20


def _read_long_ago(here: Registry, digest: str) -> None:
    with here.database() as connection:
        statement = "UPDATE upstream_files SET read_at = '2026-01-02 03:04:05' WHERE digest = :digest"
        connection.execute(sqlalchemy.text(statement), {"digest": digest})


def _is_here(here: Registry, name: str) -> bool:
    with here.client(None) as client:
        return bool(client.get(f"/Qwen/{name}.json").json()["adapter"]["upstream"]["filesHere"])


def test_the_name_of_an_organisation_that_is_served_is_kept_for_it(start: Start, hub: StandIn) -> None:
    here = start(allow=["qwen/small"])  # the settings of another test: the same registry
    with here.client(here.add_user("squatter")) as anybody:
        refused = anybody.post("/api/lorahub/v1/organisations", json={"name": "Qwen"})
        assert (refused.status_code, refused.headers["X-Error-Code"]) == (400, "InvalidName")
        wire.require(anybody.post("/api/lorahub/v1/organisations", json={"name": "mine"}))
    with here.client() as admin:
        said = {"status": admin.get("/api/models/Qwen/Nothing").status_code}
    assert said == {"status": 404}
    assert hub.heard == []


def test_an_upstream_is_added_and_taken_away_while_the_registry_runs(hub: StandIn, tmp_path: Path) -> None:
    files = model(16)
    commit = hub.put("lab/Added", files)
    here = serve(tmp_path / "here", {"LORAHUB_OUTBOUND_INTERNAL": json.dumps(hub.hosts)})
    hosts = [argument for host in hub.hosts for argument in ("--host", host)]
    with here.client() as admin, here.client(None) as anyone:
        assert admin.get("/api/models/lab/Added").status_code == 404
        added = here.admin_command("upstream", "add", "lab", hub.url, "--allow", "lab/*", "--private", *hosts)
        assert (added["name"], added["allow"], added["private"]) == ("lab", ["lab/*"], True)
        assert here.admin_command("upstream", "check", "lab", "lab/Added")["commit"] == commit
        assert here.admin_command("upstream", "check", "lab", "evil/Added")["error"]["code"] == "NotPermitted"
        assert here.admin_command("upstream", "add", "x", "ftp://x", "--allow", "*")["error"]["code"] == "InvalidInput"
        asked = len(hub.heard)
        eventually(lambda: anyone.get("/api/models/lab/Added").status_code == 404 and _is_known(admin), 20)
        assert len(hub.heard) == asked + 1, "who has no account here makes it ask for nothing"
        assert admin.get("/lab/Added/resolve/main/model.safetensors").content == files["model.safetensors"]
        assert anyone.get("/lab/Added/resolve/main/model.safetensors").status_code == 404
        [listed] = here.admin_command("upstream", "ls")
        assert (listed["repositories"], listed["has_token"], listed["by_settings"]) == (1, False, False)
        here.admin_command("upstream", "rm", "lab")
        eventually(lambda: admin.get("/api/models/lab/Other").status_code == 404)
        assert admin.get("/lab/Added/resolve/main/model.safetensors").content == files["model.safetensors"]
    here.stop()
    here.assert_sound()


def _is_known(client: httpx2.Client) -> bool:
    return client.get("/api/models/lab/Added").status_code == 200
