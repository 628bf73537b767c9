"""What docstrings and documents show works as it is written there."""

import ast
import doctest
import importlib
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import builders
import click
import marks
import numpy as np
import pytest
import yaml
from lorahub.cli import main
from lorahub.merging.recipe import KIND, parse_recipe
from lorahub_registry.settings.reading import read
from sdk_examples import NEED_A_MODEL, NEED_A_REGISTRY

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"(?P<reason><!-- not run: \w[^\n]+ -->\n)?^ *```(?P<kind>[^\n]*)\n.*?^ *```$", re.MULTILINE | re.DOTALL
)
TESTED = ("console", "groovy", "json", "python", "sh", "toml", "yaml")
BLOCKS = [
    pytest.param(kind, text, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, (kind, text) in enumerate(
        re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    )
]


def _with_examples() -> Iterator[Any]:
    for source in (ROOT / "client", ROOT / "registry"):
        for path in sorted(source.rglob("*.py")):
            if ">>> " in path.read_text():
                name = ".".join(path.relative_to(source).with_suffix("").parts)
                if name in NEED_A_MODEL + NEED_A_REGISTRY:
                    continue
                needs_torch = any(map(marks.needs_torch, marks.modules_of(name)))
                yield pytest.param(name, marks=[pytest.mark.torch] if needs_torch else [])


@pytest.mark.parametrize("module", [*_with_examples()])
def test_examples_of_docstrings_give_what_they_say(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0


# --- documents --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "text"), BLOCKS)
def test_blocks_of_documents_are_what_they_claim(
    kind: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data is read as what reads it, code as Python; commands and their options exist, as do settings and targets."""
    match kind:
        case "python":
            ast.parse(text)
        case "json":
            assert json.loads(text)
        case "toml":
            assert tomllib.loads(text)
        case "yaml":
            _check_yaml(text)
        case "sh" | "console":
            for name, value in _settings_in(text):
                monkeypatch.setenv(name, value)
            assert "✗" in text or read(tmp_path)
            for command in _commands_in(kind, text):
                _check_command(command)
        case "groovy":
            for command in re.findall(r"sh '([^']+)'", text):
                _check_command(shlex.split(command))
        case _:
            pytest.fail(f"nothing tests blocks of {kind}")


def test_every_block_is_tested_or_says_why_not() -> None:
    """Data and commands are checked here, a how-to page's are run (test_how_to.py); what is neither has a reason."""
    fence = re.compile(
        r"(?P<reason><!-- not run: \w[^\n]+ -->\n)?^ *```(?P<kind>[^\n]*)\n.*?^ *```$", re.MULTILINE | re.DOTALL
    )
    for page in PAGES:
        for block in fence.finditer(page.read_text()):
            assert block["reason"] or block["kind"] in TESTED, f"{page.name}: {block[0][:80]}"


def _check_yaml(text: str) -> None:
    value = yaml.safe_load(text)
    if KIND in text:
        assert parse_recipe(text)
    hooks = {hook["id"] for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
    assert {hook["id"] for repo in value.get("repos", ()) for hook in repo["hooks"]} <= hooks
    inputs = yaml.safe_load((ROOT / "action.yml").read_text())["inputs"]
    for step in value.get("steps", ()):
        assert "OWNER/REPOSITORY" not in step.get("uses", "") or step["with"].keys() <= inputs.keys()
        if "run" in step:
            _check_command(shlex.split(step["run"]))


def _settings_in(text: str) -> list[tuple[str, str]]:
    """Those that a block sets, one a line; of two values of one setting, the last."""
    found = re.findall(r"^(?:export )?(LORAHUB_\w+)=(\S+|'[^']*')(?: +#.*)?$", text, re.MULTILINE)
    return [(name, shlex.split(value)[0]) for name, value in found]


def _commands_in(kind: str, text: str) -> Iterator[list[str]]:
    """Of our own, each as words; in a console block only what was typed."""
    lines = [line.removeprefix("$ ") for line in text.splitlines() if kind == "sh" or line.startswith("$ ")]
    for line in lines:
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"\w+=.*", words[0]):
            words = words[1:]
        if words:
            yield words[: words.index("<")] if "<" in words else words


def _check_command(words: list[str]) -> None:
    name = Path(words[0]).name
    if name == "make":
        assert all(f"\n{target}:" in (ROOT / "Makefile").read_text() for target in words[1:])
    elif name == "lorahub":
        main._add_global_options()
        command: click.Command = main.cli
        context = main.cli.make_context("lorahub", words[1:])
        while isinstance(command, click.Group) and (rest := [*context._protected_args, *context.args]):
            _, found, rest = command.resolve_command(context, rest)
            assert found is not None, words
            command = found
            context = command.make_context(command.name, _without_files(rest), parent=context)


def _without_files(words: list[str]) -> list[str]:
    """Files that a command wants to see are none of the document's."""
    return [
        str(ROOT / "README.md") if word.endswith((".bin", ".md", ".safetensors", ".tar")) else word for word in words
    ]


def test_the_readme_shows_what_a_check_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = {"A": (8, 128), "B": (64, 8)}
    layers = [f"model.layers.{number}.mlp.down_proj" for number in range(6)]
    factors = {
        f"base_model.model.{layer}.lora_{name}.weight": np.ones(shape[name]) for layer in layers for name in shape
    }
    for folder, weights, tensors, config in (
        ("my-adapter", "adapter_model.safetensors", factors, {"target_modules": ["down_proj"], "r": 8}),
        ("llama", "model.safetensors", {f"{layer}.weight": np.ones((96, 128)) for layer in layers}, None),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / weights).write_bytes(builders.safetensors_bytes(tensors, {"format": "pt"}))
        if config is not None:
            said = {**builders.lora_config(base="./llama", rank=8), **config}
            (tmp_path / folder / "adapter_config.json").write_text(json.dumps(said))
        else:
            (tmp_path / folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    monkeypatch.chdir(tmp_path)
    [block] = re.findall(r"```console\n\$ (.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    typed, *shown = block.splitlines()
    with pytest.raises(SystemExit) as ended:
        main.main(shlex.split(typed, comments=True)[1:])
    said = capsys.readouterr()
    lines = iter((said.out + said.err).splitlines())
    assert all(line in lines for line in shown[:-2] if line.strip() != "…"), "in this order; what is left out is a …"
    assert shown[-2:] == ["$ echo $?", str(ended.value.code)]
