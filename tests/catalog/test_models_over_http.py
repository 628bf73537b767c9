"""The model list and model info as the stock client of the Hub sees them."""

import json
import re
from collections.abc import Callable
from typing import Any, get_args

import pytest
import sqlalchemy
from builders import lora_config, lora_weights
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import ExpandModelProperty_T
from registry_process import Registry

NewUser = Callable[[], tuple[str, str]]


class Publisher:
    """A user of this test's own, and what the user publishes."""

    def __init__(self, registry: Registry, name: str, token: str) -> None:
        self.name = name
        self.token = token
        self.base = f"{name}/base"
        self.api = HfApi(registry.url, token=token)

    def publish(self, name: str, front_matter: str = "", *, base: str | None = None, private: bool = False) -> str:
        repo = f"{self.name}/{name}"
        self.api.create_repo(repo, private=private)
        files = {
            "README.md": f"---\nlicense: mit\n{front_matter}\n---\n# A card\n".encode(),
            "adapter_config.json": json.dumps(lora_config(base=base or self.base)).encode(),
            "adapter_model.safetensors": lora_weights(),
        }
        operations = [CommitOperationAdd(path, content) for path, content in files.items()]
        self.api.create_commit(repo, operations, commit_message="publish")
        return repo

    def listed(self, **query: Any) -> list[str]:
        """Ids of this publisher's models, as the publisher sees them."""
        return [model.id for model in self.api.list_models(author=self.name, **query)]


@pytest.fixture
def publisher(registry: Registry, new_user: NewUser) -> Publisher:
    return Publisher(registry, *new_user())


# --- filters ----------------------------------------------------------------------------------------------------------


def test_models_are_found_by_their_base(publisher: Publisher) -> None:
    one = publisher.publish("one")
    publisher.publish("two", base="acme/quite-another")
    assert [model.id for model in publisher.api.list_models(filter=f"base_model:adapter:{publisher.base}")] == [one]
    assert publisher.listed(filter=f"base_model:{publisher.base}") == [one]
    assert publisher.listed(filter=f"base_model:finetune:{publisher.base}") == []


def test_every_filter_must_match(registry: Registry, publisher: Publisher) -> None:
    both = publisher.publish("both", "tags: [sql]\nlanguage: fr\ndatasets: acme/chats")
    publisher.publish("one", "tags: [sql]")
    assert publisher.listed(filter=["sql", "fr"]) == [both]
    assert publisher.listed(filter="peft", pipeline_tag="text-generation", trained_dataset="acme/chats") == [both]
    assert publisher.listed(filter=["sql", "license:mit", "de"]) == []
    with registry.client() as client:
        found = client.get("/api/models", params={"author": publisher.name, "filter": "sql,fr"}).json()
    assert [model["id"] for model in found] == [both]


@pytest.mark.parametrize(
    "query",
    [
        {"library": "peft"},
        {"library": ["peft", "safetensors"]},
        {"language": "fr"},
        {"language": "FR"},
        {"license": "mit"},
        {"license": "license:mit"},
        {"dataset": "acme/chats"},
        {"dataset": "dataset:acme/chats"},
        {"other": "sql"},
        {"apps": "vllm"},
        {"apps": ["vllm", "mlx-lm"]},
        {"pipeline_tag": "text-generation"},
        {"gated": "false", "direction": "-1"},
        {
            "library": "peft",
            "language": "fr",
            "license": "mit",
            "dataset": "acme/chats",
            "other": "sql",
            "apps": "peft",
        },
    ],
)
def test_every_filter_of_the_hub_is_honoured(registry: Registry, publisher: Publisher, query: dict[str, Any]) -> None:
    asked = publisher.publish("asked", "tags: [sql]\nlanguage: fr\ndatasets: acme/chats")
    publisher.api.create_repo(f"{publisher.name}/empty")
    with registry.client() as client:
        answer = client.get("/api/models", params={"author": publisher.name, **query})
        others = [
            client.get("/api/models", params={"author": publisher.name, name: other}).json()
            for name, other in (
                ("library", "diffusers"),
                ("language", "de"),
                ("license", "apache-2.0"),
                ("apps", "comfyui"),
            )
            if name in query
        ]
    found = [model["id"] for model in answer.json()]
    assert found == ([f"{publisher.name}/empty", asked] if "gated" in query else [asked])
    assert not any(others)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("inference", "warm"),
        ("inference_provider", "all"),
        ("region", "eu"),
        ("direction", "1"),
        ("apps", "jan"),
        ("q", "x"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(registry: Registry, name: str, value: str) -> None:
    with registry.client() as client:
        refused = client.get("/api/models", params={name: value})
    assert refused.status_code == 400
    assert name in refused.json()["error"]
    assert refused.json()["hint"]


def test_search_is_a_part_of_the_id_in_any_case(publisher: Publisher) -> None:
    repo = publisher.publish("My-Text_to-SQL")
    publisher.api.create_repo(f"{publisher.name}/other")
    assert publisher.listed(search="text_TO") == [repo]
    assert publisher.listed(search=f"{publisher.name}/my-t") == [repo]
    assert publisher.listed(search="nowhere") == []


@pytest.mark.parametrize("text", ["%", "_", "o%r", "o_her", "\\", "'; drop table repositories; --"])
def test_search_text_has_no_wildcards(publisher: Publisher, text: str) -> None:
    publisher.api.create_repo(f"{publisher.name}/other")
    assert publisher.listed(search=text) == []


def test_authors_are_whole_names_in_any_case(publisher: Publisher) -> None:
    repo = publisher.publish("one")
    api = publisher.api
    assert [model.id for model in api.list_models(author=publisher.name.upper())] == [repo]
    assert list(api.list_models(author=publisher.name[:-1])) == []
    assert list(api.list_models(author=publisher.name.replace("-", "_"))) == []


def test_models_are_found_by_gate_and_size(publisher: Publisher) -> None:
    gated, open_one = publisher.publish("gated"), publisher.publish("open")
    publisher.api.update_repo_settings(gated, gated="auto")
    assert publisher.listed(gated=True) == [gated]
    assert publisher.listed(gated=False) == [open_one]
    assert publisher.listed(num_parameters="min:256,max:0.3K") == [open_one, gated]
    assert publisher.listed(num_parameters="min:1B") == []


def test_filters_follow_main(publisher: Publisher) -> None:
    repo = publisher.publish("one", "tags: [before]")
    card = b"---\ntags: [after]\n---\n"
    publisher.api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=repo)
    assert (publisher.listed(filter="before"), publisher.listed(filter="after")) == ([], [repo])
    publisher.api.create_branch(repo, branch="draft")
    card = b"---\ntags: [drafted]\n---\n"
    publisher.api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=repo, revision="draft")
    assert (publisher.listed(filter="drafted"), publisher.listed(filter="after")) == ([], [repo])
    tags = publisher.api.model_info(repo, revision="draft").tags
    assert tags is not None
    assert "drafted" in tags


def test_a_squashed_model_is_still_described_and_found(publisher: Publisher) -> None:
    repo = publisher.publish("one", "tags: [sql]")
    publisher.api.super_squash_history(repo)
    info = publisher.api.model_info(repo)
    assert info.library_name == "peft"
    assert publisher.listed(filter="sql") == [repo]


def test_a_lost_search_entry_is_written_anew(registry: Registry, publisher: Publisher) -> None:
    """As of a model that a server of the version before has published."""
    lost, stale = publisher.publish("lost", "tags: [sql]"), publisher.publish("stale", "tags: [sql]")
    asked = {"filter": ["sql"], "search": publisher.name}
    with registry.database() as connection:
        one = "repository_id = (SELECT id FROM repositories WHERE namespace = :namespace AND name = :name)"
        changes = {"lost": "DELETE FROM catalog_entries", "stale": "UPDATE catalog_entries SET name = ''"}
        for name, change in changes.items():
            connection.execute(sqlalchemy.text(f"{change} WHERE {one}"), {"namespace": publisher.name, "name": name})
    assert publisher.listed(**asked) == []
    assert registry.admin_command("reindex")["entries"] >= 2
    assert publisher.listed(**asked) == [stale, lost]
    with registry.client(None) as client:
        measured = {"author": publisher.name, "base": publisher.base, "rank": 4}
        assert [model["id"] for model in client.get("/api/models", params=measured).json()] == [stale, lost]


# --- order and pages --------------------------------------------------------------------------------------------------


def test_the_newest_come_first(publisher: Publisher) -> None:
    first, second = publisher.publish("first"), publisher.publish("second")
    publisher.api.upload_file(path_or_fileobj=b"x", path_in_repo="notes.txt", repo_id=first)
    assert publisher.listed() == publisher.listed(sort="last_modified") == [first, second]
    assert publisher.listed(sort="created_at") == [second, first]


def test_models_are_sorted_by_likes_and_downloads(registry: Registry, publisher: Publisher) -> None:
    liked, downloaded = publisher.publish("liked"), publisher.publish("downloaded")
    with registry.client(publisher.token) as client:
        assert client.post(f"/api/models/{liked}/like").status_code == 200
        assert client.get(f"/{downloaded}/resolve/main/adapter_model.safetensors").status_code == 200
    assert publisher.listed(sort="likes") == [liked, downloaded]
    assert publisher.listed(sort="downloads") == publisher.listed(sort="trending_score") == [downloaded, liked]
    [first] = publisher.api.list_models(author=publisher.name, sort="trending_score", limit=1)
    assert (first.downloads, first.trending_score) == (1, 1)


@pytest.mark.parametrize("sort", ["lastModified", "createdAt", "downloads", "likes", "trendingScore"])
def test_pages_hold_every_model_once(registry: Registry, publisher: Publisher, sort: str) -> None:
    repos = {f"{publisher.name}/m{n}" for n in range(5)}
    for repo in repos:
        publisher.api.create_repo(repo)
    seen, pages = [], 0
    with registry.client(None) as client:
        url: str | None = f"/api/models?author={publisher.name}&limit=2&sort={sort}"
        while url is not None:
            answer = client.get(url)
            seen += [model["id"] for model in answer.json()]
            url = answer.links["next"]["url"] if "next" in answer.links else None
            pages += 1
    assert (len(seen), set(seen), pages) == (5, repos, 3)


def test_the_stock_client_follows_pages(publisher: Publisher) -> None:
    for number in range(3):
        publisher.api.create_repo(f"{publisher.name}/m{number}")
    assert len(publisher.listed(limit=2)) == 2
    assert len(publisher.listed(limit=10**6)) == 3


def test_a_cursor_belongs_to_one_list(registry: Registry, publisher: Publisher) -> None:
    for number in range(2):
        publisher.api.create_repo(f"{publisher.name}/m{number}")
    with registry.client(None) as client:
        answer = client.get("/api/models", params={"author": publisher.name, "limit": 1})
        following = answer.links["next"]["url"]
        assert client.get(following).status_code == 200
        assert client.get(following + "&sort=likes").status_code == 400
        assert client.get(following.replace("cursor=e", "cursor=f")).status_code == 400
        assert client.get(following[:-4]).status_code == 400


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_what_a_list_shows(publisher: Publisher) -> None:
    repo = publisher.publish("one")
    [brief] = publisher.api.list_models(author=publisher.name)
    assert (brief.id, brief.author, brief.library_name) == (repo, publisher.name, "peft")
    assert (brief.sha, brief.siblings, brief.card_data) == (None, None, None)
    [full] = publisher.api.list_models(author=publisher.name, full=True, cardData=True, fetch_config=True)
    assert full.sha == publisher.api.model_info(repo).sha
    assert full.siblings is not None
    assert [file.rfilename for file in full.siblings][-1] == "adapter_model.safetensors"
    assert full.card_data is not None
    assert full.card_data.license == "mit"
    assert full.config is not None
    assert full.config["peft"]["r"] == 4


def test_what_info_shows(publisher: Publisher) -> None:
    repo = publisher.publish("one", f"base_model: {publisher.base}\ntags: [sql]")
    info = publisher.api.model_info(repo, files_metadata=True, securityStatus=True)
    assert info.card_data is not None
    assert info.card_data.to_dict() == {"license": "mit", "base_model": publisher.base, "tags": ["sql"]}
    assert info.tags == [
        "peft",
        "safetensors",
        "lora",
        "sql",
        "text-generation",
        f"base_model:{publisher.base}",
        f"base_model:adapter:{publisher.base}",
        "license:mit",
        "rank:4",
        *(f"fits:{runtime}" for runtime in ("peft", "transformers", "vllm", "lorax", "mlx")),
    ]
    assert (info.pipeline_tag, info.base_models) == ("text-generation", [publisher.base])
    assert info.safetensors is not None
    assert (info.safetensors.parameters, info.safetensors.total) == ({"F32": 256}, 256)
    assert (info.private, info.gated, info.disabled, info.downloads, info.likes) == (False, False, False, 0, 0)
    assert info.security_repo_status == {"scansDone": True, "filesWithIssues": []}
    assert info.siblings is not None
    paths = [file.rfilename for file in info.siblings]
    assert paths == sorted(paths)
    tree = {entry.path: entry for entry in publisher.api.list_repo_tree(repo)}
    for file in info.siblings:
        entry: Any = tree[file.rfilename]
        assert (file.size, file.blob_id) == (entry.size, entry.blob_id)
        assert (file.lfs and file.lfs.sha256) == (entry.lfs and entry.lfs.sha256)


def test_info_of_an_earlier_revision(registry: Registry, publisher: Publisher) -> None:
    repo = publisher.publish("one")
    first = publisher.api.list_repo_commits(repo)[-1].commit_id
    info = publisher.api.model_info(repo, revision=first)
    assert (info.sha, info.tags, info.card_data) == (first, [], None)
    with registry.client(None) as client:
        answer = client.get(f"/api/models/{repo}/revision/main")
        assert answer.headers["X-Repo-Commit"] == answer.json()["sha"]
        missing = client.get(f"/api/models/{repo}/revision/nowhere")
    assert (missing.status_code, missing.headers["X-Error-Code"]) == (404, "RevisionNotFound")


def test_expand_shows_only_what_was_asked_for(registry: Registry, publisher: Publisher) -> None:
    repo = publisher.publish("one")
    with registry.client(None) as client:
        shown = client.get(f"/api/models/{repo}", params={"expand": ["likes", "author"]}).json()
        assert shown.keys() == {"_id", "id", "likes", "author"}
        listed = client.get("/api/models", params={"author": publisher.name, "expand": "sha,gguf"}).json()
        assert [item.keys() for item in listed] == [{"_id", "id", "sha"}]
        for address in (f"/api/models/{repo}", "/api/models"):
            refused = client.get(address, params={"expand": "passwords"})
            assert refused.status_code == 400
            assert "passwords" in refused.headers["X-Error-Message"]


def test_every_property_the_stock_client_may_ask_for_is_known(publisher: Publisher) -> None:
    repo = publisher.publish("one")
    properties: Any = list(get_args(ExpandModelProperty_T))
    info = publisher.api.model_info(repo, expand=properties)
    sizes = [file.size or 0 for file in publisher.api.model_info(repo, files_metadata=True).siblings or []]
    assert (info.used_storage, info.trending_score, info.children_model_count) == (sum(sizes), 0, 0)


def test_a_yanked_version_comes_with_a_warning(registry: Registry, publisher: Publisher) -> None:
    repo = publisher.publish("one")
    lines: list[dict[str, Any]] = [
        {"key": "header", "value": {"summary": "first version"}},
        {"key": "file", "value": {"path": "notes.txt", "content": "eA==", "encoding": "base64"}},
        {"key": "version", "value": {}},
    ]
    with registry.client(publisher.token) as client:
        body = "".join(json.dumps(line) + "\n" for line in lines)
        client.post(f"/api/models/{repo}/commit/main", content=body).raise_for_status()
        assert "X-HF-Warning" not in client.get(f"/api/models/{repo}/revision/v1").headers
        address = f"/api/lorahub/v1/models/{repo}/versions/v1/yank"
        client.post(address, json={"reason": "loses\r\nprécision"}).raise_for_status()
        answer = client.get(f"/api/models/{repo}/revision/v1")
    assert answer.headers["X-HF-Warning"] == "yanked; v1 was yanked: loses  pr?cision"


def test_a_former_name_leads_to_the_model(publisher: Publisher) -> None:
    repo = publisher.publish("old")
    publisher.api.move_repo(repo, f"{publisher.name}/new")
    assert publisher.api.model_info(repo).id == f"{publisher.name}/new"
    assert publisher.listed() == [f"{publisher.name}/new"]


# --- privacy ----------------------------------------------------------------------------------------------------------


def test_private_models_are_invisible_to_others(registry: Registry, new_user: NewUser) -> None:
    owner, stranger = Publisher(registry, *new_user()), Publisher(registry, *new_user())
    hidden = owner.publish("hidden", private=True)
    assert owner.listed() == [hidden]
    queries: list[dict[str, Any]] = [{}, {"search": "hidden"}, {"filter": "peft"}, {"num_parameters": "min:1"}]
    for query in queries:
        assert list(stranger.api.list_models(author=owner.name, **query)) == []
        assert list(stranger.api.list_models(author=owner.name, token=False, **query)) == []
    with pytest.raises(RepositoryNotFoundError):
        stranger.api.model_info(hidden)
    with registry.client(stranger.token) as client:
        private, missing = client.get(f"/api/models/{hidden}"), client.get(f"/api/models/{owner.name}/missin")
        assert private.status_code == missing.status_code == 404
        assert private.json()["error"].replace("hidden", "missin") == missing.json()["error"]
        tags = [tag["id"] for tag in client.get("/api/models-tags-by-type").json().get("base_model", [])]
    assert f"base_model:{owner.base}" not in tags


def test_private_children_are_counted_for_those_who_see_them(registry: Registry, new_user: NewUser) -> None:
    owner, stranger = Publisher(registry, *new_user()), Publisher(registry, *new_user())
    owner.api.create_repo(owner.base)
    owner.publish("open")
    owner.publish("hidden", private=True)
    assert owner.api.model_info(owner.base, expand=["childrenModelCount"]).children_model_count == 2
    assert stranger.api.model_info(owner.base, expand=["childrenModelCount"]).children_model_count == 1


# --- hostile queries --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=-1", 400),
        ("limit=0", 400),
        ("limit=" + "9" * 30, 200),
        ("limit=" + "9" * 5000, 400),
        ("limit=x", 400),
        ("search=%00", 400),
        ("filter=a%00b", 400),
        ("author=%00", 400),
        ("pipeline_tag=%00", 400),
        ("search=%ED%A0%80", 200),
        ("search=%FF", 200),
        ("search=" + "a" * 5000, 400),
        ("search=" + "%25" * 299, 200),
        ("search=%E2%80%AE", 400),
        ("author=..%2F..%2Fetc", 200),
        ("&".join(f"filter=t{n}" for n in range(100)), 400),
        ("filter=,,,", 200),
        ("sort=passwords", 400),
        ("sort=id%3B", 400),
        ("gated=perhaps", 400),
        ("num_parameters=min:6B,max:128B", 200),
        ("num_parameters=6B", 400),
        ("num_parameters=min:" + "9" * 400, 400),
        ("num_parameters=max:999999999999999T", 200),
        ("cursor=", 400),
        ("cursor=%00", 400),
        ("cursor=eyJzb3J0IjoibGlrZXMifQ", 400),
        ("cursor=%F0%9F%90%8D", 400),
        ("expand=", 400),
        ("full=maybe", 400),
        ("apps=vllm&direction=-1", 200),
        ("apps=%00", 400),
        ("direction=x", 400),
        ("language=%00", 400),
        ("library=" + "a" * 5000, 400),
        ("whatever=1", 400),
        ("%FF=1&" + "&".join(f"p{n}=1" for n in range(100)), 400),
    ],
)
def test_hostile_queries_are_answered(registry: Registry, query: str, status: int) -> None:
    with registry.client(None) as client:
        answer = client.get(f"/api/models?{query}")
    assert answer.status_code == status, answer.text[:500]


# --- the small routes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        *("/api/models/gpt2", "/gpt2/resolve/main/config.json", "/gpt2/resolve/main/deep/config.json"),
        *("/gpt2.git/info/lfs/objects/batch", "/gpt2.git/info/lfs/verify"),
        *("/api/datasets", "/api/datasets/a", "/api/datasets/a/b", "/api/datasets/squad/revision/main"),
        *("/api/spaces/a/b/x", "/api/spaces/a/tree/main", "/datasets/squad/resolve/main/x", "/spaces/a/resolve/main/x"),
        *(f"/api/models/gpt2/{route}" for route in "revision/main tree/main tree/main/sub%2Fdir refs settings".split()),
        *(f"/api/models/gpt2/{route}" for route in "commits/main preupload/main commit/main paths-info/main".split()),
        *(f"/api/models/gpt2/{route}" for route in "xet-write-token/main branch/b tag/t super-squash/main".split()),
        *(f"/api/models/gpt2/{route}" for route in "auth-check auth-check/write discussions likers lfs-files".split()),
        *(f"/api/lorahub/v1/models/gpt2/{route}" for route in "versions aliases revisions/main check/main".split()),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE"])
def test_what_cannot_be_a_model_is_not_found(registry: Registry, method: str, address: str) -> None:
    with registry.client() as client:
        answer = client.request(method, address)
    assert (answer.status_code, answer.headers["X-Error-Code"]) == (404, "RepoNotFound")


def test_every_address_that_names_a_repository_has_one_for_names_without_a_namespace(registry: Registry) -> None:
    with registry.client() as client:
        described = client.get("/api/openapi.json").json()["paths"]
        named = [path for path in described if "{namespace}/{name}" in path and "/bases/" not in path]
        assert len(named) > 40
        for path in named:
            address = re.sub(r"{\w+}", "x", path.replace("{namespace}/{name}", "gpt2"))
            for method in described[path]:
                answer = client.request(method, address)
                assert (answer.status_code, answer.headers["X-Error-Code"]) == (404, "RepoNotFound"), (method, address)


def test_the_stock_client_finds_no_datasets(registry: Registry) -> None:
    api = HfApi(registry.url, token=registry.token)
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info("acme/data")
    with pytest.raises(RepositoryNotFoundError):
        api.space_info("acme/space")


@pytest.mark.parametrize(
    ("content", "status", "errors", "warnings"),
    [
        ("---\nlicense: mit\n---\n# Card", 200, 0, 0),
        ("\n\n---\nlicense: mit\n---\n# Card", 200, 0, 0),
        ("# No metadata", 200, 0, 1),
        ("", 200, 0, 1),
        ("---\nlicense: mine\n---\n", 400, 1, 0),
        ("---\n- list\n---\n", 400, 1, 0),
        ("---\nmodel-index: 5\n---\n", 400, 1, 0),
        ("---\nx: [\n---\n", 400, 1, 0),
    ],
)
def test_cards_are_validated_without_a_token(
    registry: Registry, content: str, status: int, errors: int, warnings: int
) -> None:
    with registry.client(None) as client:
        answer = client.post("/api/validate-yaml", json={"content": content, "repoType": "model"})
    said = answer.json()
    assert (answer.status_code, len(said["errors"]), len(said["warnings"])) == (status, errors, warnings)
    assert all(fault["message"] for fault in said["errors"] + said["warnings"])


def test_a_person_reads_the_faults_of_a_card_as_text(registry: Registry) -> None:
    with registry.client(None) as client:
        answer = client.post(
            "/api/validate-yaml", json={"content": "---\nlicense: mine\n---\n"}, headers={"Accept": "text/plain"}
        )
    assert answer.status_code == 400
    assert '- Error: "license" must be one of' in answer.text


def test_a_card_that_is_no_card_is_refused(registry: Registry) -> None:
    with registry.client(None) as client:
        bodies: list[Any] = [{}, {"content": 5}, {"content": "\0"}, [], "text"]
        for body in bodies:
            assert client.post("/api/validate-yaml", json=body).status_code == 400


def test_what_clients_ask_on_the_way_is_answered(registry: Registry, publisher: Publisher) -> None:
    publisher.publish("one", "datasets: [acme/chats]")
    with registry.client(None) as client:
        assert client.get("/api/agent-harnesses").json() == {"standardEnvVars": [], "harnesses": {}}
        assert client.head("/api/telemetry/peft/LoraModel").status_code == 200
    tags = publisher.api.get_model_tags()
    assert {"id": "dataset:acme/chats", "label": "acme/chats", "type": "dataset"} in tags["dataset"]
