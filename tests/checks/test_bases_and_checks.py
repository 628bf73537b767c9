"""Bases, the gate of publishing, verdicts and look-ups, through the command line, the SDK and HTTP."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import numpy as np
import pytest
from builders import lora_config, lora_weights, safetensors_bytes, write_adapter
from lorahub import Hub
from lorahub.adapters.files import FolderFiles
from lorahub.adapters.manifest import write_manifest
from lorahub.adapters.reader import read_adapter
from lorahub.conversion import refusal
from lorahub.errors import AdapterDoesNotFit, AlreadyExists, InvalidAdapter, NotPermitted, RepositoryNotFound
from lorahub.hub.bases import hash_folder, read_folder
from lorahub.hub.progress import Silence
from registry_process import Registry
from wire import commit, create_repo, head, inline

NewUser = Callable[[], tuple[str, str]]


def write_base(folder: Path, *, width: int = 16, layers: int = 2, seed: int = 0) -> Path:
    """A base whose q_proj takes the adapters of `builders`, split over two files as large models are."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, np.ndarray]] = [{}, {}]
    for layer in range(layers):
        name = f"model.layers.{layer}.self_attn.q_proj.weight"
        shards[layer % 2][name] = random.standard_normal((width, width))
    shards[0]["model.embed_tokens.weight"] = random.standard_normal((32, width))
    shards[1]["lm_head.weight"] = random.standard_normal((32, width))
    placed = {}
    for number, tensors in enumerate(shards, 1):
        file = f"model-{number:05}-of-00002.safetensors"
        (folder / file).write_bytes(safetensors_bytes(tensors))
        placed.update(dict.fromkeys(tensors, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class Scene:
    """One user with a registered base and the folder it came from."""

    def __init__(self, registry: Registry, user: tuple[str, str], folder: Path) -> None:
        self.name, self.token = user
        self.registry = registry
        self.opened = ExitStack()
        self.hub = self.hub_of(self.token)
        self.client: httpx2.Client = self.opened.enter_context(registry.client(self.token))
        self.base = f"{self.name}/base"
        self.folder = write_base(folder / "base")
        self.root = folder
        self.hub.bases.add(hash_folder(self.folder, Silence()), self.base)

    def hub_of(self, token: str) -> Hub:
        """As somebody else."""
        return self.opened.enter_context(Hub(self.registry.url, token=token))

    def adapter(self, name: str = "adapter", **changes: object) -> Path:
        return write_adapter(self.root / name, base=self.base, **changes)  # type: ignore[arg-type]

    def own(self, path: str, **query: str) -> httpx2.Response:
        return self.client.get(f"/api/lorahub/v1{path}", params=query)


@pytest.fixture
def scene(registry: Registry, user: tuple[str, str], tmp_path: Path) -> Iterator[Scene]:
    made = Scene(registry, user, tmp_path)
    yield made
    made.opened.close()


# --- bases ------------------------------------------------------------------------------------------------------------


def test_digests_are_those_of_the_documented_text(tmp_path: Path) -> None:
    base = hash_folder(write_base(tmp_path / "base"), Silence())
    lines = []
    for file in sorted((tmp_path / "base").glob("*.safetensors")):
        raw = file.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        for name, entry in json.loads(raw[8 : 8 + size]).items():
            start, stop = entry["data_offsets"]
            digest = hashlib.sha256(raw[8 + size + start : 8 + size + stop]).hexdigest()
            lines.append((name, f"{name}\tF32\t{','.join(map(str, entry['shape']))}", digest))
    lines.sort()
    layout = "lorahub-base-layout-v1\n" + "".join(f"{line}\n" for _, line, _ in lines)
    weights = "lorahub-base-weights-v1\n" + "".join(f"{line}\t{digest}\n" for _, line, digest in lines)
    assert base.layout_digest == hashlib.sha256(layout.encode()).hexdigest()
    assert base.weights_digest == hashlib.sha256(weights.encode()).hexdigest()
    assert base.files == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (tmp_path / "base").glob("*.safetensors")
    }


def test_sharding_changes_no_digest(tmp_path: Path) -> None:
    base = hash_folder(write_base(tmp_path / "base"), Silence())
    tensors = {}
    for file in (tmp_path / "base").glob("*.safetensors"):
        raw = file.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        for name, entry in json.loads(raw[8 : 8 + size]).items():
            start, stop = entry["data_offsets"]
            tensors[name] = np.frombuffer(raw[8 + size + start : 8 + size + stop], np.float32).reshape(entry["shape"])
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    one = hash_folder(tmp_path / "one", Silence())
    assert (one.layout_digest, one.weights_digest) == (base.layout_digest, base.weights_digest)


def test_a_base_is_found_by_name_and_by_digest(scene: Scene) -> None:
    known = hash_folder(scene.folder, Silence())
    for place in (scene.base, f"sha256:{known.weights_digest}", f"sha256:{known.layout_digest}"):
        answer = scene.own(f"/bases/{place}").json()
        assert answer["layout_digest"] == known.layout_digest
        assert answer["weights_digest"] == known.weights_digest
    rows = scene.hub.bases.search(scene.base)
    assert [row.name for row in rows] == [scene.base]
    assert rows[0].tensors == 4


def test_a_name_and_revision_mean_one_base_for_ever(scene: Scene) -> None:
    other = hash_folder(write_base(scene.root / "other", width=8), Silence())
    scene.hub.bases.add(hash_folder(scene.folder, Silence()), scene.base)
    with pytest.raises(AlreadyExists):
        scene.hub.bases.add(other, scene.base)
    scene.hub.bases.add(other, scene.base, revision="next")
    assert scene.own(f"/bases/{scene.base}", revision="next").json()["layout_digest"] == other.layout_digest


def test_nobody_names_a_base_in_a_namespace_of_others(scene: Scene, new_user: NewUser) -> None:
    _, token = new_user()
    with pytest.raises(NotPermitted):
        scene.hub_of(token).bases.add(read_folder(scene.folder), scene.base, revision="mine")


@pytest.mark.parametrize(
    "layout",
    [
        "",
        "w\tF32\t2\n",
        "lorahub-base-layout-v1\n",
        "lorahub-base-layout-v1\nw\tF32\t2",
        "lorahub-base-layout-v1\nw\tF32\t-2\n",
        "lorahub-base-layout-v1\nw\tF33\t2\n",
        "lorahub-base-layout-v1\nw\tF32\t2\nw\tF32\t2\n",
        "lorahub-base-layout-v1\nw\tF32\t9999999999999999\n",
        "lorahub-base-weights-v1\nw\tF32\t2\tnot-a-digest\n",
        "lorahub-base-layout-v1\n\u202ew\tF32\t2\n",
    ],
)
def test_a_malformed_layout_is_refused(scene: Scene, layout: str) -> None:
    body = {"names": [f"{scene.name}/bad"], "layout": layout}
    response = scene.client.post("/api/lorahub/v1/bases", json=body)
    assert response.status_code == 422, response.text
    assert response.headers["x-error-code"] == "InvalidBaseModel"


# --- the gate ---------------------------------------------------------------------------------------------------------


def test_what_fits_is_published_with_its_facts(scene: Scene) -> None:
    pushed = scene.hub.push(scene.adapter(), f"{scene.name}/sql")
    shown = scene.own(f"/models/{scene.name}/sql/check/{pushed.version}").json()
    assert (shown["verdict"], shown["matched"], shown["of"], shown["revisions"]) == ("fits", 2, 2, [])
    assert shown["coverage"] == {"used": 4, "named": 0, "of": 4}
    page = scene.client.get(f"/{scene.name}/sql/compat/v1", headers={"Accept": "text/html"}).text
    assert "Of the 4 tensors of the file 4 are used" in page
    assert shown["facts"]["rank"] == 4
    assert shown["facts"]["targets"] == ["q_proj"]
    manifest = json.loads((scene.hub.pull(f"{scene.name}/sql").path / "lorahub.json").read_text())
    assert not (scene.root / "adapter" / "lorahub.json").exists()
    nobody_said = {"revision": None, "layout": None, "weights": None, "files": {}}
    assert manifest["base"] == {"name": scene.base, **nobody_said}, "what the registry knows is no word of the maker's"
    assert manifest["adapter"]["rank"] == 4
    assert scene.hub.push(scene.root / "adapter", f"{scene.name}/sql").created is False


def test_what_does_not_fit_is_refused_with_its_findings(scene: Scene) -> None:
    folder = scene.adapter()
    (folder / "adapter_model.safetensors").write_bytes(lora_weights(width=24))
    with pytest.raises(AdapterDoesNotFit) as refused:
        scene.hub.push(folder, f"{scene.name}/wide")
    assert [found["rule"] for found in refused.value.facts["findings"]] == ["LH202"]
    assert refused.value.facts["findings"][0]["evidence"][0]["expected"] == "[16, 16]"
    with pytest.raises(RepositoryNotFound):  # it was made for this push, and nothing else is in it
        scene.hub.versions(f"{scene.name}/wide")


def test_a_policy_of_warning_lets_it_in(scene: Scene) -> None:
    repo = create_repo(scene.client, f"{scene.name}/wide")
    folder = scene.adapter()
    (folder / "adapter_model.safetensors").write_bytes(lora_weights(width=24))
    answer = scene.client.put(f"/api/lorahub/v1/models/{repo}/check-policy", json={"policy": "warn"})
    assert answer.json() == {"policy": "warn"}
    pushed = scene.hub.push(folder, repo)
    assert scene.own(f"/models/{repo}/check/{pushed.version}").json()["verdict"] == "incompatible"


def test_a_malformed_adapter_is_refused_whatever_the_policy(scene: Scene) -> None:
    repo = create_repo(scene.client, f"{scene.name}/broken")
    scene.client.put(f"/api/lorahub/v1/models/{repo}/check-policy", json={"policy": "warn"})
    folder = scene.adapter()
    (folder / "adapter_config.json").write_text(json.dumps(lora_config(base="nobody/knows", rank=8)))
    before = head(scene.client, repo)
    with pytest.raises(InvalidAdapter) as refused:
        scene.hub.push(folder, repo)
    assert [found["rule"] for found in refused.value.facts["findings"]] == ["LH203"]
    assert head(scene.client, repo) == before


def test_an_unknown_base_is_stored_as_undecided(scene: Scene) -> None:
    pushed = scene.hub.push(write_adapter(scene.root / "lonely", base="nobody/knows"), f"{scene.name}/lonely")
    shown = scene.own(f"/models/{scene.name}/lonely/check/{pushed.version}").json()
    assert shown["verdict"] == "undecided"
    assert [found["rule"] for found in shown["findings"]] == ["LH106"]


def test_files_may_come_one_commit_at_a_time(scene: Scene) -> None:
    repo = create_repo(scene.client, f"{scene.name}/slowly")
    folder = scene.adapter()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        response = commit(scene.client, repo, [inline(name, (folder / name).read_bytes())])
        assert response.status_code == 200, response.text
    assert scene.own(f"/models/{repo}/check/main").json()["verdict"] == "fits"


def test_a_base_in_a_repository_of_this_registry_needs_no_registration(scene: Scene) -> None:
    scene.hub.push(scene.folder, f"{scene.name}/model")
    folder = write_adapter(scene.root / "on-model", base=f"{scene.name}/model")
    pushed = scene.hub.push(folder, f"{scene.name}/tuned")
    shown = scene.own(f"/models/{scene.name}/tuned/check/{pushed.version}").json()
    assert (shown["verdict"], shown["matched"]) == ("fits", 2)


def test_a_private_base_is_unknown_to_others(scene: Scene, new_user: NewUser, registry: Registry) -> None:
    scene.hub.push(scene.folder, f"{scene.name}/secret", private=True)
    name, token = new_user()
    other = scene.hub_of(token)
    folder = write_adapter(scene.root / "guess", base=f"{scene.name}/secret")
    pushed = other.push(folder, f"{name}/guess")
    with registry.client(token) as client:
        shown = client.get(f"/api/lorahub/v1/models/{name}/guess/check/{pushed.version}").json()
    assert shown["verdict"] == "undecided"


# --- whose base it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["its trainer", "who pushes it"])
def test_a_digest_that_its_maker_recorded_makes_it_the_same_base(scene: Scene, by: str) -> None:
    folder, known = scene.adapter(), hash_folder(scene.folder, Silence())
    if by == "its trainer":
        (folder / "lorahub.json").write_bytes(write_manifest(read_adapter(FolderFiles(folder)), known, refusal))
    pushed = scene.hub.push(folder, f"{scene.name}/sql", base=None if by == "its trainer" else scene.base)
    assert scene.own(f"/models/{scene.name}/sql/check/{pushed.version}").json()["verdict"] == "compatible"
    manifest = json.loads((scene.hub.pull(f"{scene.name}/sql").path / "lorahub.json").read_text())
    assert (manifest["base"]["name"], manifest["base"]["weights"]) == (scene.base, known.weights_digest)


def test_a_newer_base_of_the_same_name_leaves_old_adapters_what_they_are(scene: Scene) -> None:
    wider, deeper = (
        write_base(scene.root / name, **size) for name, size in (("wide", {"width": 24}), ("deep", {"layers": 3}))
    )
    scene.hub.bases.add(hash_folder(wider, Silence()), scene.base, revision="wider")
    before = scene.hub.push(scene.adapter("before"), f"{scene.name}/before")
    scene.hub.bases.add(hash_folder(deeper, Silence()), scene.base, revision="deeper")

    pushed = scene.hub.push(scene.adapter("after", seed=7), f"{scene.name}/after")

    expected = [("deeper", "fits", 2), ("wider", "incompatible", 0), (None, "fits", 2)]
    for name, version in (("before", before.version), ("after", pushed.version)):
        shown = scene.own(f"/models/{scene.name}/{name}/check/{version}").json()
        found = [(one["revision"], one["verdict"], one["matched"]) for one in shown["revisions"]]
        assert (shown["verdict"], found) == ("fits", expected)
    local = scene.hub.check(str(scene.root / "after"), scene.base)[0].as_json()
    assert [(one["revision"], one["verdict"], one["matched"]) for one in local["revisions"]] == expected
    assert scene.hub.check(str(scene.root / "after"), f"{scene.base}@wider")[0].as_json()["revisions"] == []
    manifest = json.loads((scene.hub.pull(f"{scene.name}/after").path / "lorahub.json").read_text())
    assert (manifest["base"]["name"], manifest["base"]["weights"]) == (scene.base, None)
    page = scene.client.get(f"/{scene.name}/after/compat/{pushed.version}", headers={"Accept": "text/html"}).text
    assert "wider" in page
    assert "deeper" in page


def test_each_base_that_a_name_stands_for_counts_as_one_to_compare_with(scene: Scene) -> None:
    """Or a thousand adapters and a name with sixteen bases were sixteen thousand checks."""
    for width in (24, 32):
        base = write_base(scene.root / f"wide{width}", width=width)
        scene.hub.bases.add(hash_folder(base, Silence()), scene.base, revision=f"wide{width}")
    pushed = scene.hub.push(scene.adapter("many"), f"{scene.name}/many")
    many = [f"{scene.name}/many@{pushed.version}"] * 334

    def asked(adapters: list[str], bases: list[str]) -> httpx2.Response:
        return scene.client.post("/api/lorahub/v1/checks", json={"adapters": adapters, "bases": bases})

    refused = asked(many, [scene.base])
    assert refused.status_code == 400
    assert "334 adapters × 3 bases; at most 1000 pairs" in refused.json()["error"]
    assert asked(many[:3], [scene.base]).json()["summary"] == {"fits": 3}
    assert asked(many[:3], []).json()["summary"] == {"fits": 3}


def test_a_name_of_several_bases_that_a_person_gives_is_a_name_and_no_digest(scene: Scene) -> None:
    other = write_base(scene.root / "other", seed=9)
    scene.hub.bases.add(hash_folder(other, Silence()), scene.base, revision="retrained")
    folder = scene.adapter()
    for base, verdict in ((scene.base, "fits"), (f"{scene.base}@retrained", "compatible")):
        pushed = scene.hub.push(folder, f"{scene.name}/sql", base=base)
        assert scene.own(f"/models/{scene.name}/sql/check/{pushed.version}").json()["verdict"] == verdict


def test_a_recorded_digest_chooses_among_the_bases_of_a_name(scene: Scene) -> None:
    pushed = scene.hub.push(scene.adapter(), f"{scene.name}/sql", base=scene.base)
    scene.hub.bases.add(hash_folder(write_base(scene.root / "other", seed=9), Silence()), scene.base, revision="next")
    shown = scene.own(f"/models/{scene.name}/sql/check/{pushed.version}").json()
    assert (shown["verdict"], shown["revisions"]) == ("compatible", [])
    pulled = scene.hub.pull(f"{scene.name}/sql").path
    assert [one.verdict for one in scene.hub.check(str(pulled))] == ["compatible"]


def test_every_version_of_a_base_in_a_repository_counts(scene: Scene) -> None:
    repo = f"{scene.name}/model"
    scene.hub.push(write_base(scene.root / "old"), repo)
    scene.hub.push(write_base(scene.root / "new", width=24), repo)
    pushed = scene.hub.push(write_adapter(scene.root / "tuned", base=repo), f"{scene.name}/tuned")
    shown = scene.own(f"/models/{scene.name}/tuned/check/{pushed.version}").json()
    assert [one["verdict"] for one in shown["revisions"]] == ["incompatible", "fits"]
    assert shown["verdict"] == "fits"
    read = scene.client.get(f"/{scene.name}/tuned/resolve/merged/config.json", follow_redirects=True)
    assert read.status_code == 200, read.text


def test_what_fits_none_is_refused_with_the_findings_of_the_closest(scene: Scene) -> None:
    scene.hub.bases.add(hash_folder(write_base(scene.root / "less", layers=1), Silence()), scene.base, revision="less")
    folder = scene.adapter()
    (folder / "adapter_model.safetensors").write_bytes(lora_weights(width=24, layers=2))
    with pytest.raises(AdapterDoesNotFit) as refused:
        scene.hub.push(folder, f"{scene.name}/wide")
    assert {found["rule"] for found in refused.value.facts["findings"]} == {"LH202", "LH205"}


def test_what_does_not_fit_matches_nothing_and_is_loaded_by_nothing(scene: Scene) -> None:
    folder = scene.adapter()
    (folder / "adapter_model.safetensors").write_bytes(lora_weights(width=24))
    [checked] = scene.hub.check(str(folder), scene.base)
    assert (checked.verdict, checked.report.matched, checked.report.of) == ("incompatible", 0, 2)
    assert {(one.loads.value, one.reasons[0][0]) for one in checked.report.runtimes} == {("no", "LH202")}


# --- which still fit --------------------------------------------------------------------------------------------------


def test_which_adapters_still_fit_the_new_revision(scene: Scene) -> None:
    fits, breaks = f"{scene.name}/fits", f"{scene.name}/breaks"
    scene.hub.push(scene.adapter("fits"), fits)
    scene.hub.push(scene.adapter("breaks", seed=1, rank=2), breaks)
    deeper = write_base(scene.root / "next", layers=1)
    scene.hub.bases.add(hash_folder(deeper, Silence()), scene.base, revision="next")
    body = {"all_of": scene.base, "bases": [scene.base, "@next"]}

    answer = scene.client.post("/api/lorahub/v1/checks", json=body).json()

    found = {(check["adapter"], check["base"]): check for check in answer["checks"]}
    assert len(found) == 4
    assert found[fits, f"{scene.base}@next"]["verdict"] == "incompatible"
    assert [f["rule"] for f in found[fits, f"{scene.base}@next"]["findings"] if f["severity"] == "error"] == ["LH205"]
    again = scene.client.post("/api/lorahub/v1/checks", json=body).json()
    assert all(check["kept"] for check in again["checks"])
    assert [check["verdict"] for check in again["checks"]] == [check["verdict"] for check in answer["checks"]]
    assert sorted(one.reference for one in scene.hub.bases.adapters(scene.base)) == [breaks, fits]


def test_a_thousand_checks_take_an_account(registry: Registry, scene: Scene) -> None:
    scene.hub.push(scene.adapter(), f"{scene.name}/sql")
    body = {"adapters": [f"{scene.name}/sql"], "bases": [scene.base]}
    with registry.client(None) as anonymous:
        assert anonymous.post("/api/lorahub/v1/checks", json=body).status_code == 401
        one = anonymous.get(f"/api/lorahub/v1/models/{scene.name}/sql/check/v1")
        assert one.json()["verdict"] == "fits"
    many = {"adapters": [f"{scene.name}/sql"] * 600, "bases": [scene.base, scene.base]}
    assert scene.client.post("/api/lorahub/v1/checks", json=many).status_code == 400


def test_adapters_are_searched_by_what_was_measured(scene: Scene) -> None:
    small, large = f"{scene.name}/small", f"{scene.name}/large"
    scene.hub.push(scene.adapter("small", rank=2), small)
    scene.hub.push(scene.adapter("large", rank=12), large)

    def found(**query: object) -> list[str]:
        return [model.id for model in scene.hub.search(author=scene.name, **query)]  # type: ignore[arg-type]

    assert found(base=scene.base, rank="1..4") == [small]
    assert found(base=scene.base, rank="8..") == [large]
    assert found(base=scene.base, rank="13..64") == []
    assert sorted(found(targets=["q_proj"], fits=["vllm"])) == [large, small]
    assert found(targets=["v_proj"]) == []
    assert found(fits=["comfyui"]) == []
    assert found(filters=["rank:12"]) == [large]
    assert scene.client.get("/api/models", params={"rank": "a..b"}).status_code == 400


# --- look-up by content -----------------------------------------------------------------------------------------------


def test_a_file_is_known_by_its_bytes(scene: Scene) -> None:
    folder = scene.adapter()
    pushed = scene.hub.push(folder, f"{scene.name}/sql")
    digest = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
    unknown = "0" * 64
    places = scene.hub.identify([digest, unknown])
    own = [place for place in places[digest] if place.repository == f"{scene.name}/sql"]
    assert [(place.version, place.path) for place in own] == [(pushed.version, "adapter_model.safetensors")]
    assert places[unknown] == []
    assert scene.own(f"/by-hash/{unknown}").json() == []
    assert scene.own("/by-hash/xyz").status_code == 400


def test_private_files_are_found_by_their_owner_only(scene: Scene, new_user: NewUser) -> None:
    folder = write_adapter(scene.root / "hidden", base=scene.base, seed=20_377)
    scene.hub.push(folder, f"{scene.name}/hidden", private=True)
    digest = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
    _, token = new_user()
    assert len(scene.hub.identify([digest])[digest]) == 1
    assert scene.hub_of(token).identify([digest])[digest] == []


def test_the_checks_of_a_private_repository_are_private(scene: Scene, new_user: NewUser, registry: Registry) -> None:
    scene.hub.push(scene.adapter(), f"{scene.name}/hidden", private=True)
    _, token = new_user()
    with registry.client(token) as client:
        response = client.get(f"/api/lorahub/v1/models/{scene.name}/hidden/check/main")
        assert response.status_code == 404
        assert response.headers["x-error-code"] == RepositoryNotFound.code
        listed = client.get(f"/api/lorahub/v1/bases/{scene.base}/adapters").json()
        counted = client.get("/api/lorahub/v1/bases", params={"search": scene.base}).json()
    assert listed == []
    assert [row["adapters"] for row in counted] == [0], "a count tells of what is private"
    assert [row["adapters"] for row in scene.own("/bases", search=scene.base).json()] == [1]


# --- reading bases from hubs ------------------------------------------------------------------------------------------


def test_a_base_on_a_hub_is_read_by_ranges(scene: Scene) -> None:
    """The registry stands in for the Hub: the protocol is the same."""
    scene.hub.push(scene.folder, f"{scene.name}/model")
    results = scene.hub.check(str(scene.adapter()), f"{scene.name}/model")
    assert (results[0].verdict, results[0].report.matched) == ("fits", 2)


def test_a_manifest_follows_the_weights_and_keeps_what_its_maker_said(scene: Scene) -> None:
    folder, repo = scene.adapter(), f"{scene.name}/kept"
    scene.hub.push(folder, repo)
    place = folder / "lorahub.json"
    written = json.loads((scene.hub.pull(repo).path / "lorahub.json").read_text())
    place.write_text(json.dumps(written | {"origin": "trained", "run": {"steps": 200}}))
    assert scene.hub.push(folder, repo).version == "v2"
    (folder / "adapter_model.safetensors").write_bytes(lora_weights(seed=20_309))
    assert scene.hub.push(folder, repo).version == "v3"
    again = json.loads((scene.hub.pull(repo).path / "lorahub.json").read_text())
    assert (again["origin"], again["run"], again["base"]) == ("trained", {"steps": 200}, written["base"])
    digest = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert {file["path"]: file["sha256"] for file in again["files"]}["adapter_model.safetensors"] == digest
    assert again["compatibility"]["vllm"]["loads"] == "yes"
    assert json.loads(place.read_text()) == written | {"origin": "trained", "run": {"steps": 200}}, "the user's own"
