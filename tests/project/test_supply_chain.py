"""What is installed is what locks/ names, byte for byte, and a release says what it is made of."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lorahub
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "locks").rglob("*.txt"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXCLUDED = ROOT / "locks" / "excluded.txt"
IN_NO_LOCK = {"torch", "lorahub-registry"}


def entries(lock: str) -> Iterator[tuple[Requirement, list[str]]]:
    for entry in (ROOT / "locks" / lock).read_text().replace("\\\n", " ").splitlines():
        yield Requirement(entry.partition("--hash")[0]), re.findall(r"--hash=sha256:([0-9a-f]{64})\b", entry)


def pins(lock: str) -> dict[str, set[str]]:
    """Name → versions; several where they differ by Python."""
    found: dict[str, set[str]] = {}
    for named, _ in entries(lock):
        found.setdefault(canonicalize_name(named.name), set()).add(str(named.specifier))
    return found


def asked(*extras: str) -> Iterator[Requirement]:
    """What pyproject.toml asks for, by way of its own extras too."""
    named = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["build"]]
    named += [one for extra in extras for one in PROJECT["project"]["optional-dependencies"][extra]]
    for requirement in map(Requirement, named):
        if requirement.name == "lorahub-registry":
            yield from asked(*requirement.extras)
        else:
            yield requirement


@pytest.mark.parametrize("lock", [path for path in LOCKS if path != EXCLUDED], ids=lambda path: path.stem)
def test_a_lock_names_versions_and_bytes_and_no_place(lock: Path) -> None:
    found = list(entries(str(lock.relative_to(ROOT / "locks"))))
    assert found
    for named, hashes in found:
        assert [part.operator for part in named.specifier] == ["=="], named
        assert hashes, f"{named} has no hash"
        assert named.url is None, named
    for line in lock.read_text().splitlines():
        assert re.match(r"    --hash=sha256:[0-9a-f]{64}( \\)?$|[a-z0-9]", line), f"an option or an address: {line}"


@pytest.mark.parametrize(("lock", "extras"), [("dev.txt", ["dev"]), ("registry.txt", ["server"]), ("client.txt", [])])
def test_a_lock_has_all_that_is_asked_for(lock: str, extras: list[str]) -> None:
    found = pins(lock)
    for requirement in asked(*extras):
        name = canonicalize_name(requirement.name)
        if name in IN_NO_LOCK:
            continue
        assert name in found, f"{requirement} is not in locks/{lock}: make lock"
        for pinned in found[name]:
            assert requirement.specifier.contains(pinned.removeprefix("==")), f"{requirement} is locked at {pinned}"


def test_what_is_tested_is_what_is_deployed() -> None:
    tested = pins("dev.txt")
    for lock in ("registry.txt", "client.txt"):
        assert {name: found for name, found in pins(lock).items() if tested.get(name) != found} == {}


def test_this_environment_is_the_lock() -> None:
    for named, _ in entries("dev.txt"):
        if named.marker is None or named.marker.evaluate():
            try:
                here = version(named.name)
            except PackageNotFoundError:
                pytest.fail(f"{named.name} is locked and not installed: make")
            assert named.specifier.contains(here, prereleases=True), f"{named} is locked, {here} is installed: make"


def test_nothing_of_a_graphics_card_is_installed_with_the_lock() -> None:
    left_out = {line for line in EXCLUDED.read_text().splitlines() if not line.startswith("#")}
    assert not [name for name in pins("dev.txt") if name in left_out or name.startswith(("nvidia-", "cuda-", "triton"))]


# --- what is installed from them --------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["Dockerfile", "action.yml", "Makefile"])
def test_every_installation_is_from_a_lock(file: str) -> None:
    text = (ROOT / file).read_text().replace("\\\n", " ").replace("&&", "\n")
    commands = [line for line in text.splitlines() if re.search(r"\$\(PIP\) |pip install --\S+ .*-", line)]
    assert commands
    allowed = (
        "--require-hashes",
        "$(LOCKED)",
        "$(OURSELVES)",
        "--no-deps --no-build-isolation",
        "constraints.txt torch",
    )
    assert [command for command in commands if not any(words in command for words in allowed)] == []


# --- what a release is made of ----------------------------------------------------------------------------------------


def test_the_bill_of_materials_is_that_of_the_lock() -> None:
    bill = json.loads((ROOT / "locks/registry.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    found = {(part["purl"], *sorted(one["content"] for one in part["hashes"])) for part in bill["components"]}
    wanted = {
        (f"pkg:pypi/{canonicalize_name(named.name)}@{str(named.specifier).removeprefix('==')}", *sorted(hashes))
        for named, hashes in entries("registry.txt")
    }
    assert found == wanted, "make lock"
    ours = bill["metadata"]["component"]
    assert (ours["name"], ours["version"]) == (PROJECT["project"]["name"], PROJECT["project"]["version"])
    assert "://" not in json.dumps(bill["components"]), "it names no place that something was fetched from"


def test_a_release_is_tested_and_signed_with_as_few_rights_as_it_takes() -> None:
    workflow: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    jobs = workflow["jobs"]
    steps = {name: job["steps"] for name, job in jobs.items()}
    assert [step["run"] for step in steps["test"] if "run" in step] == [".ci/run"]
    assert jobs["build"]["needs"] == "test"
    assert jobs["pypi"]["needs"] == jobs["image"]["needs"] == "build"
    for name in ("build", "image"):
        used = [step.get("uses", "") for step in steps[name]]
        assert any(use.startswith("actions/attest-build-provenance@") for use in used)
        assert jobs[name]["permissions"]["id-token"] == "write"
    written = json.dumps(workflow)
    assert not re.search(r"secrets\.(?!GITHUB_TOKEN)", written), "nothing is published by a secret that could be stolen"
    for job in steps.values():
        for step in job:
            assert "${{" not in step.get("run", ""), "what somebody else wrote is never part of a program"


def test_notes_of_a_release_are_its_section_of_the_changelog(tmp_path: Path) -> None:
    (tmp_path / "ci").mkdir()
    script = shutil.copy(ROOT / "ci/release_notes.py", tmp_path / "ci")
    changelog = tmp_path / "CHANGELOG.md"

    def notes(text: str) -> subprocess.CompletedProcess[str]:
        changelog.write_text(text)
        return subprocess.run([sys.executable, script, "1.2.3"], capture_output=True, text=True, check=False)

    sections = ("## Unreleased", "- Later.", "## 1.2.3 (2026-12-01)", "- Now.", "## 1.2.2 (2026-11-01)", "- Then.")
    dated = notes("\n\n".join(("# Changelog", *sections)) + "\n")
    assert (dated.returncode, dated.stdout) == (0, "- Now.\n")
    for text in ("# Changelog\n\n## Unreleased\n\n- Now.\n", "# Changelog\n\n## 1.2.3\n\n- Now.\n"):
        refused = notes(text)
        assert refused.returncode == 1
        assert "## 1.2.3 (" in refused.stderr
    assert re.match(r"# Changelog\n\n## (Unreleased|\S+ \(\d{4}-\d\d-\d\d\))\n", (ROOT / "CHANGELOG.md").read_text())


def test_the_version_is_one_everywhere() -> None:
    assert lorahub.__version__ == version("lorahub-registry") == PROJECT["project"]["version"]
    for manifest in (ROOT / "deploy/kubernetes").glob("*.yaml"):
        for found in re.findall(r"image: lorahub:(\S+)", manifest.read_text()):
            assert found == lorahub.__version__, manifest.name
    assert f"rev: v{lorahub.__version__}" in (ROOT / "docs/ci.md").read_text()
