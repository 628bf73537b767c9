"""The JSON Schemas of files that people write take what our own readers take, and refuse what they refuse."""

import importlib.util
import json
import tomllib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from lorahub import TrainConfig
from lorahub.cli.main import main
from lorahub.cli.schema import SCHEMAS
from lorahub.errors import Refusal
from lorahub.hub import configuration
from lorahub.hub.lock import LOCK, LockedAdapter, locked, read_lock, write_lock
from lorahub.hub.project_checks import read_checks
from lorahub.merging.recipe import RECIPE, parse_recipe

ROOT = Path(__file__).parents[2]
IGNORE = '[[check.ignore]]\nrule = "LH202"\n'
PROJECT = """
[check]
fail_on = "undecided"
level = "drift"
environments = ["live"]

[environments.live]
bases = ["acme/llama"]
runtimes = ["vllm"]
max_lora_rank = 16
max_adapters = 8
level = "load"
"""
RECIPE_OF = "base: acme/llama\nadapters: [acme/sql]\n"

TAKEN = {
    "lorahub.toml": [
        "",
        'endpoint = "https://hub.example"\noffline = true\ntimeout = 30\nprogress = "plain"\n',
        f'{IGNORE}adapter = "acme/sql"\nreason = "known"\nuntil = 2027-01-31\n',
        "[tool.other]\nx = 1\n",
        f'{IGNORE}adapter = "a/*"\nbase = "a/llama"\nruntime = "vllm@0.11"\nreason = "known"\nuntil = 2027-01-31\n',
        PROJECT,
    ],
    RECIPE: [
        RECIPE_OF,
        f"kind: lorahub-merge-v1\n{RECIPE_OF}method: ties\ndensity: 0.5\n",
        "base: ./llama\nadapters:\n- {source: acme/sql@v2, weight: -0.7, layers: {'layers.[0-7]..*': 0}}\n",
        f"{RECIPE_OF}method: svd\nrank: 8\ndtype: bfloat16\n",
        f"{RECIPE_OF}dtype: null\n",
    ],
    LOCK: [
        "version = 1\n",
        'version = 1\n[[adapter]]\nreference = "acme/sql@v1"\ncommit = "c"\ndigest = "d"\nbase = "b"\n',
    ],
    "run.toml": [
        "",
        'preset = "paper"\n',
        'rank = 8\nlr = 1\ntargets = ["q_proj"]\neval_split = "held.jsonl"\neval-every = 5\n',
    ],
}
REFUSED = {
    "lorahub.toml": [
        'endpont = "https://hub.example"\n',
        'progress = "loud"\n',
        'token = "lh_x"\n',
        f"{IGNORE}until = 2027-01-31\n",
        f'{IGNORE}reason = " "\nuntil = 2027-01-31\n',
        f'{IGNORE}reason = "known"\n',
        '[[check.ignore]]\nrule = "LH999"\nreason = "known"\nuntil = 2027-01-31\n',
        f"{IGNORE}reason = 3\nuntil = 2027-01-31\n",
        f'{IGNORE}reason = "known"\nuntil = 2027-01-31T10:00:00Z\n',
        f'{IGNORE}reason = "known"\nuntil = 7\n',
        f'{IGNORE}reason = "known"\nuntil = 2027-01-31\nadaptor = "acme/sql"\n',
        "check = 3\n",
        "environments = []\n",
        "[check]\nignore = {}\n",
        '[check]\nfail_on = "red"\n',
        "[check]\nlevel = 3\n",
        "[check]\nenvironments = 'live'\n",
        "[environments]\nlive = 1\n",
        '[environments.live]\nmax_lora_rank = "16"\n',
        "[environments.live]\nmax_lora_rank = true\n",
        "[environments.live]\nmax_adapters = 0\n",
        "[environments.live]\nruntimes = 'vllm'\n",
        "[environments.live]\nmax_rank = 16\n",
        "endpoint = ['https://hub.example']\n",
    ],
    RECIPE: [
        "adapters: [acme/sql]\n",
        "base: ./llama\nadapters: []\n",
        f"{RECIPE_OF}metod: ties\n",
        f"{RECIPE_OF}method: best\n",
        f"{RECIPE_OF}density: 0.5\n",
        f"{RECIPE_OF}method: ties\ndensity: 0\n",
        f"{RECIPE_OF}method: ties\ndensity: 1.5\n",
        f"{RECIPE_OF}method: svd\n",
        f"{RECIPE_OF}method: svd\nrank: 0\n",
        f"{RECIPE_OF}method: svd\nrank: 1.5\n",
        f"{RECIPE_OF}dtype: int8\n",
        "base: ./llama\nadapters: [{source: a, weight: heavy}]\n",
        "base: ./llama\nadapters: [{source: a, weights: 1}]\n",
        "kind: other\n" + RECIPE_OF,
    ],
    LOCK: ["", "version = 3\n", 'version = 1\n[[adapter]]\nreference = "acme/sql@v1"\ncommit = "c"\n'],
    "run.toml": [
        "rnak = 8\n",
        'rank = "8"\n',
        'method = "magic"\n',
        "targets = []\n",
        'preset = "none"\n',
        "dora = 1\n",
    ],
}


def as_json(value: Any) -> Any:
    """As an editor sees it: a date of TOML is text."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return value.isoformat() if isinstance(value, date) else value


def read_project(_: Path) -> None:
    configuration.load()
    read_checks()


READERS: dict[str, Callable[[Path], object]] = {
    "lorahub.toml": read_project,
    RECIPE: lambda path: parse_recipe(path.read_bytes()),
    LOCK: lambda path: read_lock(path).adapters,
    "run.toml": lambda path: TrainConfig.from_file(path, {}),
}


def cases(texts: dict[str, list[str]]) -> list[Any]:
    return [
        pytest.param(name, text, id=f"{name}-{number}")
        for name, some in texts.items()
        for number, text in enumerate(some)
    ]


@pytest.mark.parametrize(("name", "text"), cases(TAKEN))
def test_what_we_read_is_of_its_schema(name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, monkeypatch, name, text)
    READERS[name](tmp_path / name)
    validator(name).validate(document(name, text))


@pytest.mark.parametrize(("name", "text"), cases(REFUSED))
def test_what_we_refuse_is_not(name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, monkeypatch, name, text)
    with pytest.raises(Refusal):
        READERS[name](tmp_path / name)
    assert not validator(name).is_valid(document(name, text))


def written(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    (folder / name).write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LORAHUB_HOME", str(folder / "home"))


def validator(name: str) -> jsonschema.Draft7Validator:
    schema = SCHEMAS[name]()
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def document(name: str, text: str) -> Any:
    return as_json(yaml.safe_load(text) if name == RECIPE else tomllib.loads(text))


def test_a_lock_that_we_write_is_of_the_schema(tmp_path: Path) -> None:
    entry = LockedAdapter("acme/sql@champion", "c" * 40, "d" * 64, "acme/llama", "main", "weights:e")
    write_lock(tmp_path / LOCK, locked([entry], registry="https://hub.example", level="drift", runtimes=("vllm",)))
    validator(LOCK).validate(document(LOCK, (tmp_path / LOCK).read_text()))


def test_the_command_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAHUB_HOME", str(tmp_path / "home"))
    with pytest.raises(SystemExit) as ended:
        main(["schema", LOCK, "-o", str(tmp_path / "lock.json")])
    assert ended.value.code == 0
    assert json.loads((tmp_path / "lock.json").read_text()) == SCHEMAS[LOCK]()


def test_the_committed_schemas_are_those_that_the_code_makes() -> None:
    place = ROOT / "docs/schemas.py"
    spec = importlib.util.spec_from_file_location(place.stem, place)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    kept = {path.name: path.read_text() for path in made.FOLDER.iterdir()}
    assert kept == made.documents(), "run make tables"
    assert all(json.loads(text)["$schema"] for text in kept.values())
