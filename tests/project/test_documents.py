"""What the documents promise is there, and what is there is documented."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from lorahub.adapters.rules import RULES
from lorahub.errors import LorahubError, all_errors
from lorahub_registry.infrastructure.failpoints import MERGE, PUBLICATION
from lorahub_registry.settings import Settings
from registry_process import Registry

ROOT = Path(__file__).parents[2]
EXTENDING = sorted((ROOT / "docs" / "extending").glob("*.md"))


@pytest.mark.parametrize("error", list(all_errors()), ids=lambda error: error.__name__)
def test_every_error_has_a_row_in_the_documents(error: type[LorahubError]) -> None:
    row = f"| `{error.code}` | {error.status} | {error.exit_code} |"
    assert row in (ROOT / "docs/errors.md").read_text(), f"docs/errors.md lacks: {row}"
    assert error.__doc__


def test_codes_are_unique() -> None:
    codes = [error.code for error in all_errors()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_has_a_row_in_the_documents(name: str) -> None:
    assert f"`LORAHUB_{name.upper()}`" in (ROOT / "docs/settings.md").read_text()
    assert Settings.model_fields[name].description


def test_every_link_between_the_documents_leads_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


NARROW = [
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "docs/glossary.md",
    *(f"docs/extending/{page.name}" for page in EXTENDING),
]


@pytest.mark.parametrize("page", NARROW)
def test_prose_has_at_most_100_characters_a_line(page: str) -> None:
    prose = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    assert [line for line in prose.splitlines() if len(line) > 100 and not line.startswith(("|", "(`"))] == []


def test_every_failpoint_is_reached_somewhere() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "registry").rglob("*.py"))
    for name in PUBLICATION + MERGE:
        assert f'reach("{name}")' in sources


def test_every_route_of_our_own_is_documented(registry: Registry) -> None:
    with registry.client(None) as client:
        paths = client.get("/api/openapi.json").json()["paths"]
    documented = (ROOT / "docs/http-api.md").read_text()
    for path, operations in paths.items():
        if path.startswith("/api/lorahub/v1"):
            short = re.sub(r"\{namespace\}/\{name\}", "{id}", path.removeprefix("/api/lorahub/v1"))
            for method in operations:
                row = rf"`{method.upper()} {re.escape(short)}(\?[^`]*)?`"
                pattern = re.sub(r"\\\{[a-z_]+\\\}", r"\\{[a-z]+\\}", row)
                assert re.search(pattern, documented), f"docs/http-api.md lacks {method.upper()} {short}"


def script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_those_that_the_code_makes() -> None:
    made = script(ROOT / "docs" / "tables.py").documents()
    assert {name: (ROOT / "docs" / name).read_text() for name in made} == made, "run docs/tables.py"


def test_the_description_of_the_api_is_the_committed_one() -> None:
    made = script(ROOT / "docs" / "openapi.py")
    assert made.PLACE.read_text() == made.document(), "run make tables, and read what changed in docs/openapi.json"


def test_every_rule_has_its_page_and_is_found_somewhere() -> None:
    generate = script(ROOT / "docs" / "rules" / "generate.py")
    written = {path.name: path.read_text() for path in (ROOT / "docs" / "rules").glob("*.md")}
    assert written == generate.pages(), "run docs/rules/generate.py"
    sources = [path for path in (ROOT / "client").rglob("*.py") if path.name != "rules.py"]
    text = "".join(path.read_text() for path in sources)
    assert [rule for rule in RULES if f'"{rule}"' not in text and f"{rule}:" not in text] == []
