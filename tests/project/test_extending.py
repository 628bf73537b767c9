"""The pages of docs/extending list what one touches to add something: the files are there, and none is forgotten."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "extending"
PAGES = sorted(page for page in FOLDER.glob("*.md") if page.name != "README.md")
SOURCES = ("client", "registry", "migrations")
SITE = ROOT / "registry" / "lorahub_registry" / "site"
"""Built of the documents, where somebody has built it."""


def _sources() -> Iterator[Path]:
    yield ROOT / "pyproject.toml"
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".html", ".js", ".css") and SITE not in path.parents:
                yield path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_lists_every_source_that_names_its_example(page: Path) -> None:
    text = page.read_text()
    sign = re.search(r"Every source that\s+names it\s+\(`(.+?)`\)", text)
    assert sign is not None
    listed = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    assert len(listed) == len(set(listed)) > 2
    assert [path for path in listed if not re.search(sign[1], (ROOT / path).read_text())] == []
    naming = {str(path.relative_to(ROOT)) for path in _sources() if re.search(sign[1], path.read_text())}
    assert naming - {*listed} == set(), "these name the example, and stand in no row"


def test_every_page_is_in_the_index() -> None:
    linked = re.findall(r"\]\(([\w-]+\.md)\)", (FOLDER / "README.md").read_text())
    assert sorted(linked) == [page.name for page in PAGES]
