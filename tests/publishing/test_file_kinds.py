"""The three kinds of files, as a registry takes them: left out, refused, or ordinary content for download only."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wire
from builders import lora_config, lora_weights, safetensors_bytes, write_adapter
from corpus import file_kinds as corpus
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from registry_process import Client, Registry, eventually


@pytest.fixture
def repo(registry: Registry, user: tuple[str, str]) -> str:
    name, token = user
    with registry.client(token) as client:
        return wire.create_repo(client, f"{name}/kinds")


@pytest.fixture
def client(registry: Registry, user: tuple[str, str]) -> Iterator[Client]:
    with registry.client(user[1]) as open_client:
        yield open_client


def preupload(client: Client, repo: str, *paths: str, **body: Any) -> Any:
    files = [{"path": path, "size": 9, "sample": base64.b64encode(b"\x80\2harmful").decode()} for path in paths]
    return client.post(f"/api/models/{repo}/preupload/main", json={"files": files, **body})


# --- by-products ------------------------------------------------------------------------------------------------------


def test_clients_are_told_to_leave_by_products(client: Client, repo: str) -> None:
    paths = [
        *corpus.BY_PRODUCTS,
        "last-checkpoint/optimizer.pt",
        "adapter_config.json",
        "trainer_state.json",
        "lfs.bin",
    ]
    answered = wire.require(preupload(client, repo, *paths)).json()["files"]
    kept = [file["path"] for file in answered if not file["shouldIgnore"]]
    assert kept == ["adapter_config.json", "trainer_state.json", "lfs.bin"]


def test_a_commit_loses_its_by_products_and_says_so(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "home", log=tmp_path / "log").start()
    try:
        with registry.client() as client:
            repo = wire.create_repo(client, "owner/by-products")
            large = b"\x80\2" + bytes(3000)
            wire.upload(client, repo, large)
            lines = [
                wire.inline("training_args.bin", b"\x80\4."),
                wire.uploaded("last-checkpoint/optimizer.pt", large),
                wire.inline("notes.txt", b"notes"),
                wire.inline("Größe/scaler.pt", b"\x80\4."),
            ]
            answer = wire.require(wire.commit(client, repo, lines))
            assert answer.headers["X-HF-Warning"] == (
                "files; left out, as by-products of training: "
                "training_args.bin, last-checkpoint/optimizer.pt, Gr\\xf6\\xdfe/scaler.pt"
            )
            again = wire.require(wire.commit(client, repo, lines))
            assert (again.json(), again.headers["X-HF-Warning"]) == (answer.json(), answer.headers["X-HF-Warning"])
            assert set(wire.files(client, repo)) == {".gitattributes", "notes.txt"}
            quiet = wire.require(wire.commit(client, repo, [wire.inline("more.txt", b"more")]))
            assert "X-HF-Warning" not in quiet.headers
        assert registry.log is not None
        said = f"{repo}: by-products of training were left out: training_args.bin, last-checkpoint/optimizer.pt"
        eventually(lambda: said in (tmp_path / "log").read_text())
    finally:
        registry.stop()
        registry.assert_sound()


def test_a_version_is_the_same_with_and_without_by_products(client: Client, repo: str) -> None:
    lines = [wire.inline("adapter_config.json", json.dumps(lora_config()).encode())]
    first = wire.require(wire.commit(client, repo, [*lines, wire.version("latest")])).json()
    more = [*lines, wire.inline("training_args.bin", b"\x80\4."), wire.version("latest")]
    second = wire.require(wire.commit(client, repo, more)).json()
    assert (second["version"], second["digest"]) == (first["version"], first["digest"])


# --- pickles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["inline", "uploaded"])
def test_a_pickle_is_refused_whatever_its_name(client: Client, repo: str, way: str) -> None:
    pickles = {
        **corpus.archives_of_pickles(),
        **{name: corpus.pickles()[name] for name in ("code, protocol 0", "code, protocol 4")},
    }
    files = {f"{number}.txt": content for number, content in enumerate(pickles.values())}
    for content in files.values() if way == "uploaded" else ():
        wire.upload(client, repo, content)
    make = wire.uploaded if way == "uploaded" else wire.inline
    refused = wire.commit(client, repo, [make(path, content) for path, content in files.items()])
    assert refused.status_code == 422
    findings = refused.json()["facts"]["findings"]
    assert {finding["path"] for finding in findings} == set(files)
    assert {finding["code"] for finding in findings} == {"UnsafeFile"}
    assert all(finding["hint"] for finding in findings)
    assert set(wire.files(client, repo)) == {".gitattributes"}


def test_a_file_of_the_head_is_judged_by_its_new_name(client: Client, repo: str) -> None:
    harmless = b"a text"
    wire.require(wire.commit(client, repo, [wire.inline("notes.bin", harmless)]))
    copy = {"key": "lfsFile", "value": {"path": "adapter_model.bin", "algo": "sha256", "oid": wire.sha256(harmless)}}
    assert wire.commit(client, repo, [copy]).json()["code"] == "UnsafeFile"


def test_pickles_are_refused_before_their_bytes_are_sent(client: Client, repo: str) -> None:
    refused = preupload(client, repo, "pytorch_model.bin", "fine.txt", "model.ckpt")
    assert refused.status_code == 422
    assert "lorahub import --unsafe-pickle" in refused.json()["hint"]
    assert [finding["path"] for finding in refused.json()["facts"]["findings"]] == ["pytorch_model.bin", "model.ckpt"]
    ignored = wire.require(preupload(client, repo, "pytorch_model.bin", gitIgnore="*.bin"))
    assert ignored.json()["files"][0]["shouldIgnore"] is True


def test_the_stock_client_shows_the_cure(registry: Registry, user: tuple[str, str], repo: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.bin").write_bytes(corpus.archives_of_pickles()["PyTorch"])
    with pytest.raises(HfHubHTTPError, match=r"adapter_model\.bin is a PyTorch checkpoint; loading it can run code"):
        HfApi(registry.url, token=user[1]).upload_folder(repo_id=repo, folder_path=tmp_path)


# --- ordinary content -------------------------------------------------------------------------------------------------


def test_the_stock_client_publishes_content_of_every_kind(
    registry: Registry, user: tuple[str, str], repo: str, tmp_path: Path
) -> None:
    """Small files travel in the commit; those beyond a megabyte, and pictures, by Xet."""
    files = {
        **corpus.ordinary(),
        "large.bin": corpus.noise(2_000_000),
        "large.zip": corpus.zipped({"a": corpus.noise(3_000_000)}),
    }
    folder = corpus.written(write_adapter(tmp_path / "adapter"), files)
    for path in ("training_args.bin", "checkpoint-1/optimizer.pt"):
        corpus.written(folder, {path: corpus.archives_of_pickles()["PyTorch"]})
    api = HfApi(registry.url, token=user[1])
    api.upload_folder(repo_id=repo, folder_path=folder)
    listed = set(api.list_repo_files(repo))
    assert listed == {*files, "adapter_config.json", "adapter_model.safetensors", "README.md", ".gitattributes"}
    with registry.client(user[1]) as client:
        for path, content in files.items():
            answer = client.get(f"/{repo}/resolve/main/{path}")
            assert answer.content == content, path
            assert answer.headers["Content-Disposition"].startswith("attachment"), path
            assert answer.headers["Content-Type"] == "application/octet-stream", path
            if "X-Amz-Request-Id" not in answer.headers:  # what the storage hands out is no page of this address
                assert answer.headers["X-Content-Type-Options"] == "nosniff", path
                assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox", path


def test_a_by_product_alone_is_no_fault(registry: Registry, user: tuple[str, str], repo: str, tmp_path: Path) -> None:
    api = HfApi(registry.url, token=user[1])
    api.create_commit(repo, [CommitOperationAdd("training_args.bin", b"\x80\4.")], commit_message="by-products")
    corpus.written(tmp_path, {"training_args.bin": b"\x80\4.", "deep/optimizer.pt": bytes(3_000_000)})
    api.upload_folder(repo_id=repo, folder_path=tmp_path)
    assert api.list_repo_files(repo) == [".gitattributes"]


def test_weights_with_a_header_of_640_bytes_are_published(client: Client, repo: str) -> None:
    """Their length begins like a pickle of protocol 2."""
    import numpy as np

    spare = 640 - len(safetensors_bytes({"w": np.ones(1)}, {"note": ""})) + 12
    weights = safetensors_bytes({"w": np.ones(1)}, {"note": "x" * spare})
    assert weights.startswith(b"\x80\2\0")
    wire.upload(client, repo, weights)
    wire.require(wire.commit(client, repo, [wire.uploaded("model.safetensors", weights)]))


def test_an_operator_may_take_only_what_adapters_and_models_have(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "strict", {"LORAHUB_ORDINARY_FILES": "known"}).start()
    try:
        with registry.client() as client:
            repo = wire.create_repo(client, "owner/strict")
            weights = lora_weights()
            wire.upload(client, repo, weights)
            adapter = [
                wire.uploaded("adapter_model.safetensors", weights),
                wire.inline("adapter_config.json", json.dumps(lora_config()).encode()),
                wire.inline("training_args.bin", b"\x80\4."),
            ]
            wire.require(wire.commit(client, repo, adapter))
            for path in ("lfs.bin", "notes.zip", "tool", "array.npy", "notebook.ipynb"):
                refused = wire.commit(client, repo, [wire.inline(path, corpus.ordinary()[path])])
                assert refused.status_code == 422, path
                assert "this registry takes no other" in refused.json()["error"]
            disguised = wire.commit(client, repo, [wire.inline("notes.txt", corpus.ordinary()["notes.zip"])])
            assert "is a ZIP archive" in disguised.json()["error"]
    finally:
        registry.stop()
