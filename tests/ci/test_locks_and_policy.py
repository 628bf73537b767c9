"""What is pinned stays pinned; what a project asks for beside that an adapter fits, and what it sets aside."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import lora_weights, safetensors_bytes, write_adapter
from lorahub import Hub
from lorahub.adapters.runtimes import RUNTIMES
from lorahub.cli.main import main
from lorahub.hub.bases import hash_folder
from lorahub.hub.lock import read_lock
from lorahub.hub.progress import Silence
from registry_process import Registry

VLLM = f"vllm@{RUNTIMES['vllm'].versions[0]}"


class Project:
    """Who uses three adapters of a registry, of ranks 4, 4 and 64."""

    def __init__(self, registry: Registry, user: tuple[str, str], root: Path) -> None:
        self.registry, self.root = registry, root
        self.name, self.token = user
        self.base = f"{self.name}/base"
        self.register("base", 16, "one")
        with self.hub() as hub:
            for seed, name in enumerate(("sql", "chat")):
                hub.push(write_adapter(root / name, base=self.base, seed=seed), f"{self.name}/{name}", base=self.base)
            hub.push(write_adapter(root / "large", base=self.base, rank=64), f"{self.name}/large", base=self.base)

    def hub(self) -> Hub:
        return Hub(self.registry.url, token=self.token)

    def register(self, folder: str, width: int, revision: str, *, seed: int = 0) -> None:
        random, place = np.random.default_rng(seed), self.root / folder
        place.mkdir(exist_ok=True)
        names = [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(2)]
        tensors = {name: random.standard_normal((width, width)) for name in names}
        (place / "model.safetensors").write_bytes(safetensors_bytes(tensors))
        (place / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
        with self.hub() as hub:
            hub.bases.add(hash_folder(place, Silence()), self.base, revision=revision)


Say = Callable[..., Any]


@pytest.fixture
def project(registry: Registry, user: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project(registry, user, tmp_path)
    monkeypatch.chdir(tmp_path)
    settings = {"HOME": tmp_path / "home", "ENDPOINT": registry.url, "TOKEN": made.token}
    for name, value in settings.items():
        monkeypatch.setenv(f"LORAHUB_{name}", str(value))
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return made


@pytest.fixture
def say(project: Project, capsys: pytest.CaptureFixture[str]) -> Say:  # noqa: ARG001 (for its folder)
    def run(*words: str, code: int = 0) -> tuple[dict[str, Any], str]:
        """The result as JSON, and what was said beside it."""
        with pytest.raises(SystemExit) as ended:
            main(["--json", *words])
        said = capsys.readouterr()
        assert (ended.value.code or 0) == code, said.out + said.err
        document = json.loads(said.out)
        return document.get("result") or document["error"], said.err

    return run


# --- locks ------------------------------------------------------------------------------------------------------------


def test_a_base_registered_later_changes_nothing_of_what_is_locked(project: Project, say: Say) -> None:
    say("lock", f"{project.name}/sql@latest", f"{project.name}/chat@latest", "--base", project.base, "--for", VLLM)
    before, _ = say("check", "lorahub.lock")
    lock = read_lock(project.root / "lorahub.lock")
    assert (lock.registry, lock.runtimes) == (project.registry.url, (VLLM,))
    assert {(entry.base_revision, str(entry.base_digest)[:8]) for entry in lock.adapters} == {("one", "weights:")}
    project.register("wider", 24, "next")
    project.register("retrained", 16, "retrained", seed=7)
    after, _ = say("check", "lorahub.lock")
    kept = ("verdict", "outcome", "matched", "findings", "revisions")
    assert [[row[key] for key in kept] for row in after["checks"]] == [
        [r[key] for key in kept] for r in before["checks"]
    ]
    assert before["newer"] == []
    broken = {one["base"]: (one["breaks"], one["of"]) for one in after["newer"]}
    assert broken == {f"{project.base}@next": (2, 2), f"{project.base}@retrained": (0, 2)}
    with pytest.raises(SystemExit):
        main(["check", "lorahub.lock"])


def test_newer_bases_are_said(project: Project, say: Say, capsys: pytest.CaptureFixture[str]) -> None:
    say("lock", f"{project.name}/sql@v1", "--base", project.base)
    project.register("wider", 24, "next")
    with pytest.raises(SystemExit):
        main(["check", "lorahub.lock", "--report", "markdown=out.md"])
    told = f"newer base {project.base}@next: 1 of 1 would break"
    assert told in capsys.readouterr().out
    assert told.replace("@", "@<!-- -->") in (project.root / "out.md").read_text()


def test_a_lock_works_without_a_network(project: Project, say: Say) -> None:
    say("lock", f"{project.name}/sql@latest", f"{project.name}/chat@v1")
    online, _ = say("check", "lorahub.lock")
    offline, _ = say("check", "lorahub.lock", "--fail-on", "undecided", "--offline")
    assert [row["verdict"] for row in offline["checks"]] == [row["verdict"] for row in online["checks"]]


def test_renaming_and_locking_again_keep_the_fingerprints(project: Project, say: Say) -> None:
    """A README-only change is another commit and another line; a finding is the same."""

    def lock_and_report(place: str) -> Any:
        say("lock", f"{project.name}/wide@latest", f"{project.name}/sql@latest", "--file", place)
        say("check", place, "--report", "sarif=out.sarif", code=1)
        return json.loads((project.root / "out.sarif").read_text())

    write_adapter(project.root / "wide", base=project.base)
    (project.root / "wide/adapter_model.safetensors").write_bytes(lora_weights(width=24))
    with project.hub() as hub:
        hub.push(project.root / "wide", f"{project.name}/wide", base=project.base, policy="warn")
    first = lock_and_report("lorahub.lock")
    assert first == lock_and_report("lorahub.lock")
    card = project.root / "wide/README.md"
    card.write_text(card.read_text() + "More words.\n")
    with project.hub() as hub:
        hub.push(project.root / "wide", f"{project.name}/wide", base=project.base)
    assert first == lock_and_report("lorahub.lock"), "nothing differs after a README-only change"
    renamed = lock_and_report("other.lock")
    prints = [[one["partialFingerprints"] for one in run["results"]] for run in (first["runs"][0], renamed["runs"][0])]
    assert prints[0] == prints[1]
    assert first["runs"][0]["tool"]["driver"]["version"]


def test_ignored_findings_are_suppressed(project: Project, say: Say) -> None:
    (project.root / "lorahub.toml").write_text(
        '[[check.ignore]]\nrule = "LH202"\nadapter = "w*"\nreason = "known"\nuntil = 2999-01-01\n'
    )
    write_adapter(project.root / "wide")
    (project.root / "wide/adapter_model.safetensors").write_bytes(lora_weights(width=24))
    found, _ = say("check", "wide", "--base", "./base", "--report", "sarif=out.sarif")
    assert [one["rule"] for one in found["checks"][0]["ignored"]] == ["LH202"]
    results = json.loads((project.root / "out.sarif").read_text())["runs"][0]["results"]
    [suppressed] = [one for one in results if one["ruleId"] == "LH202"]
    assert suppressed["suppressions"] == [{"kind": "external", "status": "accepted", "justification": "known"}]


# --- environments and policy ------------------------------------------------------------------------------------------

ENVIRONMENTS = """
[check]
environments = ["small"]

[environments.small]
bases = ["{base}@one"]
runtimes = ["{vllm}"]
max_lora_rank = 16

[environments.full]
bases = ["{base}"]
max_adapters = 1
level = "drift"
"""


def test_an_environment_asks_for_more(project: Project, say: Say) -> None:
    (project.root / "lorahub.toml").write_text(ENVIRONMENTS.format(base=project.base, vllm=VLLM))
    good, large = f"{project.name}/sql@v1", f"{project.name}/large@v1"
    found, _ = say("check", good, large, code=1)
    assert found["level"] == "shapes"
    rows = {row["adapter"]: row for row in found["checks"]}
    assert [row["environment"] for row in rows.values()] == ["small"] * 2
    assert (rows[good]["outcome"], rows[large]["outcome"]) == ("passed", "failed")
    assert rows[large]["failed_by"] == ["LH401"]
    assert "rank 64; small takes at most 16" in rows[large]["findings"][0]["message"]
    full, _ = say("check", good, large, "--env", "full", code=1)
    assert full["level"] == "drift"
    assert [row["failed_by"] for row in full["checks"]] == [[], ["LH507"]]
    both, _ = say("check", good, "--env", "small", "--env", "full")
    assert [(row["environment"], row["base"]) for row in both["checks"]] == [
        ("small", f"{project.base}@one"),
        ("full", project.base),
    ]
    wrong, _ = say("check", good, "--env", "staging", code=2)
    assert "small, full" in wrong["hint"]


def test_an_ignore_is_of_a_rule_an_adapter_a_base_and_a_runtime(project: Project, say: Say) -> None:
    config = json.loads((project.root / "sql/adapter_config.json").read_text())
    (project.root / "sql/adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 8}))
    check = ("check", "sql", "--base", "./base", "--for", "comfyui", "--for", "diffusers")
    found, _ = say(*check, code=1)
    rule = found["checks"][0]["failed_by"][0]
    for until, keeps, said in (("2999-01-01", ["diffusers"], ""), ("2020-01-01", ["comfyui", "diffusers"], "expired")):
        (project.root / "lorahub.toml").write_text(
            f'[[check.ignore]]\nrule = "{rule}"\nadapter = "s?l"\nbase = "ba*"\nruntime = "comfyui"\n'
            f'reason = "not there"\nuntil = {until}\n'
        )
        found, beside = say(*check, code=1)
        assert [one["facts"]["runtime"] for one in found["checks"][0]["findings"] if "facts" in one] == keeps
        assert said in beside
        assert ("not there" in beside) == bool(said)


def test_the_gate_is_adopted_with_what_is_there_already(project: Project, say: Say) -> None:
    write_adapter(project.root / "wide", base=project.base)
    (project.root / "wide/adapter_model.safetensors").write_bytes(lora_weights(width=24))
    check = ("check", "wide", "sql", "--base", "./base")
    say(*check, "--write-baseline", "old.json", code=1)
    (project.root / "lorahub.toml").write_text('[check]\nbaseline = "old.json"\n')
    found, _ = say(*check)
    assert [row["outcome"] for row in found["checks"]] == ["passed", "passed"]
    assert "LH202" in [one["rule"] for one in found["checks"][0]["ignored"]]
    (project.root / "sql/adapter_model.safetensors").write_bytes(lora_weights(width=24))
    found, _ = say(*check, code=1)
    assert [row["outcome"] for row in found["checks"]] == ["passed", "failed"], "what is new fails"
    say(*check, "--write-baseline", "old.json", code=1)
    assert len(re.findall('"LH202"', (project.root / "old.json").read_text())) == 2
    (project.root / "old.json").write_text("[]")
    assert "is no baseline" in say(*check, code=2)[0]["message"]


def test_the_tables_stand_in_pyproject_too(project: Project, say: Say) -> None:
    (project.root / "pyproject.toml").write_text('[tool.lorahub.check]\nfail_on = "undecided"\nlevel = "metadata"\n')
    found, _ = say("check", "sql", "--base", "./base", code=1)
    assert (found["fail_on"], found["level"], found["checks"][0]["verdict"]) == ("undecided", "metadata", "undecided")
    assert say("check", "sql", "--base", "./base", "--level", "shapes")[0]["checks"][0]["verdict"] == "fits"
    (project.root / "pyproject.toml").write_text('[tool.lorahub]\ncheck = "yes"\n')
    assert "check is text; expected a table" in say("check", "sql", code=2)[0]["message"]
