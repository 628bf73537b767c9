"""What is published, as somebody installs it: with no more than its extras ask for, and beside the other lorahub.

Dependencies are links to those of this environment: what an extra forgets to ask for isn't there.
"""

import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from jobs.models import write_adapter_for, write_base
from packaging.requirements import Requirement
from registry_process import LORAHUB, Registry

ROOT = Path(__file__).parents[2]
NAME = "lorahub-registry"
BY_ITSELF = ("--no-deps", "--no-index", "--no-compile")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a release: built where the address of the code is known."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)],
        cwd=ROOT,
        env={**os.environ, "GITHUB_REPOSITORY": "acme/lorahub"},
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    [path] = dist.glob("*.whl")
    return path


# --- what is in them --------------------------------------------------------------------------------------------------


def test_the_wheel_brings_its_bill_of_materials(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        [bill] = [name for name in opened.namelist() if ".dist-info/sboms/" in name]
        assert opened.read(bill) == (ROOT / "locks/registry.cdx.json").read_bytes()


def test_what_the_index_shows_leads_somewhere(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        [place] = [name for name in opened.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = message_from_bytes(opened.read(place))
    text = str(metadata.get_payload())
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert targets
    assert all(target.startswith("https://") for target in targets)
    for target in targets:
        path = re.sub(r"^https://github.com/acme/lorahub/(blob|raw)/v[\d.]+/|#.*", "", target)
        assert (ROOT / path).exists(), target
    addresses = dict(line.split(", ") for line in metadata.get_all("Project-URL", []))
    assert addresses.keys() == {"Homepage", "Documentation", "Changelog", "Issues"}
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_the_source_has_all_that_a_checkout_has(dist: Path) -> None:
    """Tests and changelog with it: who packages it for a system runs them from here."""
    [path] = dist.glob("*.tar.gz")
    with tarfile.open(path) as opened:
        packed = {name.partition("/")[2] for name in opened.getnames()}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    kept = {name for name in listed.splitlines() if (ROOT / name).is_file()}
    assert {"CHANGELOG.md", "tests/system/test_wheel.py"} <= packed
    assert kept - packed == set()


# --- where it is installed --------------------------------------------------------------------------------------------


def needed(*extras: str) -> Iterator[str]:
    """Every distribution that these extras lead to, by what each asks for itself."""
    coming = [Requirement(f"{NAME}[{','.join(extras)}]")]
    seen: set[tuple[str, str]] = set()
    while coming:
        wanted = coming.pop()
        for extra in ("", *wanted.extras):
            if (wanted.name.lower(), extra) in seen:
                continue
            seen.add((wanted.name.lower(), extra))
            try:
                asked = [Requirement(text) for text in distribution(wanted.name).requires or ()]
            except PackageNotFoundError:
                continue  # NVIDIA's libraries: nothing here is locked with them
            coming += [one for one in asked if one.marker is None or one.marker.evaluate({"extra": extra})]
    yield from {name for name, _ in seen} - {NAME}


class Installed:
    """An environment of its own."""

    def __init__(self, folder: Path, *extras: str) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.bin = folder / "bin"
        [self.packages] = folder.glob("lib/*/site-packages")
        for name in needed(*extras):
            self._link(name)

    def _link(self, name: str) -> None:
        try:
            found = distribution(name)
        except PackageNotFoundError:
            return
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            place = self.packages / top
            if not place.exists():
                place.symlink_to(Path(str(found.locate_file(top))))

    def pip(self, *words: object) -> None:
        pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(self.bin / "python")]
        subprocess.run([*pip, *map(str, words)], check=True, capture_output=True)

    def run(self, program: str, *words: object) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "LORAHUB_HOME": str(self.bin.parent / "home"), "NO_COLOR": "1"}
        command = [str(self.bin / program), *map(str, words)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def installed(wheel: Path, folder: Path, *extras: str) -> Installed:
    made = Installed(folder, *extras)
    made.pip("install", *BY_ITSELF, wheel)
    return made


def test_without_extras_it_checks_and_says_what_the_rest_needs(wheel: Path, tmp_path: Path) -> None:
    here = installed(wheel, tmp_path / "env")
    base, adapter = write_base(tmp_path / "base", files=2), tmp_path / "adapter"
    write_adapter_for(adapter, "./base", files=2)
    checked = here.run("lorahub", "check", adapter, "--base", base)
    assert checked.returncode == 0, checked.stderr
    for command, extra in ((("serve",), "server"), (("train", base, "rows.jsonl"), "train")):
        refused = here.run("lorahub", *command)
        assert (refused.returncode, f"lorahub-registry[{extra}]" in refused.stderr) == (2, True), refused.stderr
    assert here.run("python", "-c", "import lorahub; lorahub.Hub").returncode == 0


def test_with_server_it_serves_what_it_is_pushed(wheel: Path, tmp_path: Path) -> None:
    here = installed(wheel, tmp_path / "env", "server")
    registry = Registry(tmp_path / "registry", {"LORAHUB_WORKER": "true"}, program=str(here.bin / "lorahub")).start()
    try:
        (tmp_path / "token").write_text(registry.token)
        write_adapter_for(tmp_path / "adapter", "owner/base", files=2)
        given = ("--endpoint", registry.url, "--token-file", tmp_path / "token")
        pushed = here.run("lorahub", *given, "push", write_base(tmp_path / "base", files=2), "owner/base")
        assert pushed.returncode == 0, pushed.stderr
        pushed = here.run("lorahub", *given, "push", tmp_path / "adapter", "owner/sql")
        assert pushed.returncode == 0, pushed.stderr
        with registry.client() as client:
            page = client.get("/owner/sql")
            assert (page.status_code, "owner/sql" in page.text) == (200, True)
            for asset in re.findall(r'(?:href|src)="(/[^"]+\.(?:css|js|svg)[^"]*)"', page.text):
                assert client.get(asset).status_code == 200, asset
    finally:
        registry.stop()


@pytest.mark.torch
def test_with_train_it_trains(wheel: Path, tmp_path: Path) -> None:
    from training.bases import completions, save_base, write_rows

    here = installed(wheel, tmp_path / "env", "train")
    rows = write_rows(tmp_path / "rows.jsonl", completions(8))
    settings = ("--steps", "2", "--rank", "2", "--eval-split", "0", "--threads", "1")
    trained = here.run(
        "lorahub", "train", save_base("llama", tmp_path / "llama"), rows, "-o", tmp_path / "out", *settings
    )
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


# --- beside the other lorahub -----------------------------------------------------------------------------------------


def other_lorahub(folder: Path) -> Path:
    """As the index has it: another distribution, the same import package."""
    files = {
        "lorahub/__init__.py": "raise RuntimeError('theirs')\n",
        "lorahub/algorithm.py": "",
        "lorahub-0.1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: lorahub\nVersion: 0.1.0\n",
        "lorahub-0.1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "lorahub-0.1.0.dist-info/RECORD"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(record, "".join(f"{name},,\n" for name in [*files, record]))
    path = folder / "lorahub-0.1.0-py3-none-any.whl"
    path.write_bytes(content.getvalue())
    return path


def test_the_other_lorahub_is_noticed_and_its_traces_too(wheel: Path, tmp_path: Path) -> None:
    here = installed(wheel, tmp_path / "env")
    cure = "pip install --force-reinstall --no-deps lorahub-registry"

    here.pip("install", *BY_ITSELF, other_lorahub(tmp_path))
    told = here.run("lorahub", "--version")
    assert (told.returncode, told.stdout) == (2, "")
    assert "lorahub-0.1.0 is other people's code" in told.stderr
    assert cure in told.stderr

    here.pip("install", *BY_ITSELF, "--force-reinstall", wheel)  # ours are the files again, not alone
    told = here.run("python", "-c", "import lorahub")
    assert "ImportError: lorahub-0.1.0 is other people's code" in told.stderr

    here.pip("uninstall", "-y", "lorahub")
    told = here.run("lorahub", "--version")
    assert told.returncode == 2
    assert "a file of lorahub-registry is gone" in told.stderr

    here.pip("install", *BY_ITSELF, "--force-reinstall", wheel)  # as the hint says
    assert here.run("lorahub", "--version").stdout.startswith("lorahub ")


def test_another_package_of_the_name_that_stands_before_ours_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with an editable installation, which comes behind the environment's own packages."""
    (tmp_path / "lorahub").mkdir()
    (tmp_path / "lorahub" / "__init__.py").write_text("raise RuntimeError('theirs')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told = subprocess.run([LORAHUB, "--version"], capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert f"other people's package `lorahub` stands before the one of lorahub-registry: {tmp_path}" in told.stderr
