"""Every entry is a row, whatever it is: the table of bad entries, by command, by what fails, in every report."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from builders import lora_config, lora_weights, safetensors_bytes, write_adapter
from lorahub import Hub
from lorahub.cli.main import main
from lorahub.hub.bases import hash_folder
from lorahub.hub.lock import LockedAdapter, locked, read_lock, write_lock
from lorahub.hub.progress import Silence
from registry_process import Registry
from sarif_pydantic import Sarif

REPORTS = ("json", "sarif", "junit", "markdown", "github", "summary")
NOWHERE = "lorahub://127.0.0.1:9/acme/sql"


@dataclass
class Ran:
    code: int
    out: str
    err: str
    reports: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """By adapter; each is checked against one base here."""
        return {row["adapter"]: row for row in json.loads(self.reports["json"])["checks"]}


class Scene:
    """A registry with adapters of all kinds, and a project that uses them."""

    def __init__(self, registry: Registry, people: list[tuple[str, str]], root: Path) -> None:
        self.registry = registry
        (self.name, self.token), (self.other, self.others_token) = people
        self.root = root
        self.base = f"{self.name}/base"
        write_base(root / "base")
        write_folders(root)
        with Hub(registry.url, token=self.token) as hub:
            hub.bases.add(hash_folder(root / "base", Silence()), self.base)
            for kind in ("good", "yanked", "removed"):
                hub.push(root / kind, f"{self.name}/{kind}", base=self.base)
            hub.push(root / "dora", f"{self.name}/dora", base=self.base)
            hub.push(root / "wide", f"{self.name}/wide", base=self.base, policy="warn")
            hub.yank(f"{self.name}/yanked@v1", "trained on\nleaked data")
            self.lock = lock_of(hub, f"{self.name}/good@v1", self.base)
            self.removed = lock_of(hub, f"{self.name}/removed@v1", self.base)
            hub.delete(f"{self.name}/removed")
        with Hub(registry.url, token=self.others_token) as hub:
            hub.push(root / "good", f"{self.other}/secret", private=True)


def lock_of(hub: Hub, reference: str, base: str | None) -> LockedAdapter:
    revision = hub.revision(reference)
    return LockedAdapter(reference, revision.commit, f"sha256:{revision.digest}", base)


def write_base(folder: Path, *, width: int = 16) -> Path:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    names = [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(2)]
    (folder / "model.safetensors").write_bytes(
        safetensors_bytes({name: random.standard_normal((width, width)) for name in names})
    )
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    return folder


def write_folders(root: Path) -> None:
    for seed, kind in enumerate(
        ("good", "yanked", "removed", "dora", "wide", "truncated", "broken", "pickled", "empty")
    ):
        write_adapter(root / kind, base="BASE", seed=seed)
    tensors = {}
    for layer in range(2):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = np.ones((4, 16))
        tensors[f"{name}.lora_B.weight"] = np.ones((16, 4))
        tensors[f"{name}.lora_magnitude_vector.weight"] = np.ones(16)
    (root / "dora/adapter_model.safetensors").write_bytes(safetensors_bytes(tensors))
    (root / "dora/adapter_config.json").write_text(json.dumps(lora_config() | {"use_dora": True}))
    (root / "wide/adapter_model.safetensors").write_bytes(lora_weights(width=24))
    weights = root / "truncated/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    (root / "broken/adapter_config.json").write_text("{")
    (root / "pickled/adapter_model.safetensors").rename(root / "pickled/adapter_model.bin")
    (root / "empty/adapter_model.safetensors").unlink()
    write_adapter(root / "lonely", base="nobody/knows")


@pytest.fixture(scope="module")
def scene(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    people = [(name, registry.add_user(name)) for name in (f"rows{os.getpid()}", f"others{os.getpid()}")]
    return Scene(registry, people, tmp_path_factory.mktemp("rows"))


Run = Callable[..., Ran]


@pytest.fixture
def run(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    for name in list(os.environ):
        if name.startswith(("LORAHUB_", "HF_", "GITHUB_")):
            monkeypatch.delenv(name)
    settings = {"HOME": scene.root / "home", "ENDPOINT": scene.registry.url, "TOKEN": scene.token}
    for name, value in settings.items():
        monkeypatch.setenv(f"LORAHUB_{name}", str(value))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step.md"))
    monkeypatch.chdir(scene.root)

    def act(*words: str) -> Ran:
        wishes = [f"--report={kind}={tmp_path / kind}" for kind in REPORTS]
        has_reports = next(word for word in words if not word.startswith("-")) in ("check", "lock", "verify")
        with pytest.raises(SystemExit) as ended:
            main([*words, *(wishes if has_reports else ())])
        said = capsys.readouterr()
        found = {kind: (tmp_path / kind).read_text() for kind in REPORTS} if has_reports else {}
        return Ran(int(ended.value.code or 0), said.out, said.err, found)

    return act


# --- what each report says --------------------------------------------------------------------------------------------


def outcomes_in(report: str, text: str) -> dict[str, str] | set[str]:
    """By adapter; of SARIF and annotations, which have no row for what passes, those that fail."""
    if report == "json":
        return {row["adapter"]: row["outcome"] for row in json.loads(text)["checks"]}
    if report == "junit":
        kinds = {"failure": "failed", "skipped": "undecided"}
        return {
            str(case.get("classname")): next((kinds[part.tag] for part in case if part.tag in kinds), "passed")
            for case in ET.fromstring(text).iter("testcase")
        }
    if report in ("markdown", "summary"):
        rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
        return {cells[0].removeprefix("| ").replace("\\", "").replace("<!-- -->", ""): cells[2] for cells in rows}
    if report == "sarif":
        document = json.loads(text)
        Sarif.model_validate(document)
        failed = [
            one for one in document["runs"][0]["results"] if one["level"] == "error" and "suppressions" not in one
        ]
        return {one["message"]["text"].partition(" × ")[0] for one in failed}
    errors = [line for line in text.splitlines() if line.startswith("::error ")]
    return {line.partition("title=")[2].partition(" × ")[0].replace("%3A", ":") for line in errors}


def require_agreement(ran: Ran, fail_on: str) -> None:
    """Every report says of every row what the exit status follows from."""
    said = {report: outcomes_in(report, text) for report, text in ran.reports.items()}
    of_rows = said["json"]
    assert isinstance(of_rows, dict)
    for report in ("junit", "markdown", "summary"):
        assert said[report] == of_rows, report
    failed = {name for name, outcome in of_rows.items() if outcome == "failed"}
    assert said["github"] == failed
    assert said["sarif"] == {name.removeprefix("./").partition("@")[0] for name in failed}
    document = json.loads(ran.reports["json"])
    assert (document["exit_code"], document["fail_on"]) == (ran.code, fail_on)
    assert ran.code == (1 if failed else 0)
    suite = ET.fromstring(ran.reports["junit"]).find("testsuite")
    assert suite is not None
    assert int(suite.get("failures", "")) == document["outcomes"]["failed"] == len(failed)
    assert json.loads(ran.reports["sarif"])["runs"][0]["invocations"][0]["exitCode"] == ran.code


# --- the table --------------------------------------------------------------------------------------------------------

U, F, P = "undecided", "failed", "passed"
FOLDERS_AND_NAMES = {
    "deleted folder": ("./gone", U, "LH506"),
    "deleted repository": ("{name}/removed", U, "LH506"),
    "private, of somebody else": ("{other}/secret", U, "LH506"),
    "no such version": ("{name}/good@v9", U, "LH506"),
    "a registry that is down": (NOWHERE, U, "LH506"),
    "no reference": ("what is this", U, "LH506"),
    "a scheme that isn't known": ("ftp://host/acme", U, "LH506"),
    "a base that nobody knows": ("./lonely", U, "LH106"),
    "yanked": ("{name}/yanked@v1", P, "LH502"),
    "no weights": ("./empty", F, "LH308"),
    "truncated": ("./truncated", F, "LH305"),
    "a configuration that is no JSON": ("./broken", F, "LH305"),
    "a pickle": ("./pickled", F, "LH301"),
    "of another shape": ("./wide", F, "LH202"),
    "a runtime that refuses it": ("./dora", F, "LH402"),
}
"""kind → what is written, its outcome where what is incompatible fails, the rule that says why"""


@pytest.mark.parametrize("fail_on", ["incompatible", "undecided", "never"])
@pytest.mark.parametrize("kind", FOLDERS_AND_NAMES)
def test_an_entry_beside_a_good_one(scene: Scene, run: Run, kind: str, fail_on: str) -> None:
    if kind == "a registry that is down" and fail_on != "incompatible":
        return  # each run waits between its tries
    written, outcome, rule = FOLDERS_AND_NAMES[kind]
    written = written.format(name=scene.name, other=scene.other)
    good = f"{scene.name}/good@v1"
    base = () if kind == "a base that nobody knows" else ("--base", scene.base)
    ran = run("check", written, good, *base, "--for", "vllm", "--fail-on", fail_on)
    expected = {"never": {F: P, U: U, P: P}, "undecided": {F: F, U: F, P: P}}.get(fail_on, {F: F, U: U, P: P})[outcome]
    assert ran.rows[written]["outcome"] == expected
    assert rule in [found["rule"] for found in ran.rows[written]["findings"]]
    assert ran.rows[good]["outcome"] == "passed"
    require_agreement(ran, fail_on)


IN_A_LOCK = {
    "deleted repository": (U, U),
    "private, of somebody else": (U, U),
    "a registry that is down": (U, U),
    "no digest": (U, U),
    "a number for a reference": (U, U),
    "other files than the lock says": (F, F),
    "moved on": (P, F),
    "a base that nobody knows": (U, P),
    "a base that has become another": (F, P),
    "of another shape": (F, P),
}
"""kind → its outcome in `check`, and in `verify`"""


def entry_of(kind: str, scene: Scene) -> str:
    """The lines of an entry of this kind."""
    good, zero = scene.lock, "0" * 40
    elsewhere = LockedAdapter(f"{scene.other}/secret@v1", zero, f"sha256:{'0' * 64}")
    made = {
        "deleted repository": scene.removed,
        "private, of somebody else": elsewhere,
        "a registry that is down": LockedAdapter(f"{NOWHERE}@v1", zero, f"sha256:{'0' * 64}"),
    }
    with Hub(scene.registry.url, token=scene.token) as hub:
        wide = lock_of(hub, f"{scene.name}/wide@v1", scene.base)
    same = {
        "reference": f"{scene.name}/good@{good.commit}",
        "commit": good.commit,
        "digest": good.digest,
        "base": scene.base,
    }
    fields = {
        "no digest": {"reference": "acme/sql@v1", "commit": zero},
        "a number for a reference": {"reference": 7, "commit": zero, "digest": "sha256:x"},
        "other files than the lock says": same | {"digest": f"sha256:{'1' * 64}"},
        "moved on": {"reference": f"{scene.name}/good@champion", "commit": good.commit, "digest": good.digest},
        "a base that nobody knows": same | {"base": "nobody/absent"},
        "a base that has become another": same | {"base_digest": f"weights:{'2' * 64}"},
        "of another shape": {
            "reference": wide.reference,
            "commit": wide.commit,
            "digest": wide.digest,
            "base": scene.base,
        },
    }
    chosen = fields.get(kind) or {key: getattr(made[kind], key) for key in ("reference", "commit", "digest")}
    return "\n".join(["[[adapter]]", *(f"{key} = {json.dumps(value)}" for key, value in chosen.items()), ""])


@pytest.mark.parametrize("fail_on", ["incompatible", "undecided"])
@pytest.mark.parametrize("command", ["check", "verify"])
@pytest.mark.parametrize("kind", IN_A_LOCK)
def test_an_entry_of_a_lock(scene: Scene, run: Run, tmp_path: Path, kind: str, command: str, fail_on: str) -> None:
    if kind == "moved on":
        with Hub(scene.registry.url, token=scene.token) as hub:
            pushed = hub.push(write_adapter(tmp_path / "next", base=scene.base, seed=9), f"{scene.name}/good")
            hub.set_alias(f"{scene.name}/good@{pushed.version}", "champion")
    good = {key: getattr(scene.lock, key) for key in ("reference", "commit", "digest", "base")}
    lines = ["version = 2", "", entry_of(kind, scene), "[[adapter]]"]
    place = tmp_path / "any name.toml"
    place.write_text("\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in good.items())]))
    ran = run(command, str(place), "--fail-on", fail_on)
    outcome = IN_A_LOCK[kind][command == "verify"]
    expected = F if outcome == U and fail_on == "undecided" else outcome
    [written] = [name for name in ran.rows if name != scene.lock.reference]
    assert (ran.rows[written]["outcome"], ran.rows[scene.lock.reference]["outcome"]) == (expected, "passed")
    assert ran.rows[written]["line"] == 3, "where the entry is"
    require_agreement(ran, fail_on)


def test_all_of_a_base(scene: Scene, run: Run) -> None:
    """Its newest versions: that one was yanked leaves nothing to check."""
    ran = run("check", "--all-of", scene.base, "--for", "vllm")
    found = {name.partition("@")[0].rpartition("/")[2]: row["outcome"] for name, row in ran.rows.items()}
    assert found == {"good": P, "yanked": U, "dora": F, "wide": F}
    require_agreement(ran, "incompatible")
    none = run("check", "--all-of", "nobody/absent")
    assert (none.code, none.rows) == (2, {}), "an empty report is written too"


def test_a_registry_that_is_down_is_asked_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every adapter of a base, and for two hundred entries of a lock."""
    monkeypatch.setenv("LORAHUB_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("LORAHUB_TOKEN")
    ran = run("check", *(f"acme/adapter-{number}" for number in range(50)), "./good", "--base", "./base")
    assert [row["outcome"] for row in ran.rows.values()] == [U] * 50 + [P]
    ran = run("check", "--all-of", "acme/llama", "--fail-on", "undecided")
    assert ran.code == 1
    require_agreement(ran, "undecided")


def test_a_lock_keeps_what_cant_be_renewed(scene: Scene, run: Run, tmp_path: Path) -> None:
    place = tmp_path / "our.lock"
    write_lock(place, locked([scene.lock, scene.removed]))
    ran = run("lock", "--file", str(place))
    assert {name: row["outcome"] for name, row in ran.rows.items()} == {
        scene.lock.reference: "passed",
        scene.removed.reference: "failed",
    }
    require_agreement(ran, "undecided")
    good, removed = read_lock(place).adapters
    assert removed == scene.removed
    assert good.base_digest is not None
    before = place.read_text() + "[[adapter]]\nreference = 'acme/sql'\n"
    place.write_text(before)
    ran = run("lock", "--file", str(place))
    assert (ran.code, place.read_text()) == (1, before)
    assert "is as it was" in ran.out


def test_where_nothing_could_be_read_the_run_is_red(scene: Scene, run: Run) -> None:
    """A mistyped name alone, a registry that is down; beside something that was read it is a row like any other."""
    for entry in ("./nothere", NOWHERE):
        ran = run("check", entry, "--base", str(scene.root / "base"))
        assert (ran.code, ran.rows[entry]["outcome"]) == (1, "failed")
        assert "nothing was checked" in ran.err
        require_agreement(ran, "incompatible")
        assert run("check", entry, "--base", str(scene.root / "base"), "--fail-on", "never").code == 0
        assert run("check", entry, str(scene.root / "good"), "--base", str(scene.root / "base")).code == 0


def test_the_registry_tells_of_many_in_one_request(scene: Scene, run: Run, tmp_path: Path) -> None:
    """And says what is found out here, where they are few; of a lock with a newer base too."""
    names = ["good@v1", "dora@v1", "wide@v1", "yanked@v1", "removed", "absent@v1"]
    written = [*(f"{scene.name}/{name}" for name in names), f"{scene.other}/secret"]
    against = ("--base", scene.base)

    def rows(*entries: str) -> dict[str, dict[str, Any]]:
        ran = run("check", *entries, *against, "--for", "vllm", "--fail-on", "undecided")
        found = json.loads(ran.reports["json"])["checks"]
        kept = ("adapter", "base", "verdict", "outcome", "matched", "of", "facts", "coverage", "failed_by")
        for row in found:
            for one in row["findings"]:
                one.pop("hint")  # of a name that may have been meant as a path, more is said here
        return {
            row["adapter"]: {key: row[key] for key in (*kept, "findings")}
            | {"vllm": [one for one in row["runtimes"] if one["runtime"] == "vllm"]}
            for row in found
        }

    together = rows(*written)
    alone = {name: row for one in written for name, row in rows(one).items()}
    for name, row in alone.items():
        assert together[name] == row, name
    assert json.loads(run("--json", "check", *written, *against).out)["result"]["bytes_read"] == 0, (
        "nothing is read here"
    )
    with Hub(scene.registry.url, token=scene.token) as hub:
        locks = [lock_of(hub, f"{scene.name}/{name}", scene.base) for name in names[:4]]
    write_lock(tmp_path / "a.lock", locked(locks))
    run("lock", "--file", str(tmp_path / "a.lock"))
    with Hub(scene.registry.url, token=scene.token) as hub:
        hub.bases.add(hash_folder(write_base(tmp_path / "next", width=24), Silence()), scene.base, revision="next")
    ran = run("check", str(tmp_path / "a.lock"))
    assert {name.rpartition("/")[2]: row["verdict"] for name, row in ran.rows.items()} == {
        "good@v1": "compatible", "dora@v1": "compatible", "wide@v1": "incompatible", "yanked@v1": "compatible",
    }  # fmt: skip
    newer = [row["newer"] for row in ran.rows.values()]
    assert [[(one["revision"], one["verdict"]) for one in of_row] for of_row in newer] == [
        [("next", "incompatible")], [("next", "incompatible")], [("next", "fits")], [("next", "incompatible")],
    ]  # fmt: skip
