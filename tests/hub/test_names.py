"""What people write for a base or an adapter means the same in every command, with a network and without.

A second registry stands for the Hub, whose protocol it speaks. Nothing is public there.
"""

import hashlib
import io
import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import huggingface_hub
import lorahub
import numpy as np
import pytest
from builders import safetensors_bytes, write_adapter
from hub.test_transfers import lying, revision
from lorahub.cli.main import main
from lorahub.errors import InvalidUsage
from lorahub.merging.recipe import Ingredient, Recipe
from lorahub.protocol.digests import git_blob_sha1
from registry_process import Registry
from serving.adapters import save_adapter
from serving.text_model import save_text_model

pytestmark = [
    pytest.mark.xdist_group("names"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
]


@dataclass(frozen=True)
class Answer:
    code: int
    document: dict[str, Any]
    said: str
    """On standard error."""

    @property
    def result(self) -> Any:
        return self.document["result"]

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.document["error"]
        return found


class Cli:
    """`lorahub` in this process, with a home and an environment of its own: a start takes seconds."""

    def __init__(self, home: Path, **variables: str) -> None:
        self.home = home
        self.variables = variables

    def __call__(self, *arguments: object, stdin: str = "", code: int | None = 0, **variables: str) -> Answer:
        status, out, said = self._run(("--json", *arguments), stdin, variables)
        answer = Answer(status, json.loads(out), said)
        assert code is None or answer.code == code, answer
        return answer

    def shown(self, *arguments: object) -> str:
        """To people."""
        return self._run(arguments, "", {})[1]

    def run(self, *arguments: object) -> tuple[int, str]:
        """The exit status, and all that was said."""
        status, out, said = self._run(arguments, "", {})
        return status, out + said

    def _run(self, arguments: Sequence[object], stdin: str, variables: Mapping[str, str]) -> tuple[int, str, str]:
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("LORAHUB_", "HF_"))}
        own = {"LORAHUB_HOME": str(self.home), "LORAHUB_PROGRESS": "none", **self.variables, **variables}
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, {**kept, **own}, clear=True),
            mock.patch("sys.stdin", io.StringIO(stdin)),
            redirect_stdout(out),
            redirect_stderr(err),
            pytest.raises(SystemExit) as end,
        ):
            main([*map(str, arguments)])
        return int(end.value.code or 0), out.getvalue(), err.getvalue()


@dataclass(frozen=True)
class Scene:
    """The same base and adapter on a registry, as `own`'s, and on the Hub, as `org`'s; and in a folder."""

    here: Registry
    there: Registry
    folder: Path
    base: str
    adapter: str
    commits: dict[str, str]

    def cli(self, home: Path, **variables: str) -> Cli:
        addresses = {"LORAHUB_ENDPOINT": self.here.url, "LORAHUB_HF_ENDPOINT": self.there.url}
        return Cli(home, LORAHUB_TOKEN=self.here.token, HF_TOKEN=self.there.token, **{**addresses, **variables})

    def written(self, way: str, what: str) -> str:
        """`base` or `adapter` in one of the ways."""
        name = getattr(self, what)
        commit = self.commits[f"{'hf' if way.startswith('hf') else 'registry'} {what}"]
        host = self.here.url.removeprefix("http://")
        return {
            "folder": str(self.folder / what),
            "hf": f"hf:{name}",
            "hf pinned": f"hf:{name}@{commit}",
            "hf address": f"{self.there.url}/{name}/tree/main",
            "registry": name,
            "registry version": f"{name}@v1",
            "registry pinned": f"{name}@{commit}",
            "registry host": f"lorahub://{host}/{name}@latest",
            "registry address": f"{self.here.url}/{name}/v/v1",
        }[way]


class SmallHub(BaseHTTPRequestHandler):
    """Just what reading a model takes, of one model; with faults."""

    files: dict[str, bytes]
    broken: set[str]
    entries: dict[str, dict[str, Any]]
    """What is said of a file beside its name and size, where that isn't its digest."""
    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        name = self.path.rpartition("/")[2]
        if self.path.startswith("/api/models/"):
            siblings = [
                {"rfilename": path, "size": len(content), **self.said_of(path)} for path, content in self.files.items()
            ]
            self.answer(json.dumps({"id": "a/b", "sha": "0123456789" * 4, "siblings": siblings}).encode())
        else:
            self.answer(self.files[name], is_broken=name in self.broken)

    def said_of(self, path: str) -> dict[str, Any]:
        content = self.files[path]
        large = {"lfs": {"sha256": hashlib.sha256(content).hexdigest()}}
        small = {"blobId": git_blob_sha1(content)}
        return self.entries.get(path, large if path.endswith((".safetensors", ".bin")) else small)

    def answer(self, body: bytes, *, is_broken: bool = False) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if is_broken else body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def small_hub(files: dict[str, bytes], **says: Any) -> Iterator[tuple[str, type[SmallHub]]]:
    handler = type("ThisHub", (SmallHub,), {"files": files, "broken": set(), "entries": {}, "seen": [], **says})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("names")
    here, there = Registry(folder / "here").start(), Registry(folder / "there").start()
    save_text_model(folder / "base")
    save_adapter("llama", folder / "adapter", seed=1, noise=0.5)
    config = folder / "adapter" / "adapter_config.json"
    base, adapter = f"{here.admin}/base", f"{here.admin}/sql"
    config.write_text(config.read_text().replace("acme/llama", base))
    (folder / "rows.jsonl").write_text('{"prompt": "1 and ", "completion": "red"}\n' * 3)
    recipe = Recipe(str(folder / "base"), (Ingredient(str(folder / "adapter")),))
    with lorahub.Hub(here.url, token=here.token) as hub:
        hub.merge(recipe, folder / "tuned")
    commits = {}
    for kind, registry in (("registry", here), ("hf", there)):
        with lorahub.Hub(registry.url, token=registry.token) as hub:
            commits[f"{kind} base"] = hub.push(folder / "base", base, private=True).commit
            commits[f"{kind} adapter"] = hub.push(folder / "adapter", adapter, private=True).commit
    yield Scene(here, there, folder, base, adapter, commits)
    for registry in (here, there):
        registry.kill()


WAYS = [
    "folder", "hf", "hf pinned", "hf address",
    "registry", "registry version", "registry pinned", "registry host", "registry address",
]  # fmt: skip
COMMANDS = [
    "check", "base info", "estimate", "merge", "dry merge", "combine", "extract", "convert", "plan", "train", "eval",
    "chat", "pull", "push",
]  # fmt: skip


def run(
    cli: Cli,
    command: str,
    base: str,
    adapter: str,
    scene: Scene,
    out: Path,
    *more: str,
    code: int = 0,
    **variables: str,
) -> Answer:
    """The command on this base and this adapter."""
    rows = scene.folder / "rows.jsonl"
    few = ("--steps", 1, "--rank", 2, "--max-len", 64, "--eval-split", 0, "--device", "cpu")
    arguments = {
        "check": ("check", adapter, "--base", base, "--for", "peft"),
        "base info": ("base", "info", base),
        "estimate": ("estimate", base),
        "merge": ("merge", base, f"{adapter}=0.5", "-o", out),
        "dry merge": ("merge", base, adapter, "--dry-run"),
        "combine": ("combine", f"{adapter}=0.5", f"{adapter}=0.25", "-o", out),
        "extract": ("extract", base, scene.folder / "tuned", "-o", out, "--rank", 4),
        "convert": ("convert", adapter, out, "--to", "peft-normalized", "--base", base),
        "plan": ("train", base, rows, *few, "--plan"),
        "train": ("train", base, rows, "-o", out, *few),
        "eval": ("eval", adapter, "--base", base, "--data", rows, "--no-merged", "--no-save", "--max-len", 64),
        "chat": ("chat", base, "--adapter", f"x={adapter}", "--max-new-tokens", 1),
        "pull": ("pull", base, out),
        "push": ("push", scene.folder / "adapter", f"{scene.here.admin}/pushed", "--base", base),
    }[command]
    return cli(*arguments, *more, stdin="hello\n", code=code, **variables)


@pytest.mark.parametrize("way", WAYS)
def test_names_mean_the_same_in_every_command(scene: Scene, way: str, tmp_path: Path) -> None:
    cli = scene.cli(tmp_path / "home")
    heavy = {"train", "eval", "chat", "plan"} if way not in ("hf", "registry") else set()
    skipped = {"pull"} if way == "folder" else set()
    base, adapter = scene.written(way, "base"), scene.written(way, "adapter")
    commands = [command for command in COMMANDS if command not in heavy | skipped]
    answers = {command: run(cli, command, base, adapter, scene, tmp_path / command) for command in commands}

    assert answers["check"].result["checks"][0]["verdict"] in ("fits", "compatible")
    assert answers["base info"].result["parameters"] == answers["estimate"].result["model"]["parameters"]
    merged = (tmp_path / "merge" / "model.safetensors").read_bytes()
    assert len(merged) == (scene.folder / "base" / "model.safetensors").stat().st_size
    assert merged != (scene.folder / "base" / "model.safetensors").read_bytes()
    if way != "folder":
        assert (tmp_path / "pull" / "model.safetensors").read_bytes() == (
            scene.folder / "base" / "model.safetensors"
        ).read_bytes()
    if "train" in answers:
        manifest = json.loads((tmp_path / "train" / "lorahub.json").read_text())
        kind = way.partition(" ")[0]
        assert (manifest["base"]["name"], manifest["base"]["revision"]) == (scene.base, scene.commits[f"{kind} base"])
        assert [turn["adapter"] for turn in answers["chat"].result["turns"]] == ["x"]
        assert answers["eval"].result["scores"]["adapter"]["loss"] > 0


# --- without a network ------------------------------------------------------------------------------------------------


@pytest.fixture
def unplug(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From then on, whoever asks the network fails the test."""

    def refuse(_: socket.socket, address: object) -> None:
        pytest.fail(f"{address} was asked")

    return lambda: monkeypatch.setattr(socket.socket, "connect", refuse)


OFFLINE = [command for command in COMMANDS if command not in ("plan", "push")]


@pytest.mark.parametrize("kind", ["hf", "registry"])
def test_what_was_read_before_needs_no_network(
    scene: Scene, kind: str, tmp_path: Path, unplug: Callable[[], None]
) -> None:
    cli = scene.cli(tmp_path / "home")
    base, adapter = scene.written(kind, "base"), scene.written(kind, "adapter")
    online = {command: run(cli, command, base, adapter, scene, tmp_path / f"online-{command}") for command in OFFLINE}
    unplug()
    for command in OFFLINE:
        moving = run(cli, command, base, adapter, scene, tmp_path / f"moving-{command}", "--offline")
        assert "! offline: " in moving.said, "what a name was taken for is said"
        assert "as of 20" in moving.said
        pinned = [scene.written(f"{kind} pinned", what) for what in ("base", "adapter")]
        fixed = run(cli, command, *pinned, scene, tmp_path / f"fixed-{command}", LORAHUB_OFFLINE="1")
        assert "offline" not in fixed.said
        if command == "check":
            verdicts = [answer.result["checks"][0]["verdict"] for answer in (online[command], moving, fixed)]
            assert verdicts in (["compatible"] * 3, ["fits"] * 3)
        if command in ("merge", "combine", "convert", "pull"):
            assert same_weights(tmp_path / f"online-{command}", tmp_path / f"fixed-{command}")
    for name in (f"{base}-other", f"{base}@{'0' * 40}"):
        refused = run(cli, "merge", name, adapter, scene, tmp_path / "none", "--offline", code=2)
        assert f"{name} was never read on this machine, and no network is asked (--offline)" in refused.said
    refused = cli("push", scene.folder / "adapter", "acme/other", "--offline", code=2)
    assert f"this needs {scene.here.url}, and no network is asked (--offline)" in refused.said


def test_only_headers_were_read_before(scene: Scene, tmp_path: Path, unplug: Callable[[], None]) -> None:
    cli = scene.cli(tmp_path / "home")
    for kind in ("hf", "registry"):
        adapter, base = scene.written(kind, "adapter"), scene.written(kind, "base")
        read = cli("check", adapter, "--base", base).result["bytes_read"]
        assert 0 < read < (scene.folder / "base" / "model.safetensors").stat().st_size
    unplug()
    for kind in ("hf", "registry"):
        pinned, base = scene.written(f"{kind} pinned", "adapter"), scene.written(f"{kind} pinned", "base")
        checked = cli("check", pinned, "--base", base, "--offline")
        assert checked.result["checks"][0]["verdict"] in ("fits", "compatible")
        assert checked.result["bytes_read"] == 0
        assert checked.said == ""
        told = cli("check", pinned, "--base", base, "--offline", "--level", "drift", code=1)
        assert f"{pinned} is here in parts: " in told.result["checks"][0]["findings"][0]["message"]


def same_weights(one: Path, other: Path) -> bool:
    [name] = {path.name for path in one.glob("*.safetensors")}
    return (one / name).read_bytes() == (other / name).read_bytes()


def test_a_name_of_another_host_is_not_the_same_name(scene: Scene, tmp_path: Path) -> None:
    cli = scene.cli(tmp_path / "home")
    cli("base", "info", scene.base)
    refused = cli("base", "info", scene.base, "--offline", code=2, LORAHUB_ENDPOINT="http://127.0.0.1:9")
    assert "was never read on this machine" in refused.said


# --- where the Hub is, and who is told what ---------------------------------------------------------------------------


def test_the_hub_is_where_the_settings_say(scene: Scene, tmp_path: Path) -> None:
    nowhere, name = "http://127.0.0.1:9", f"hf:{scene.base}"
    plain = Cli(tmp_path / "home", LORAHUB_TIMEOUT="1")
    plain("config", "set", "hf_endpoint", scene.there.url)
    token = {"HF_TOKEN": scene.there.token}
    plain("base", "info", name, **token)
    plain("base", "info", name, **token, HF_ENDPOINT=scene.there.url)
    plain("base", "info", name, **token, HF_ENDPOINT=nowhere, LORAHUB_HF_ENDPOINT=scene.there.url)
    plain("base", "info", name, **token, HF_ENDPOINT=nowhere, code=8)
    shown = plain("config", "list", HF_ENDPOINT=scene.there.url).result["hf_endpoint"]
    assert shown == {"value": scene.there.url, "origin": "HF_ENDPOINT"}


def test_hf_hub_offline_closes_the_hub_alone(scene: Scene, tmp_path: Path) -> None:
    cli = scene.cli(tmp_path / "home", HF_HUB_OFFLINE="1")
    cli("base", "info", scene.base)
    refused = cli("base", "info", f"hf:{scene.base}", code=2)
    assert "no network is asked (HF_HUB_OFFLINE)" in refused.said


def test_tokens_go_to_their_own_hosts(tmp_path: Path) -> None:
    """The registry's to no other; the one that `hf auth login` saved to the Hub's own address only."""
    folder = tmp_path / "huggingface"
    folder.mkdir()
    (folder / "token").write_text("hf_saved")
    cli = Cli(tmp_path / "home", LORAHUB_TOKEN="lh_secret", HF_HOME=str(folder))
    with lying(revision=revision(("f.txt", b"right")), content=b"right") as (url, liar):
        cli("pull", f"lorahub://{url.removeprefix('http://')}/a/b", LORAHUB_ENDPOINT="http://127.0.0.1:9")
        cli("base", "info", "hf:a/b", LORAHUB_HF_ENDPOINT=url, code=None)
    assert len(liar.seen) > 2
    assert {token for _, token in liar.seen} == {None}


def test_a_strangers_word_leads_to_no_other_host(tmp_path: Path) -> None:
    """What an adapter calls its base is looked up as a name, or not at all."""
    cli = Cli(tmp_path / "home", LORAHUB_ENDPOINT="http://127.0.0.1:9")
    with lying(revision=revision(), content=b"") as (url, liar):
        claims = [
            f"lorahub://{url.removeprefix('http://')}/a/b",
            f"{url}/a/b",
            "hf:a/b",
            "/content/x",
            "./absent",
            "a b",
        ]
        for number, claim in enumerate(claims):
            folder = write_adapter(tmp_path / str(number), base="acme/x")
            config = json.loads((folder / "adapter_config.json").read_text())
            (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": claim}))
            checked = cli("check", folder, LORAHUB_HF_ENDPOINT=url).result["checks"]
            assert [(one["base"], one["verdict"]) for one in checked] == [(claim, "undecided")]
    assert liar.seen == []


def test_a_registry_that_is_down_is_no_verdict(scene: Scene, tmp_path: Path) -> None:
    cli = scene.cli(tmp_path / "home")
    down = {"LORAHUB_ENDPOINT": "http://127.0.0.1:9"}
    [row] = cli("check", scene.folder / "adapter", **down).result["checks"]
    assert (row["verdict"], row["outcome"]) == ("undecided", "undecided")
    [found] = [one for one in row["findings"] if one["rule"] == "LH506"]
    assert "--level metadata looks for none" in found["hint"]
    cli("check", scene.folder / "adapter", "--fail-on", "undecided", **down, code=1)
    assert cli("check", scene.folder / "adapter", "--offline", **down).result["summary"]["undecided"] == 1
    registry = Registry(tmp_path / "registry").start()
    with lorahub.Hub(registry.url, token=registry.token) as hub:
        hub.push(scene.folder / "base", f"{registry.admin}/base")
    known = {"LORAHUB_ENDPOINT": registry.url, "LORAHUB_TOKEN": registry.token}
    commands = (("base", "info", f"{registry.admin}/base"), ("pull", f"{registry.admin}/base"))
    for command in commands:
        cli(*command, **known)
    registry.kill()
    for command in commands:
        assert "--offline goes on with what was read before" in cli(*command, **known, code=8).said


# --- what is not a name -----------------------------------------------------------------------------------------------


def test_what_leads_nowhere_is_said_with_what_is_meant(scene: Scene, tmp_path: Path) -> None:
    cli = scene.cli(tmp_path / "home")
    adapter = scene.folder / "adapter"
    for base, said in (
        ("gpt2", "the Hub's is called hf:gpt2"),
        ("./absent", "./absent isn't there"),
        ("nobody/absent", "no base is called nobody/absent"),
        (f"{scene.base}@v9", "there are: v1, latest"),
        ("hub.example/acme/sql", "is written lorahub://hub.example/acme/sql"),
        ("https://elsewhere.example/acme/sql", "is no repository's address"),
        (f"{scene.here.url}/{scene.base}/blob/main/config.json", "is no repository's address"),
    ):
        [row] = cli("check", adapter, "--base", base).result["checks"]
        assert said in " ".join(f"{one['message']} {one['hint']}" for one in row["findings"])
    assert "is written lorahub://hub.example/acme/sql" in cli("pull", "hub.example/acme/sql", code=2).said
    for command in (("pull",), ("train",), ("chat",), ("merge",)):
        rest = {"train": [scene.folder / "rows.jsonl"], "merge": [adapter, "-o", tmp_path / "x"]}.get(command[0], [])
        assert cli(*command, "nobody/absent", *rest, code=5).error["code"] == "RepoNotFound"
    weights = scene.folder / "base" / "model.safetensors"
    assert "is no folder here" in cli("train", weights, scene.folder / "rows.jsonl", code=5).said
    assert "is the Hub's" in cli("eval", "hf:a/b", "--data", scene.folder / "rows.jsonl", "--push", code=2).said


def test_without_a_revision_the_latest_version_else_main(scene: Scene, tmp_path: Path) -> None:
    cli = scene.cli(tmp_path / "home")
    name = f"{scene.here.admin}/moving"
    with lorahub.Hub(scene.here.url, token=scene.here.token) as hub, scene.here.client() as client:
        hub.create(name)
        line = {"key": "file", "value": {"path": "a.txt", "content": "", "encoding": "utf-8"}}
        header = {"key": "header", "value": {"summary": "x"}}
        body = "\n".join(map(json.dumps, (header, line)))
        made = client.post(
            f"/api/models/{name}/commit/main", content=body, headers={"Content-Type": "application/x-ndjson"}
        ).json()
        assert cli("pull", name).result["commit"] == made["commitOid"]
        first = hub.push(scene.folder / "adapter", name)
        hub.push(scene.folder / "base", name, latest=False)
    assert cli("pull", name).result["commit"] == first.commit


# --- parts ------------------------------------------------------------------------------------------------------------


def test_a_download_that_broke_off_is_never_taken_for_the_whole(scene: Scene, tmp_path: Path) -> None:
    cli = scene.cli(tmp_path / "home", LORAHUB_TIMEOUT="2")
    rows = scene.folder / "rows.jsonl"
    for kind in ("hf", "registry"):
        base, adapter = scene.written(kind, "base"), scene.written(kind, "adapter")
        cli("pull", base, "--include", "*.json")
        cli("pull", adapter, "--include", "README.md", "--include", "adapter_config.json")
        for command in (
            ("train", base, rows, "-o", tmp_path / "out"),
            ("chat", base),
            ("merge", base, scene.folder / "adapter", "-o", tmp_path / "out"),
            ("merge", scene.folder / "base", adapter, "-o", tmp_path / "out"),
            ("pull", base),
        ):
            refused = cli(*command, "--offline", code=2)
            assert re.search(r" is here in parts: \d of \d files are missing, first \S+, and no network", refused.said)
            assert not (tmp_path / "out").exists()
        cli("merge", base, adapter, "-o", tmp_path / kind)
        assert len(list((tmp_path / kind).glob("*.safetensors"))) == 1
        cli("chat", base, "--offline", stdin="")


def test_a_hub_that_breaks_off(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"x" * 1000}
    with small_hub(files, broken={"model.safetensors"}) as (url, hub):
        cli = Cli(tmp_path / "home", LORAHUB_HF_ENDPOINT=url, LORAHUB_TIMEOUT="1")
        cli("pull", "hf:a/b", code=8)
        assert "1 of 2 files are missing" in cli("pull", "hf:a/b", "--offline", code=2).said
        hub.broken.clear()
        pulled = Path(cli("pull", "hf:a/b").result["path"])
    assert {path.name: path.read_bytes() for path in pulled.iterdir()} == files
    assert cli("pull", "hf:a/b", "--offline").result["path"] == str(pulled)


def test_what_the_hub_says_of_its_files_is_proved(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home", LORAHUB_TIMEOUT="1")
    for path, said in (
        ("config.json", {"blobId": git_blob_sha1(b"other")}),
        ("model.safetensors", {"lfs": {"sha256": hashlib.sha256(b"other").hexdigest()}}),
    ):
        with small_hub({path: b"{}"}, entries={path: said}) as (url, _):
            assert cli("pull", "hf:a/b", code=7, LORAHUB_HF_ENDPOINT=url).error["code"] == "DigestMismatch"
            assert (
                "1 of 1 files are missing" in cli("pull", "hf:a/b", "--offline", code=2, LORAHUB_HF_ENDPOINT=url).said
            )
    with small_hub({"config.json": b"{}"}, entries={"config.json": {"blobId": "computed"}}) as (url, _):
        pulled = cli("pull", "hf:a/b", LORAHUB_HF_ENDPOINT=url).result
    assert pulled["files"] == [{"path": "config.json", "size": 2, "sha256": None}]
    assert Path(pulled["path"], "config.json").read_bytes() == b"{}"


def test_pickles_stay_on_the_hub(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "pytorch_model.bin": b"\x80\x02}q\x00.", "model.safetensors": b"x"}
    with small_hub(files) as (url, hub):
        pulled = Cli(tmp_path / "home", LORAHUB_HF_ENDPOINT=url)("pull", "hf:gpt2", tmp_path / "out")
    assert [one["path"] for one in pulled.result["left"]] == ["pytorch_model.bin"]
    assert "left there: pytorch_model.bin: pytorch_model.bin is a PyTorch checkpoint" in pulled.said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    assert all(path.startswith(("/api/models/gpt2/revision/main", "/gpt2/resolve/")) for path in hub.seen)


def test_a_hub_cannot_write_out_of_the_folder(tmp_path: Path) -> None:
    for path in ("../x", "/etc/x", "a/../../x"):
        with small_hub({path: b"x"}) as (url, hub):
            cli = Cli(tmp_path / "home", LORAHUB_HF_ENDPOINT=url)
            assert cli("pull", "hf:a/b", tmp_path / "out", code=2).error["code"] == "InvalidPath"
        assert len(hub.seen) == 1
    assert not (tmp_path / "out").exists()


def test_what_the_hubs_own_clients_fetched_is_not_fetched_again(scene: Scene, tmp_path: Path) -> None:
    stock, name = tmp_path / "huggingface", f"hf:{scene.base}"
    huggingface_hub.snapshot_download(
        scene.base, endpoint=scene.there.url, token=scene.there.token, cache_dir=stock / "hub"
    )
    [blobs] = stock.glob("hub/models--*/blobs")
    files = {path.name: path.read_bytes() for path in (scene.folder / "base").iterdir()}
    with small_hub(files) as (url, hub):
        cli = scene.cli(tmp_path / "home", LORAHUB_HF_ENDPOINT=url, HF_HOME=str(stock))
        offline = cli("pull", name, HF_HUB_OFFLINE="1")
        assert hub.seen == []
        assert f"! offline: {name} is {scene.commits['hf base'][:12]}, as of 20" in offline.said
        cli("cache", "rm", "--all", "--yes")
        pulled = Path(cli("pull", name).result["path"])
        assert [path for path in hub.seen if "/resolve/" in path] == []
        assert {path.name: path.read_bytes() for path in pulled.iterdir()} == files
        cli("cache", "rm", "--all", "--yes")
        [weights] = [path for path in blobs.iterdir() if path.read_bytes() == files["model.safetensors"]]
        weights.write_bytes(bytes(weights.stat().st_size))  # damaged: what has the name is proved
        pulled = Path(cli("pull", name).result["path"])
        assert {path.name: path.read_bytes() for path in pulled.iterdir()} == files


def test_what_the_hubs_own_clients_have_in_parts_is_not_whole(scene: Scene, tmp_path: Path) -> None:
    stock = tmp_path / "huggingface"
    huggingface_hub.snapshot_download(
        scene.base, endpoint=scene.there.url, token=scene.there.token, cache_dir=stock / "hub", allow_patterns="*.json"
    )
    cli = scene.cli(tmp_path / "home", HF_HOME=str(stock), HF_HUB_OFFLINE="1")
    train = ("train", f"hf:{scene.base}", scene.folder / "rows.jsonl", "-o", tmp_path / "out")
    assert re.search(r"is here in parts: \d of \d files are missing", cli(*train, code=2).said)
    [trees] = stock.glob("hub/models--*/trees")
    shutil.rmtree(trees)  # as older clients leave it
    assert "was never read on this machine" in cli(*train, code=2).said


def test_a_merge_on_the_registry_is_of_its_own_repositories(scene: Scene, tmp_path: Path) -> None:
    cli = scene.cli(tmp_path / "home")
    for way in ("hf", "folder"):
        base = scene.written(way, "base")
        refused = cli("merge", base, scene.adapter, "--server", "a/b", "--dry-run", code=2)
        assert refused.error["code"] == "InvalidReference"
    plain = cli("merge", scene.base, scene.adapter, "--server", "a/b", "--dry-run").result
    for way in ("registry host", "registry address"):
        names = [scene.written(way, what) for what in ("base", "adapter")]
        planned = cli("merge", *names, "--server", "a/b", "--dry-run").result
        assert (planned["cost"], planned["files"].keys()) == (plain["cost"], plain["files"].keys())
    checks = cli("check", "--all-of", f"hf:{scene.base}").result["checks"]
    assert (scene.adapter, "fits") in [(one["adapter"], one["verdict"]) for one in checks]


def test_a_hub_cannot_pass_off_a_file_of_ours_as_its_own(tmp_path: Path) -> None:
    ours = tmp_path / "home" / "cache" / "ours.safetensors"
    ours.parent.mkdir(parents=True)
    ours.write_bytes(safetensors_bytes({"secret": np.ones((2, 2))}))
    path = f"../../../../../cache/{ours.name}"
    index = json.dumps({"weight_map": {"secret": path}}).encode()
    with small_hub({"model.safetensors.index.json": index, path: ours.read_bytes()}) as (url, hub):
        hub.files[ours.name] = b""
        told = Cli(tmp_path / "home", LORAHUB_HF_ENDPOINT=url)("base", "info", "hf:a/b", code=7)
    assert told.error["code"] == "InvalidBaseModel"


# --- the SDK ----------------------------------------------------------------------------------------------------------


def test_the_sdk_reads_names_as_the_commands_do(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unplug: Callable[[], None]
) -> None:
    for name in [name for name in os.environ if name.startswith(("LORAHUB_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LORAHUB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LORAHUB_ENDPOINT", scene.here.url)
    monkeypatch.setenv("LORAHUB_TOKEN", scene.here.token)
    monkeypatch.setenv("LORAHUB_HF_ENDPOINT", scene.there.url)
    monkeypatch.setenv("HF_TOKEN", scene.there.token)
    with lorahub.Hub() as hub:
        for way in WAYS:
            folder = hub.fetch(scene.written(way, "base"))
            assert (folder / "model.safetensors").stat().st_size > 1000
        lorahub.Session(scene.folder / "base").load("sql", scene.adapter)
        pulled = hub.pull(f"hf:{scene.adapter}", tmp_path / "pulled")
        assert (pulled.contents.commit, pulled.left) == (scene.commits["hf adapter"], ())
    unplug()
    monkeypatch.setenv("LORAHUB_OFFLINE", "1")
    session = lorahub.Session(scene.written("hf pinned", "base"))
    assert session.load("sql", scene.written("registry pinned", "adapter")).rank == 4
    with lorahub.Hub() as hub:
        assert hub.pull(f"{scene.base}@v1").revision.version == "v1"
        with pytest.raises(InvalidUsage, match=r"no network is asked \(LORAHUB_OFFLINE\)"):
            hub.whoami()
