"""One name means one thing: the glossary is true, and no two classes of different meaning are called alike."""

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = [path for folder in ("client", "registry") for path in sorted((ROOT / folder).rglob("*.py"))]

MESSAGES = "protocol/messages/"
"""What is shown may be called like what it is made of."""

ALIKE = {
    "Checked", "Evidence", "Incoming", "Kept", "Listing", "Move", "Origin", "Part", "Picture", "Reader", "Revision",
    "Session", "Settings", "Target", "Upload", "Verdict",
}  # fmt: skip
"""Those that still mean two things. None comes to them."""


def _classes() -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(str(path.relative_to(ROOT)))
    return found


def _is_one_thing(places: list[str]) -> bool:
    """A row and what is read from it, or a body and what it is made of."""
    others = [place for place in places if not place.endswith("database/tables.py")]
    return len([place for place in others if MESSAGES not in place]) <= 1


def test_no_class_name_means_two_things() -> None:
    double = {name for name, places in _classes().items() if len(places) > 1 and not _is_one_thing(places)}
    assert double - ALIKE - {"Reference"} == set()  # a reference of the protocol is read into one of the registry's


def test_the_words_of_the_glossary_are_names_in_the_code() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text()
    names = re.findall(r"\| `(\w+)` \|$", text, re.MULTILINE)
    assert len(names) > 20
    defined = set(re.findall(r"^(?:class )?(\w+)(?=[(:]| = )", "".join(p.read_text() for p in SOURCES), re.MULTILINE))
    assert set(names) - defined == set()


SENTENCES = [
    path
    for path in SOURCES
    if not re.search(
        r"lorahub/(hub|protocol)/|/core/|/pages/|features/(access|checks|catalog|downloads|publish|references|retention|signatures|uploads)",
        str(path.relative_to(ROOT)),
    )
]
"""Where docstrings have been gone over so far."""


def _docstrings(path: Path) -> list[str]:
    """Of modules, classes and functions, and the texts that stand alone below a name."""
    statements = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Expr)]
    values = [node.value.value for node in statements if isinstance(node.value, ast.Constant)]
    return [value for value in values if isinstance(value, str)]


def test_a_docstring_can_be_understood_alone() -> None:
    """It doesn't begin with a genitive of a noun that it leaves out, and names the errors itself."""
    dialect = re.compile(r"\A\s*Of |; how many\.|[Rr]aises as ")
    found = [
        f"{path.relative_to(ROOT)}: {text}" for path in SENTENCES for text in _docstrings(path) if dialect.search(text)
    ]
    assert found == []


def test_a_word_is_explained_once() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text()
    rows = re.findall(r"^\| ([a-z, ]+) \| \S", text, re.MULTILINE)
    words = [word.strip() for row in rows for word in row.split(",") if row != "word"]
    assert len(words) == len(set(words)) > 30
