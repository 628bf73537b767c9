"""Where an adapter comes from and what came of it, over several levels, and to whom."""

from pathlib import Path

import builders
import httpx2
import lorahub
import pytest
from pages.conftest import Catalog

LINE = {
    "line-root": [],
    "line-tuned": ["line-root"],
    "line-merge": ["line-root", "line-tuned"],
    "line-again": ["line-merge"],
    "line-hidden": ["line-tuned"],
    "line-of-hidden": ["line-hidden"],
}


@pytest.fixture(scope="module")
def line(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    with lorahub.Hub(catalog.url, token=catalog.owner) as hub:
        for number, (name, bases) in enumerate(LINE.items()):
            folder: Path = builders.write_adapter(
                tmp_path_factory.mktemp(name), seed=50 + number, base="elsewhere/tiny"
            )
            named = "".join(f"- pages-owner/{base}\n" for base in bases) or "- elsewhere/tiny\n"
            (folder / "README.md").write_text(f"---\nbase_model:\n{named}---\n")
            hub.push(folder, f"pages-owner/{name}", private=name == "line-hidden")
    return catalog


def levels(client: httpx2.Client, name: str) -> dict[str, int]:
    found = client.get(f"/pages-owner/{name}/lineage.json").raise_for_status().json()["line"]
    assert found["isWhole"]
    levels = {node["name"].removeprefix("pages-owner/"): node["level"] for node in found["nodes"]}
    for edge in found["edges"]:
        parent, child = (one.removeprefix("pages-owner/") for one in edge)
        assert parent in LINE.get(child, []) or parent == "elsewhere/tiny"
        assert levels[parent] < levels[child]
    return levels


def test_a_line_has_all_levels_and_each_stands_beyond_what_it_comes_from(line: Catalog) -> None:
    with line.registry.client(None) as client:
        assert levels(client, "line-root") == {
            "elsewhere/tiny": -1, "line-root": 0, "line-tuned": 1, "line-merge": 2, "line-again": 3
        }  # fmt: skip
        seen = levels(client, "line-again")
        assert [seen[name] for name in ("line-again", "line-merge", "line-tuned", "line-root")] == [0, -1, -2, -3]
        page = client.get("/pages-owner/line-root/lineage", headers={"Accept": "text/html"}).text
        assert "comes from 1 model, and 3 repositories here come from it" in page


def test_a_line_goes_on_where_its_members_may_look(line: Catalog) -> None:
    with line.registry.client(line.owner) as owner, line.registry.client(line.stranger) as stranger:
        assert levels(owner, "line-tuned")["line-of-hidden"] == 2
        assert "line-hidden" not in levels(stranger, "line-tuned")
        assert "line-of-hidden" not in levels(stranger, "line-tuned")
        assert levels(owner, "line-of-hidden")["line-root"] == -3
        above = {name: level for name, level in levels(stranger, "line-of-hidden").items() if level < 0}
        assert above == {"elsewhere/tiny": -1, "line-hidden": -1}  # the name, which its own card says, and no more


def test_a_circle_ends(line: Catalog, tmp_path: Path) -> None:
    with lorahub.Hub(line.url, token=line.owner) as hub:
        for number, name in enumerate(("round-a", "round-b")):
            folder = builders.write_adapter(tmp_path / name, seed=90 + number)
            other = "round-b" if name == "round-a" else "round-a"
            (folder / "README.md").write_text(f"---\nbase_model: [pages-owner/{other}, pages-owner/{name}]\n---\n")
            hub.push(folder, f"pages-owner/{name}")
    with line.registry.client(None) as client:
        found = client.get("/pages-owner/round-a/lineage.json").json()["line"]
        assert {node["name"]: node["level"] for node in found["nodes"]}["pages-owner/round-b"] == -1
