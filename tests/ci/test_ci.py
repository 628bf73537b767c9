"""Checks in CI: the command's reports, the action, the hooks and the pytest plugin, on a sample project."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import yaml
from builders import lora_weights, safetensors_bytes, write_adapter
from lorahub import Hub
from lorahub.hub.bases import hash_folder
from lorahub.hub.progress import Silence
from registry_process import LORAHUB, Registry
from sarif_pydantic import Sarif

ROOT = Path(__file__).parents[2]
BIN = Path(LORAHUB).parent


class Project:
    """A repository of somebody who uses adapters: one that fits, one that doesn't, a base, a lock file."""

    def __init__(self, registry: Registry, user: tuple[str, str], root: Path) -> None:
        self.name, self.token = user
        self.root = root
        self.base = f"{self.name}/base"
        self.environment = {
            **{
                name: value for name, value in os.environ.items() if not name.startswith(("LORAHUB_", "HF_", "GITHUB_"))
            },
            "HOME": str(root),
            "LORAHUB_HOME": str(root / ".home"),
            "LORAHUB_ENDPOINT": registry.url,
            "LORAHUB_TOKEN": self.token,
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        self.good = write_adapter(root / "adapters" / "good", base=self.base)
        self.bad = write_adapter(root / "adapters" / "bad", base=self.base, seed=1)
        (self.bad / "adapter_model.safetensors").write_bytes(lora_weights(width=24))
        self.folder = _base(root / "base")
        with Hub(registry.url, token=self.token) as hub:
            hub.bases.add(hash_folder(self.folder, Silence()), self.base)
            hub.push(self.good, f"{self.name}/good", base=self.base)
            hub.pull(f"{self.name}/good", self.good)  # with the lorahub.json that records its base
        (root / "lorahub.toml").write_text(f'endpoint = "{registry.url}"\n')

    def run(self, *command: str, code: int | None = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            command,
            cwd=self.root,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert code is None or result.returncode == code, result.stdout + result.stderr
        return result

    def check(self, *arguments: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run("lorahub", "check", *arguments, code=code, **variables)


def _base(folder: Path, *, width: int = 16) -> Path:
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    names = [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(2)]
    tensors = {name: random.standard_normal((width, width)) for name in names}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    return folder


@pytest.fixture
def project(registry: Registry, user: tuple[str, str], tmp_path: Path) -> Project:
    return Project(registry, user, tmp_path)


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_check_that_passes_and_one_that_fails(project: Project) -> None:
    passes = project.check("adapters/good", "--base", "base")
    assert "✓ adapters/good fits base" in passes.stdout
    assert "2 of 2 modules matched" in passes.stdout
    fails = project.check("adapters/bad", "--base", "base", code=1)
    assert "✗ adapters/bad does not fit base" in fails.stdout
    assert "LH202 error: 2 of 2 modules" in fails.stdout
    assert "expected [16, 16]" in fails.stdout


def test_the_base_that_the_adapter_names_is_found_on_the_registry(project: Project) -> None:
    shown = project.check("adapters/good")
    assert f"is compatible with {project.base}" in shown.stdout


def test_every_base_of_a_name_is_told_of(project: Project) -> None:
    (project.good / "lorahub.json").unlink()
    with Hub(project.environment["LORAHUB_ENDPOINT"], token=project.token) as hub:
        wider = _base(project.root / "wider", width=24)
        hub.bases.add(hash_folder(wider, Silence()), project.base, revision="wider")
    shown = project.check("adapters/good", "--base", project.base).stdout
    assert f"✓ adapters/good fits {project.base}" in shown
    assert "  @wider: ✗ does not fit, 0 of 2 modules\n  without a revision: ✓ fits, 2 of 2 modules\n" in shown
    offline = project.check("adapters/good", "--base", project.base, "--offline")
    assert "@wider: ✗ does not fit" in offline.stdout


def test_a_matrix_of_adapters_and_bases(project: Project) -> None:
    shown = project.check(
        "adapters/good", "adapters/bad", "--base", "base", "--base", project.base, "--for", "vllm", code=1
    )
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["adapter", "base", project.base, "vllm"]
    assert lines[1].split("  ")[0] == "adapters/bad"  # worst first
    assert "4 checks: 1 same, 1 fit, 2 not, 0 undecided" in shown.stdout


def test_all_adapters_of_a_base(project: Project) -> None:
    shown = json.loads(project.check("--json", "--all-of", project.base).stdout)["result"]
    assert [check["adapter"] for check in shown["checks"]] == [f"{project.name}/good"]
    assert shown["summary"]["compatible"] == 1


@pytest.mark.parametrize(("fail_on", "code"), [("incompatible", 0), ("undecided", 1), ("warning", 0), ("never", 0)])
def test_what_fails_is_chosen(project: Project, fail_on: str, code: int) -> None:
    write_adapter(project.root / "lonely", base="nobody/knows")
    project.check("lonely", "--fail-on", fail_on, code=code)


def test_a_runtime_that_cannot_load_it_fails(project: Project) -> None:
    config = json.loads((project.good / "adapter_config.json").read_text())
    (project.good / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 8}))
    project.check("adapters/good", "--base", "base", "--for", "vllm")
    shown = project.check("adapters/good", "--base", "base", "--for", "comfyui", code=1)
    assert "comfyui: ✗ LH406" in shown.stdout
    assert "no runtime is called" in project.check("adapters/good", "--for", "nothing", code=2).stderr


def test_levels_read_more(project: Project) -> None:
    tensors = {f"base_model.model.model.layers.{n}.self_attn.q_proj.lora_A.weight": np.ones((4, 16)) for n in range(2)}
    tensors |= {name.replace("lora_A", "lora_B"): np.zeros((16, 4)) for name in tensors}
    (project.good / "adapter_model.safetensors").write_bytes(safetensors_bytes(tensors))
    (project.good / "lorahub.json").unlink()
    assert "LH303" not in project.check("adapters/good", "--base", "base").stdout
    assert (
        "LH303 warning: 2 of 2 updates are zero"
        in project.check("adapters/good", "--base", "base", "--level", "drift").stdout
    )


def test_a_finding_is_set_aside_with_a_reason_and_a_date(project: Project) -> None:
    entry = '[[check.ignore]]\nadapter = "adapters/bad"\nrule = "LH202"\nreason = "known"\nuntil = {}\n'
    configuration = project.root / "lorahub.toml"
    before = configuration.read_text()
    configuration.write_text(before + entry.format("2999-01-01"))
    assert "ignored LH202: known" in project.check("adapters/bad", "--base", "base").stdout
    configuration.write_text(before + entry.format("2020-01-01"))
    project.check("adapters/bad", "--base", "base", code=1)
    configuration.write_text(before + '[[check.ignore]]\nadapter = "*"\nrule = "LH202"\n')
    assert "a reason and an expiry date" in project.check("adapters/bad", "--base", "base", code=2).stderr


def test_a_base_that_was_read_before_needs_no_network(project: Project) -> None:
    project.check("adapters/good", "--base", project.base)
    known = project.check("adapters/good", "--base", project.base, "--offline")
    assert f"offline: {project.base} is as the registry knew it, as of 20" in known.stderr
    told = project.check("adapters/good", "--base", "nobody/knows", "--offline")
    assert "LH506 warning: nobody/knows was never read on this machine" in told.stdout
    project.check("adapters/good", "--base", "nobody/knows", "--offline", "--fail-on", "undecided", code=1)


# --- reports ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def reports(project: Project) -> dict[str, str]:
    kinds = {
        "sarif": "out/r.sarif",
        "junit": "out/r.xml",
        "markdown": "out/r.md",
        "json": "out/r.json",
        "github": "out/r.txt",
    }
    wishes = [f"--report={kind}={place}" for kind, place in kinds.items()]
    project.check("adapters/good", "adapters/bad", "--base", "base", *wishes, code=1)
    return {kind: (project.root / place).read_text() for kind, place in kinds.items()}


def test_sarif_is_valid_and_points_into_the_project(reports: dict[str, str]) -> None:
    document = json.loads(reports["sarif"])
    Sarif.model_validate(document)
    (run,) = document["runs"]
    assert document["version"] == "2.1.0"
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == sorted({r["ruleId"] for r in run["results"]})
    errors = [result for result in run["results"] if result["level"] == "error"]
    assert [result["ruleId"] for result in errors] == ["LH202"]
    place = errors[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert place == "adapters/bad/adapter_config.json"
    fingerprints = [result["partialFingerprints"]["lorahub/v2"] for result in run["results"]]
    assert len(set(fingerprints)) == len(fingerprints)


def test_junit_has_a_case_for_each_pair(reports: dict[str, str]) -> None:
    suite = ET.fromstring(reports["junit"]).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    failed = [case for case in suite.iter("testcase") if case.find("failure") is not None]
    assert [(case.get("classname"), case.get("name")) for case in failed] == [("adapters/bad", "base")]


def test_annotations_are_escaped_and_point_to_a_file(reports: dict[str, str]) -> None:
    (line,) = reports["github"].splitlines()
    assert line.startswith("::error file=adapters/bad/adapter_config.json,line=1,title=adapters/bad × base::LH202")


def test_markdown_lets_no_markup_through(project: Project) -> None:
    config = json.loads((project.bad / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/x/<script>|`a`[b](c)"
    (project.bad / "adapter_config.json").write_text(json.dumps(config))
    project.check("adapters/bad", "--base", "base", "--report", "markdown=out.md", code=1)
    text = (project.root / "out.md").read_text()
    assert "<script>" not in text
    assert "\\[b\\](c)" in text


def test_many_annotations_are_cut_and_counted(project: Project) -> None:
    names = []
    for number in range(13):
        folder = write_adapter(project.root / f"bad{number}", base=project.base, seed=number)
        (folder / "adapter_model.safetensors").write_bytes(lora_weights(width=24))
        names.append(folder.name)
    lines = project.check(*names, "--base", "base", "--report", "github=out.txt", code=1)
    written = (project.root / "out.txt").read_text().splitlines()
    assert len(written) == 10, "GitHub shows no more"
    assert written[-1] == "::error::…and 4 more in the summary"
    assert lines.returncode == 1


# --- the action -------------------------------------------------------------------------------------------------------


def _run_action(project: Project, *, code: int, **inputs: str) -> dict[str, str]:
    """The composite action's steps, as the runner runs them: inputs in the environment, outputs in a file."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    defaults = {name: str(entry["default"]) for name, entry in action["inputs"].items()}
    values = defaults | {name.replace("_", "-"): value for name, value in inputs.items()}
    outputs = project.root / "outputs.txt"
    for step in action["runs"]["steps"]:
        given = {name: _filled(text, values) for name, text in step.get("env", {}).items()}
        project.run(
            "bash",
            "-c",
            step["run"],
            code=code if step.get("id") == "check" else 0,
            GITHUB_ACTION_PATH=str(ROOT),
            GITHUB_OUTPUT=str(outputs),
            GITHUB_STEP_SUMMARY=str(project.root / "summary.md"),
            RUNNER_TEMP=str(project.root / "tmp"),
            **given,
        )
    found = dict(line.split("=", 1) for line in outputs.read_text().splitlines())
    declared = {
        entry["value"].removeprefix("${{ steps.check.outputs.").removesuffix(" }}")
        for entry in action["outputs"].values()
    }
    assert declared == found.keys()
    return found


def _filled(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"${{{{ inputs.{name} }}}}", value)
    assert "${{" not in text
    return text


def test_the_action_passes_and_fails(project: Project) -> None:
    good = _run_action(project, code=0, adapters="adapters/good", bases="base")
    assert (good["fits"], good["incompatible"]) == ("1", "0")
    assert json.loads(good["matrix"]) == [{"adapter": "adapters/good", "base": "base"}]
    assert json.loads(Path(good["result"]).read_text())["summary"]["fits"] == 1
    both = _run_action(project, code=1, adapters="adapters/good\nadapters/bad\n", bases="base\n", loaders="vllm")
    assert both["failed"] == "1"
    assert (both["fits"], both["incompatible"]) == ("1", "1")
    Sarif.model_validate(json.loads(Path(both["sarif"]).read_text()))
    assert "lorahub check: 2 checks" in (project.root / "summary.md").read_text()


def test_inputs_are_never_code(project: Project) -> None:
    hostile = "adapters/good; touch pwned $(touch pwned) `touch pwned`"
    _run_action_code = project.run(
        "bash",
        str(ROOT / "ci" / "check.sh"),
        code=None,
        INPUT_ADAPTERS=hostile,
        INPUT_BASES="base",
        INPUT_LEVEL="shapes",
        INPUT_LOADERS="",
        INPUT_FAIL_ON="undecided",
        RUNNER_TEMP=str(project.root / "tmp"),
    )
    assert _run_action_code.returncode != 0
    assert not (project.root / "pwned").exists()


def test_what_a_runtime_refuses_is_in_no_matrix(project: Project) -> None:
    config = json.loads((project.good / "adapter_config.json").read_text())
    (project.good / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 8}))
    found = _run_action(project, code=1, adapters="adapters/good", bases="base", loaders="comfyui")
    assert (found["fits"], found["failed"], found["matrix"]) == ("1", "1", "[]")


# --- GitLab and Jenkins -----------------------------------------------------------------------------------------------


def _outcomes(junit: Path) -> dict[str, str]:
    cases = ET.parse(junit).getroot().iter("testcase")
    return {
        str(case.get("classname")): next((part.tag for part in case if part.tag != "system-out"), "passed")
        for case in cases
    }


def _run_gitlab(project: Project, *, code: int, **inputs: str) -> dict[str, str]:
    """The component's job, as a runner runs it: inputs filled in, variables set, its lines in one shell."""
    head, _, text = (ROOT / "ci/gitlab.yml").read_text().partition("\n---\n")
    for name, entry in yaml.safe_load(head)["spec"]["inputs"].items():
        text = text.replace(f"$[[ inputs.{name} ]]", inputs.get(name, entry["default"]))
    assert "$[[" not in text
    job = yaml.safe_load(text)["lorahub-check"]
    project.run("sh", "-c", "set -e\n" + "\n".join(job["script"]), code=code, **job["variables"])
    for place in job["artifacts"]["paths"]:
        assert (project.root / place).is_file()
    return _outcomes(project.root / job["artifacts"]["reports"]["junit"])


def test_every_system_says_the_same(project: Project) -> None:
    """Of one lock: the action, GitLab, Jenkins and pytest."""
    with Hub(project.environment["LORAHUB_ENDPOINT"], token=project.token) as hub:
        hub.push(project.bad, f"{project.name}/bad", base=project.base, policy="warn")
        hub.push(write_adapter(project.root / "gone", base=project.base, seed=7), f"{project.name}/gone")
    names = [f"{project.name}/{name}@v1" for name in ("good", "bad", "gone")]
    project.run("lorahub", "lock", *names)
    with Hub(project.environment["LORAHUB_ENDPOINT"], token=project.token) as hub:
        hub.delete(f"{project.name}/gone")
    expected = dict(zip(names, ("passed", "failure", "skipped"), strict=True))
    found = _run_action(project, code=1)
    assert (found["failed"], found["undecided"]) == ("1", "1")
    assert _outcomes(project.root / "tmp/lorahub-check/result.xml") == expected
    assert _run_gitlab(project, code=1) == expected
    assert _run_gitlab(project, code=0, options="--fail-on never")[names[1]] == "passed"
    [step] = re.findall(r"sh '([^']+)'", (ROOT / "docs/ci.md").read_text())
    project.run("sh", "-c", step, code=1)
    assert _outcomes(project.root / "lorahub.xml") == expected
    run = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "lorahub.lock", "-q")
    assert "1 failed, 1 passed, 1 skipped" in project.run(*run, code=1).stdout
    assert "2 failed, 1 passed" in project.run(*run, "--lorahub-strict", code=1).stdout


# --- hooks ------------------------------------------------------------------------------------------------------------


def _with_hooks(project: Project, *ids: str) -> None:
    """The hooks of .pre-commit-hooks.yaml, run from this installation instead of one of their own."""
    hooks = [hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text()) if hook["id"] in ids]
    local = [{**hook, "language": "system" if hook["language"] == "python" else hook["language"]} for hook in hooks]
    configuration: dict[str, Any] = {"repos": [{"repo": "local", "hooks": local}]}
    (project.root / ".pre-commit-config.yaml").write_text(yaml.safe_dump(configuration))
    project.run("git", "init", "-q")
    project.run("git", "config", "user.email", "a@example.org")
    project.run("git", "config", "user.name", "A")


def test_the_hook_refuses_an_adapter_that_does_not_fit(project: Project) -> None:
    _with_hooks(project, "lorahub-check")
    project.check("adapters/good", "--base", project.base)  # the base has been read once
    pre_commit = (sys.executable, "-m", "pre_commit", "run", "--files")
    files = [str(path) for path in sorted(project.good.iterdir()) if path.suffix in (".json", ".safetensors")]
    project.run("git", "add", "adapters")
    project.run(*pre_commit, *files, LORAHUB_ENDPOINT="http://127.0.0.1:9")
    bad = [str(path) for path in sorted(project.bad.iterdir())]
    refused = project.run(*pre_commit, *bad, code=1)
    assert "LH202" in refused.stdout


def test_undecided_does_not_block_a_commit(project: Project) -> None:
    _with_hooks(project, "lorahub-check")
    folder = write_adapter(project.root / "lonely", base="nobody/knows")
    project.run("git", "add", "lonely")
    project.run(sys.executable, "-m", "pre_commit", "run", "--files", str(folder / "adapter_config.json"))


def test_the_hook_refuses_pickles(project: Project) -> None:
    _with_hooks(project, "lorahub-no-pickle")
    (project.root / "adapter_model.bin").write_bytes(b"PK")
    project.run("git", "add", "adapter_model.bin")
    refused = project.run(sys.executable, "-m", "pre_commit", "run", "--all-files", code=1)
    assert "LH301" in refused.stdout


# --- locks ------------------------------------------------------------------------------------------------------------


def test_a_lock_file_is_written_verified_and_found_out_of_date(project: Project, registry: Registry) -> None:
    reference = f"{project.name}/good@latest"
    project.run("lorahub", "lock", reference, "--base", project.base)
    project.run("lorahub", "verify")
    project.check("lorahub.lock")
    _with_hooks(project, "lorahub-lock")
    project.run("git", "add", "lorahub.lock")
    project.run(sys.executable, "-m", "pre_commit", "run", "--all-files")
    with Hub(registry.url, token=project.token) as hub:
        other = write_adapter(project.root / "other", base=project.base, seed=5)
        hub.push(other, f"{project.name}/good")
    stale = project.run("lorahub", "verify", code=1)
    assert "LH503" in stale.stdout
    project.run(sys.executable, "-m", "pre_commit", "run", "--all-files", code=1)
    project.run("lorahub", "lock")
    project.run("lorahub", "verify")


# --- pytest -----------------------------------------------------------------------------------------------------------


def test_the_plugin_makes_a_test_of_each_pair(project: Project) -> None:
    project.run("lorahub", "lock", f"{project.name}/good@v1")
    (project.root / "lorahub.lock").write_text((project.root / "lorahub.lock").read_text())
    run = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "lorahub.lock", "-v", "--junitxml", "out.xml")
    passed = project.run(*run, "--lorahub-base", project.base, "--lorahub-base", "base")
    assert "2 passed" in passed.stdout
    other = _other_base(project.root / "narrow")
    failed = project.run(*run, "--lorahub-base", str(other), code=1)
    assert "LH202" in failed.stdout
    suite = ET.parse(project.root / "out.xml").getroot().find("testsuite")
    assert suite is not None
    assert suite.get("failures") == "1"


def test_undecided_is_skipped_or_strict(project: Project, registry: Registry) -> None:
    with Hub(registry.url, token=project.token) as hub:
        hub.push(write_adapter(project.root / "lonely", base="nobody/knows"), f"{project.name}/lonely")
    project.run("lorahub", "lock", f"{project.name}/lonely@v1")
    run = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "lorahub.lock")
    assert "1 skipped" in project.run(*run).stdout
    assert "LH106" in project.run(*run, "--lorahub-strict", code=1).stdout


def test_own_tests_use_the_fixtures_and_the_helper(project: Project) -> None:
    (project.root / "test_own.py").write_text(
        "from lorahub.pytest_plugin import assert_fits\n"
        "def test_it(adapter, lorahub_client):\n"
        f"    folder = adapter('{project.name}/good@v1')\n"
        "    assert (folder / 'adapter_config.json').is_file()\n"
        "    assert_fits(folder, 'base')\n"
        "def test_not():\n"
        "    assert_fits('adapters/bad', 'base')\n"
    )
    run = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_own.py")
    shown = project.run(*run, code=1)
    assert "1 failed, 1 passed" in shown.stdout
    assert "LH202" in shown.stdout


def _other_base(folder: Path) -> Path:
    folder.mkdir()
    names = [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(2)]
    (folder / "model.safetensors").write_bytes(safetensors_bytes({name: np.ones((8, 8)) for name in names}))
    return folder


# --- the Hub's protocol as a source -----------------------------------------------------------------------------------


def test_a_base_on_a_hub_costs_kilobytes(project: Project, registry: Registry) -> None:
    """A registry stands in for the public Hub, whose protocol it speaks."""
    big = project.root / "big"
    big.mkdir()
    random = np.random.default_rng(1)
    for layer in range(2):
        name = f"model.layers.{layer}.self_attn.q_proj.weight"
        filler = {f"filler.{layer}": random.standard_normal((500, 1000))}
        (big / f"part{layer}.safetensors").write_bytes(
            safetensors_bytes({name: random.standard_normal((16, 16)), **filler})
        )
    with Hub(registry.url, token=project.token) as hub:
        hub.push(big, f"{project.name}/big")
    hub_of = {"LORAHUB_HF_ENDPOINT": registry.url, "HF_TOKEN": project.token}
    shown = json.loads(project.check("--json", "adapters/good", "--base", f"hf:{project.name}/big", **hub_of).stdout)[
        "result"
    ]
    assert [check["verdict"] for check in shown["checks"]] == ["fits"]
    assert 0 < shown["bytes_read"] < 64 << 10
    project.run("lorahub", "base", "add", f"hf:{project.name}/big", f"{project.name}/renamed", **hub_of)
    listed = json.loads(project.run("lorahub", "base", "ls", f"{project.name}/renamed", "--json").stdout)["result"]
    assert [(base["name"], base["tensors"]) for base in listed] == [(f"{project.name}/renamed", 4)]
    assert listed[0]["files"].keys() == {"part0.safetensors", "part1.safetensors"}


def test_a_project_file_cannot_have_the_hubs_token(project: Project, registry: Registry) -> None:
    with Hub(registry.url, token=project.token) as hub:
        hub.push(project.folder, f"{project.name}/secret", private=True)
    configuration = project.root / "lorahub.toml"
    configuration.write_text(f'{configuration.read_text()}hf_endpoint = "{registry.url}"\n')
    wanted = ("adapters/good", "--base", f"hf:{project.name}/secret")
    assert "is it private?" in project.check(*wanted, HF_TOKEN=project.token).stdout
    project.check(*wanted, "--fail-on", "undecided", LORAHUB_HF_ENDPOINT=registry.url, HF_TOKEN=project.token)


def test_a_rule_is_explained(project: Project) -> None:
    assert "Cure: " in project.run("lorahub", "explain", "lh202").stdout
    assert "LH503" in project.run("lorahub", "explain", "-q").stdout
    project.run("lorahub", "explain", "LH999", code=2)


def test_info_and_policy(project: Project) -> None:
    shown = project.run("lorahub", "info", f"{project.name}/good@v1").stdout
    assert f"lora, rank 4, on q_proj; made for {project.base}" in shown
    refused = project.run("lorahub", "push", "adapters/bad", f"{project.name}/bad", code=7)
    assert "LH202" in refused.stderr
    assert "lorahub push --policy warn" in refused.stderr
    project.run("lorahub", "push", "adapters/bad", f"{project.name}/bad", "--policy", "warn")
    project.run("lorahub", "policy", f"{project.name}/bad", "refuse")
    assert f"does not fit {project.base} (LH202" in project.run("lorahub", "info", f"{project.name}/bad@v1").stdout


def test_a_file_is_identified_by_its_bytes(project: Project) -> None:
    found = project.run("lorahub", "identify", "adapters/good/adapter_model.safetensors")
    assert f"{project.name}/good@v1" in found.stdout
    assert "unknown" in project.run("lorahub", "identify", "lorahub.toml", code=1).stdout
