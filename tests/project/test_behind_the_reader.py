"""Behind the reader nobody asks which format an adapter came in, nor what PEFT's configuration says.

What there is to ask stands in the `Adapter`, or in the format's row. Formats are known by name where they are read, and
in `adapters/runtimes/`, each module of which declares those that its runtime reads.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from lorahub.adapters.formats import FORMATS
from lorahub.adapters.formats.peft_settings import SETTINGS

ROOT = Path(__file__).parents[2]
READERS = ("client/lorahub/adapters/formats/", "client/lorahub/adapters/adapter_config.py")
DECLARED = "client/lorahub/adapters/runtimes/"
NAMES = frozenset(one.name for one in FORMATS) | {"unknown"}
OTHERS_WORDS = frozenset(
    "adapters alpha bias depth effective_rank eps hidden_size num_attention_heads r revision".split()
)
"""Words of PEFT's configuration that others have too: configurations of models, recipes, our own messages."""
KEYS = SETTINGS - OTHERS_WORDS
ALLOWED = {
    ("client/lorahub/adapters/adapter.py", "unknown"),  # says what it means
    ("client/lorahub/hub/loading.py", "modules_to_save"),  # a part of names that PEFT's loader says are new
}


def sources() -> Iterator[tuple[str, str]]:
    for folder in ("client/lorahub", "registry/lorahub_registry"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(READERS):
                yield name, path.read_text()


def violations(source: str, *, may_declare: bool = False) -> list[tuple[int, str]]:
    """(line, the format's name or the key), for each comparison, look-up or reading of one."""
    tree = ast.parse(source)
    tables = {} if may_declare else dict(_tables(tree))
    return sorted(
        (node.lineno, word)
        for node in ast.walk(tree)
        if isinstance(node, ast.expr | ast.Match)
        for word in {*_formats(node, tables), *_keys(node)}
    )


def _tables(tree: ast.Module) -> Iterator[tuple[str, frozenset[str]]]:
    """The module's own names for collections of formats."""
    for node in tree.body:
        targets = (
            [node.target] if isinstance(node, ast.AnnAssign) else node.targets if isinstance(node, ast.Assign) else []
        )
        for target in targets:
            if isinstance(target, ast.Name) and node.value is not None:  # type: ignore[union-attr]
                yield target.id, frozenset(_texts(node.value))  # type: ignore[union-attr]


def _formats(node: ast.AST, tables: dict[str, frozenset[str]]) -> frozenset[str]:
    """Names of formats that something called `format` is compared with, or looked up in."""
    if isinstance(node, ast.Compare):
        asked, given = [node.left, *node.comparators], [node.left, *node.comparators]
    elif isinstance(node, ast.Match):
        asked, given = [node.subject], list(node.cases)  # type: ignore[list-item]
    elif isinstance(node, ast.Subscript):
        asked, given = [node.slice], [node.value]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        asked, given = [node.func.value, *node.args], [node.func.value, *node.args]
    else:
        return frozenset()
    if not any(_is_format(part) for one in asked for part in ast.walk(one)):
        return frozenset()
    words = {word for one in given for word in _texts(one)}
    words |= {word for one in given if isinstance(one, ast.Name) for word in tables.get(one.id, ())}
    return frozenset(words & NAMES)


def _is_format(node: ast.AST) -> bool:
    return (
        (isinstance(node, ast.Attribute) and node.attr == "format")
        or (isinstance(node, ast.Name) and node.id in ("format", "format_name"))
        or (isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and node.slice.value == "format")
    )


def _texts(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def _keys(node: ast.AST) -> Iterator[str]:
    """Keys of PEFT's configuration that are read: `config["…"]`, `config.get("…")`, `"…" in config`."""
    asked: ast.expr | None = None
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        asked = node.slice
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop"):
        asked = node.args[0] if node.args else None
    elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
        asked = node.left
    if isinstance(asked, ast.Constant) and asked.value in KEYS:
        yield str(asked.value)


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ('if adapter.format == "gguf": pass', "gguf"),
        ('if "peft" != adapter.format: pass', "peft"),
        ('x = self.adapter.format in ("kohya", "diffusers")', "kohya"),
        ('_IMAGE = frozenset({"kohya"})\nx = facts.adapter.format in _IMAGE', "kohya"),
        ('_ORDER: dict[str, int] = {"torchtune": 1}\nx = _ORDER[adapter.format]', "torchtune"),
        ('x = {"mlx": 1}.get(adapter.format)', "mlx"),
        ('x = measured["format"] == "adapterhub"', "adapterhub"),
        ('x = adapter.format.startswith("loralib")', "loralib"),
        ('match adapter.format:\n    case "lorahub": pass', "lorahub"),
        ('x = adapter.format != "unknown"', "unknown"),
        ('x = config.raw["lora_alpha"]', "lora_alpha"),
        ('x = settings.get("use_rslora", False)', "use_rslora"),
        ('x = "init_lora_weights" in raw', "init_lora_weights"),
    ],
)
def test_a_violation_is_seen(source: str, word: str) -> None:
    assert word in [seen for _, seen in violations(source)]


@pytest.mark.parametrize(
    "source",
    [
        'data = {"format": adapter.format, "lora_alpha": 16}',
        "row = format_of(adapter)\nx = row.is_convertible and row.name == target",
        'x = rows.format == "chat"',
        'config["lora_alpha"] = 16',
        'x = config["hidden_size"]',
    ],
)
def test_what_is_none_is_left_alone(source: str) -> None:
    assert violations(source) == []


def test_nobody_behind_the_reader_knows_a_format_or_reads_a_configuration_of_peft() -> None:
    found = [
        f"{name}:{line} {word}"
        for name, source in sources()
        for line, word in violations(source, may_declare=name.startswith(DECLARED))
        if (name, word) not in ALLOWED
    ]
    assert found == []
