"""What the how-to pages show is run, one page after the other, as a reader would; or the page says why it isn't."""

import json
import re
import shlex
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import builders
import numpy as np
import pytest
from lorahub.cli.main import main
from registry_process import Registry

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/how-to").glob("*.md"))
_BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def run_blocks(page: Path, ours: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """With names of our own for those that the page has."""
    shown = page.read_text()
    for theirs, our_own in ours.items():
        shown = shown.replace(theirs, our_own)
    for reason, kind, text in _BLOCK.findall(shown):
        if not reason:
            yield kind, text


def write_base(folder: Path, *, value: float) -> None:
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    weights = {
        f"model.layers.{layer}.self_attn.{name}_proj.weight": np.full((16, 16), value, np.float32)
        for layer in range(2)
        for name in "qv"
    }
    (folder / "model.safetensors").write_bytes(builders.safetensors_bytes(weights, {"format": "pt"}))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_the_page_shows_is_run(
    page: Path,
    registry: Registry,
    new_user: Callable[[], tuple[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (name, token), (colleague, _) = new_user(), new_user()
    ours = {
        "acme/": f"{name}/",
        '"research"': f'"{name}-research"',
        '"ada"': f'"{colleague}"',
        "http://127.0.0.1:8017": registry.url,
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORAHUB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LORAHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LORAHUB_ENDPOINT", registry.url)
    (tmp_path / "token.txt").write_text(token)
    write_base(tmp_path / "llama", value=0.5)
    write_base(tmp_path / "llama-next", value=0.25)
    for seed, folder in enumerate(("out", "adapters/sql", "adapters/chat")):
        (tmp_path / folder).parent.mkdir(exist_ok=True)
        builders.write_adapter(tmp_path / folder, seed=seed, base=f"{name}/llama-7b")
    lorahub(["login", registry.url, "--token-file", "token.txt"])
    for kind, text in run_blocks(page, ours):
        if kind == "toml":
            name, _, content = text.partition("\n")
            (tmp_path / name.removeprefix("# ")).write_text(content)
        elif kind == "python":
            exec(compile(textwrap.dedent(text), str(page), "exec"), {})
        else:
            assert kind == "sh", f"nothing runs blocks of {kind}"
            for line in text.splitlines():
                program, *words = shlex.split(line, comments=True)
                assert program == "lorahub", f"nothing runs {program}: say why"
                lorahub(words)


def lorahub(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code, shlex.join(["lorahub", *words])
