"""What a search can be narrowed by beside what files say: names that lead to versions, a training run, withdrawal."""

import json
from pathlib import Path
from typing import Any

import builders
import httpx2
import lorahub
import pytest
from pages.conftest import V1, Catalog

NAME = "pages-owner/narrowed"


@pytest.fixture
def narrowed(catalog: Catalog, tmp_path: Path) -> str:
    """An adapter of one version, with the log of its run; nobody else's has its task."""
    folder = builders.write_adapter(tmp_path / "adapter", base=catalog.base, seed=5)
    (folder / "README.md").write_text("---\npipeline_tag: fill-mask\n---\nx")
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": [{"step": 1, "loss": 1.0}]}))
    with lorahub.Hub(catalog.url, token=catalog.owner) as hub:
        hub.push(folder, NAME)
    return NAME


def found(client: httpx2.Client, query: str) -> tuple[list[str], dict[str, dict[str, int]]]:
    """Names, and the counts of each facet's values."""
    answer: dict[str, Any] = client.get(f"/search.json?task=fill-mask&{query}").raise_for_status().json()
    facets = {one["name"]: {value["value"]: value["count"] for value in one["values"]} for one in answer["facets"]}
    assert answer["found"] == len(answer["results"])
    return [row["id"] for row in answer["results"]], facets


def test_aliases_a_training_run_and_withdrawal(catalog: Catalog, narrowed: str) -> None:
    with catalog.registry.client(catalog.owner) as owner:
        own = f"{V1}/models/{narrowed}"
        owner.put(f"{own}/aliases/champion", json={"revision": "v1"}).raise_for_status()
        assert found(owner, "has=training+run") == found(owner, "")
        names, facets = found(owner, "alias=champion")
        assert (names, facets["alias"], facets["has"]) == ([narrowed], {"champion": 1}, {"training run": 1})
        assert "yanked" not in facets
        assert found(owner, "alias=latest")[0] == []

        owner.delete(f"{own}/aliases/champion").raise_for_status()
        assert found(owner, "alias=champion")[0] == []
        owner.post(f"{own}/versions/v1/yank", json={"reason": "it forgets"}).raise_for_status()
        names, facets = found(owner, "")
        assert (names, facets["yanked"]) == ([], {"1": 1})
        assert found(owner, "yanked=1")[0] == [narrowed]
        assert narrowed not in owner.get("/search.atom?task=fill-mask").text
        assert narrowed in [one["id"] for one in owner.get("/api/models?author=pages-owner").json()]
        shown = found(owner, "yanked=1")
        with catalog.registry.database() as database:
            database.exec_driver_sql(f"DELETE FROM catalog_entries WHERE name = '{NAME}'")
        assert found(owner, "yanked=1")[0] == []
        catalog.registry.admin_command("reindex")
        assert found(owner, "yanked=1") == shown

        owner.delete(f"{own}/versions/v1/yank").raise_for_status()
        assert found(owner, "")[0] == [narrowed]
        assert found(owner, "yanked=1")[0] == [narrowed]
