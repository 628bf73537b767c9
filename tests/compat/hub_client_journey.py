"""What a user of the Hub does, with whatever huggingface_hub is first on the path. Run as a program:

    python hub_client_journey.py ENDPOINT TOKEN NAMESPACE

Prints one line for each step that worked; anything that doesn't ends it with a traceback.
"""

import inspect
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import huggingface_hub
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    hf_api,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.utils import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

ENDPOINT, TOKEN, NAMESPACE, ADAPTER, BIG = sys.argv[1:6]
REPO = f"{NAMESPACE}/journey-{huggingface_hub.__version__}"
api = HfApi(endpoint=ENDPOINT, token=TOKEN)
cache = tempfile.mkdtemp()


def download(path: str, revision: str = "main") -> bytes:
    found = hf_hub_download(REPO, path, revision=revision, endpoint=ENDPOINT, token=TOKEN, cache_dir=cache)
    return Path(found).read_bytes()


def must_raise(kind: type[Exception], act: Callable[..., object], *arguments: object, **named: object) -> None:
    try:
        act(*arguments, **named)
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")


def create() -> None:
    assert api.whoami()["name"] == NAMESPACE
    assert api.create_repo(REPO).repo_id == REPO
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
    assert api.repo_exists(REPO)
    assert api.list_repo_files(REPO) == [".gitattributes"]


def upload_folder() -> None:
    api.upload_folder(repo_id=REPO, folder_path=ADAPTER, commit_message="an adapter")
    head = api.model_info(REPO).sha
    api.upload_folder(repo_id=REPO, folder_path=ADAPTER, commit_message="nothing new")
    assert api.model_info(REPO).sha == head, "an upload without changes made a commit"
    expected = {path.name for path in Path(ADAPTER).iterdir()} | {".gitattributes"}
    assert set(api.list_repo_files(REPO)) == expected


def upload_a_large_file() -> None:
    big = Path(BIG)
    api.upload_folder(repo_id=REPO, folder_path=big.parent, allow_patterns=[big.name], path_in_repo="weights")
    assert download("weights/big.safetensors") == Path(BIG).read_bytes()


def upload_a_file_object() -> None:
    with Path(BIG).open("rb") as file:
        api.upload_file(repo_id=REPO, path_or_fileobj=file, path_in_repo="weights/copy.safetensors")
    assert download("weights/copy.safetensors") == Path(BIG).read_bytes()


def upload_and_read_a_card() -> None:
    card = ModelCard.load(REPO, token=TOKEN)
    assert card.data.base_model == "acme/tiny-llama"
    card.data.tags = ["lora", "journey"]
    if huggingface_hub.__version__.startswith("2."):  # before, validation asks a fixed address on the internet
        card.push_to_hub(REPO, token=TOKEN)
    else:
        api.upload_file(repo_id=REPO, path_or_fileobj=str(card).encode(), path_in_repo="README.md")
    assert "journey" in api.model_info(REPO).tags
    api.upload_file(repo_id=REPO, path_or_fileobj=Path(ADAPTER) / "README.md", path_in_repo="README.md")


def commit_several_operations() -> None:
    parent = api.model_info(REPO).sha
    api.create_commit(
        repo_id=REPO,
        operations=[
            CommitOperationAdd("notes/a.txt", b"a"),
            CommitOperationAdd("notes/b.txt", b"b"),
            CommitOperationDelete("weights/copy.safetensors"),
        ],
        commit_message="several",
        parent_commit=parent,
    )
    files = api.list_repo_files(REPO)
    assert "notes/a.txt" in files
    assert "weights/copy.safetensors" not in files
    must_raise(
        Exception,
        api.create_commit,
        repo_id=REPO,
        operations=[CommitOperationAdd("late.txt", b"late")],
        commit_message="late",
        parent_commit=parent,
    )
    assert "late.txt" not in api.list_repo_files(REPO)


def snapshot() -> None:
    folder = Path(snapshot_download(REPO, endpoint=ENDPOINT, token=TOKEN, cache_dir=cache))
    for path in Path(ADAPTER).iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert (folder / "weights/big.safetensors").read_bytes() == Path(BIG).read_bytes()


def trees_and_history() -> None:
    tree = {entry.path: entry for entry in api.list_repo_tree(REPO, recursive=True, expand=True)}
    assert tree["weights/big.safetensors"].size == Path(BIG).stat().st_size
    assert tree["notes"].last_commit.title == "several"
    assert [entry.path for entry in api.get_paths_info(REPO, ["notes/a.txt", "missing"])] == ["notes/a.txt"]
    titles = [commit.title for commit in api.list_repo_commits(REPO)]
    assert titles[0] == "several"
    assert titles[-1] == "initial commit"


def branches_and_tags() -> None:
    api.create_branch(REPO, branch="feature/x")
    api.upload_file(repo_id=REPO, path_or_fileobj=b"on a branch", path_in_repo="x.txt", revision="feature/x")
    assert download("x.txt", "feature/x") == b"on a branch"
    api.create_tag(REPO, tag="release/1", revision="feature/x", tag_message="first")
    refs = api.list_repo_refs(REPO)
    assert {branch.name for branch in refs.branches} == {"main", "feature/x"}
    assert {tag.name for tag in refs.tags} >= {"release/1", "v1", "latest"}, "each version is a tag, whoever made it"
    api.delete_branch(REPO, branch="feature/x")
    assert download("x.txt", "release/1") == b"on a branch"
    api.delete_tag(REPO, tag="release/1")
    must_raise(RevisionNotFoundError, api.model_info, REPO, revision="feature/x")


def what_is_missing() -> None:
    must_raise(EntryNotFoundError, download, "missing.txt")
    must_raise(RevisionNotFoundError, download, "README.md", "no-such-branch")
    must_not_find(f"{NAMESPACE}/no-such-repository")
    must_not_find("gpt2")  # the Hub has names without a namespace


def must_not_find(repo: str) -> None:
    must_raise(RepositoryNotFoundError, api.model_info, repo)
    must_raise(RepositoryNotFoundError, api.model_info, repo, revision="main")
    must_raise(RepositoryNotFoundError, api.list_repo_files, repo)
    must_raise(RepositoryNotFoundError, lambda: list(api.list_repo_tree(repo, "sub/dir", recursive=True)))
    must_raise(RepositoryNotFoundError, api.get_paths_info, repo, ["config.json"])
    must_raise(RepositoryNotFoundError, api.list_repo_refs, repo)
    must_raise(RepositoryNotFoundError, api.list_repo_commits, repo)
    must_raise(RepositoryNotFoundError, hf_hub_download, repo, "config.json", cache_dir=cache)
    must_raise(RepositoryNotFoundError, snapshot_download, repo, cache_dir=cache)
    must_raise(RepositoryNotFoundError, api.upload_file, path_or_fileobj=b"x", path_in_repo="x", repo_id=repo)
    must_raise(RepositoryNotFoundError, api.upload_folder, repo_id=repo, folder_path=ADAPTER)
    must_raise(RepositoryNotFoundError, api.create_branch, repo, branch="b")
    must_raise(RepositoryNotFoundError, api.create_tag, repo, tag="t")
    assert not api.repo_exists(repo)
    assert not api.file_exists(repo, "config.json")
    for kind in ("dataset", "space"):
        must_raise(RepositoryNotFoundError, api.repo_info, repo, repo_type=kind)
        must_raise(RepositoryNotFoundError, api.repo_info, repo, repo_type=kind, revision="main")
        must_raise(RepositoryNotFoundError, hf_hub_download, repo, "x", repo_type=kind, cache_dir=cache)


def find_it() -> None:
    assert REPO in listed(filter="base_model:adapter:acme/tiny-llama")
    for name, value, other in (
        ("library", "peft", "diffusers"),
        ("tags", "lora", "qlora"),
        ("task", "text-generation", "fill-mask"),
        ("pipeline_tag", "text-generation", "fill-mask"),
        ("apps", ["vllm"], "comfyui"),
        ("gated", False, True),
    ):
        if takes(name):
            assert REPO in listed(**{name: value}), name
            assert listed(**{name: other}) == [], name
    for name, value in (("inference", "warm"), ("inference_provider", "all"), ("apps", "jan")):
        if takes(name):
            must_raise(HfHubHTTPError, listed, **{name: value})
    info = api.model_info(REPO, files_metadata=True)
    assert info.card_data.license == "mit"
    assert "lora" in info.tags
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings}
    assert sizes["weights/big.safetensors"] == Path(BIG).stat().st_size


def takes(filter_name: str) -> bool:
    """Each has come or gone with a version."""
    return filter_name in inspect.signature(api.list_models).parameters


def listed(**query: object) -> list[str]:
    return [model.id for model in api.list_models(author=NAMESPACE, **query)]


def ask_for_every_property() -> None:
    properties = list(get_args(getattr(hf_api, "ExpandModelProperty_T", None)))
    if properties:  # from 0.24 on
        assert api.model_info(REPO, expand=properties).id == REPO
        assert REPO in listed(expand=properties)


def read_headers() -> None:
    header = api.parse_safetensors_file_metadata(REPO, "adapter_model.safetensors")
    assert any(name.endswith("lora_A.weight") for name in header.tensors)


def look_after_large_files() -> None:
    found = {file.filename: file for file in api.list_lfs_files(REPO)}
    assert found["weights/big.safetensors"].size == Path(BIG).stat().st_size
    assert "weights/copy.safetensors" in found, "deleted from main, but in the history"


def settings_move_and_delete() -> None:
    api.delete_folder("notes", repo_id=REPO)
    api.delete_file("weights/big.safetensors", repo_id=REPO)
    assert not [path for path in api.list_repo_files(REPO) if path.startswith(("notes/", "weights/"))]
    api.super_squash_history(REPO, commit_message="one")
    assert [commit.title for commit in api.list_repo_commits(REPO)] == ["one"]
    api.move_repo(REPO, f"{REPO}-moved")
    assert api.model_info(REPO).id == f"{REPO}-moved", "the old name does not lead to the new one"
    assert download("README.md") == (Path(ADAPTER) / "README.md").read_bytes()
    api.delete_repo(f"{REPO}-moved")
    assert not api.repo_exists(f"{REPO}-moved")


STEPS = (
    create,
    upload_folder,
    upload_a_large_file,
    upload_a_file_object,
    upload_and_read_a_card,
    commit_several_operations,
    snapshot,
    trees_and_history,
    branches_and_tags,
    what_is_missing,
    find_it,
    ask_for_every_property,
    read_headers,
    look_after_large_files,
    settings_move_and_delete,
)

if __name__ == "__main__":
    for step in STEPS:
        step()
        print(f"{huggingface_hub.__version__}: {step.__name__.replace('_', ' ')}", flush=True)
