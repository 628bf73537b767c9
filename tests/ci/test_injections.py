"""What a file, a name or a registry says commands nobody: no terminal, no CI system, no reader of a report."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from builders import lora_weights, write_adapter
from lorahub.cli.main import main
from lorahub.hub.lock import LockedAdapter, locked, write_lock
from lorahub.hub.showing import shown_line, visible
from sarif_pydantic import Sarif

ATTACKS = {
    "newline": "x\n::error file=a.py::forged",
    "command at the start": "::warning::forged",
    "command behind spaces": "   ::add-mask::forged",
    "older command": "see ##[error]forged",
    "Azure": "##vso[task.complete result=Succeeded]",
    "TeamCity": "##teamcity[buildProblem description='forged']",
    "ESC": "\x1b[2K\x1b[1A\x1b]8;;http://evil.example\x07click",
    "CRLF": "x\r\n::error::forged",
    "carriage return": "✗ it fails\r✓ it fits",
    "bidi": "safe\u202etxt.exe\u2066",
    "line separator": "x\u2028::error::forged",
    "CDATA": "x]]><failure/><![CDATA[",
    "markup": "<script>alert(1)</script> <img src=x>",
    "Markdown": "|a|\n| --- |\n[link](http://evil.example) ![i](http://evil.example/x) `code` **b**",
    "mention": "cc @acme/everyone http://evil.example www.evil.example",
    "backslash": "a\\|b\\",
    "percent": "%0A::error::forged%0D",
    "NUL and half a character": "a\x00b\udc80c\ufffe",
    "section of GitLab": "\x1b[0Ksection_start:0:x\r\x1b[0K",
}
COMMAND = re.compile(r"^\s*::|##[a-z]*\[", re.MULTILINE)
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufffe\ud800-\udfff]")
MARKUP = re.compile(r"<(?!!--|/?details>|/?summary>|br>)|(?<!\\)(?:\\\\)*\]\(|@(?!<!-- -->)|(?<!\\):(?=//)")


def hostile(root: Path, attack: str) -> list[str]:
    """Adapters that say it in each place that a check repeats: a setting, a base, a tensor, a folder's name, a lock."""
    setting = write_adapter(root / "setting")
    change(setting, **{attack: True, "base_model_name_or_path": attack})
    target = write_adapter(root / "target")
    change(target, target_modules=["q_proj", attack], modules_to_save=[attack])
    tensor = write_adapter(root / "tensor")
    name = json.dumps(attack.encode("utf-8", "replace").decode())[1:-1].encode()
    weights = lora_weights()
    length = int.from_bytes(weights[:8], "little")
    header = weights[8 : 8 + length].rstrip().replace(b"base_model.model.model.layers.1.self_attn.q_proj", name)
    header += b" " * (-len(header) % 8)
    whole = len(header).to_bytes(8, "little") + header + weights[8 + length :]
    (tensor / "adapter_model.safetensors").write_bytes(whole)
    named = write_adapter(root / attack.replace("/", "_").replace("\x00", "_"))
    write_lock(
        root / "their.lock",
        locked(
            [LockedAdapter(f"{visible(attack)}@v1", "0" * 40, "sha256:0"), LockedAdapter("a\n::error::b", "0", "0")]
        ),
    )
    return ["setting", "target", "tensor", f"./{named.name}", "their.lock"]


def change(folder: Path, **settings: object) -> None:
    place = folder / "adapter_config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | settings))


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORAHUB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LORAHUB_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    def run(*words: str) -> str:
        with pytest.raises(SystemExit):
            main(list(words))
        said = capsys.readouterr()
        return said.out + said.err

    return run


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_no_output_obeys_what_it_repeats(tmp_path: Path, say: Callable[..., str], attack: str) -> None:
    words = ["check", *hostile(tmp_path, attack), "--offline"]
    for more in ((), ("--quiet",), ("--format", "agent"), ("--json",)):
        said = say(*words, *more)
        assert not COMMAND.search(said), (more, said)
        assert not UNSEEN.search(said), (more, said)
    for name in words[1:-1]:
        alone = say("check", name, "--offline")
        assert not COMMAND.search(alone), alone
        assert not UNSEEN.search(alone), alone
    kinds = ("json", "sarif", "junit", "markdown", "summary", "github")
    say(*words, *(f"--report={kind}={tmp_path / f'out.{kind}'}" for kind in kinds))
    reports = {kind: (tmp_path / f"out.{kind}").read_text("utf-8") for kind in kinds}
    for kind, text in reports.items():
        assert not UNSEEN.search(text), (kind, text)
    assert len(json.loads(reports["json"])["checks"]) == 6
    Sarif.model_validate(json.loads(reports["sarif"]))
    assert [suite.get("tests") for suite in ET.fromstring(reports["junit"]).iter("testsuite")] == ["6"]
    assert {case.tag for case in ET.fromstring(reports["junit"]).iter()} <= {
        "testsuites", "testsuite", "testcase", "failure", "skipped", "system-out",
    }  # fmt: skip
    ours = re.compile(r"::(error|warning) (file=[^,:]*,line=\d+,)?title=[^,:]* × [^,:]*::LH\d{3} ")
    assert all(ours.match(line) for line in reports["github"].splitlines()), reports["github"]
    assert not re.search(r"%(?!0A|25|3A|2C)", reports["github"])
    for kind in ("markdown", "summary"):
        assert not MARKUP.search(reports[kind]), (kind, MARKUP.search(reports[kind]), reports[kind])
        table = [line for line in reports[kind].splitlines() if line.startswith("| ")]
        assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table} == {6}
    for kind in kinds:
        if kind != "github":
            assert not COMMAND.search(say(*words, "--report", f"{kind}=-")), kind


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_an_error_is_its_own_lines(say: Callable[..., str], attack: str) -> None:
    said = say("pull", attack, "--offline")
    assert not COMMAND.search(said), said
    assert not UNSEEN.search(said), said
    assert len(said.splitlines()) <= 3


def test_what_is_plain_stays_as_it_is() -> None:
    for text in (
        "acme/sql@v3 × hf:acme/llama: fits",
        "a::b",
        "C# ## heading",
        "ёж 模型 👩\u200d🚀",
        "50 % of [16, 16]",
    ):
        assert shown_line(text) == text
