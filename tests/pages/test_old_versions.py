"""Every tab of an adapter is of the revision that it was asked for, and says so where another is the usual one."""

import re
from collections.abc import Iterator

import builders
import httpx2
import lorahub
import pytest
from pages.conftest import Catalog

OLD, NEW = "elsewhere/old-base", "elsewhere/new-base"
TABS = ["/v/{}", "/tree/{}", "/commits/{}", "/weights/{}", "/training/{}", "/lineage/{}", "/compat/{}"]
NOT_OF_A_REVISION = {"Versions", "Upload", "Edit card", "Settings"}


@pytest.fixture(scope="module")
def changed(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An adapter whose second version has another base, rank, and loss than its first."""
    name = "pages-owner/changed"
    with lorahub.Hub(catalog.url, token=catalog.owner) as hub:
        for seed, (base, rank) in enumerate(((OLD, 4), (NEW, 8))):
            folder = builders.write_adapter(tmp_path_factory.mktemp("changed"), seed=70 + seed, rank=rank, base=base)
            (folder / "trainer_state.json").write_text(f'{{"log_history": [{{"step": 1, "loss": {rank}.25}}]}}')
            (folder / f"of-{rank}.txt").write_text("x")
            hub.push(folder, name)
    return name


@pytest.fixture
def client(catalog: Catalog) -> Iterator[httpx2.Client]:
    headers = {"Accept": "text/html", "Authorization": f"Bearer {catalog.owner}"}
    with httpx2.Client(base_url=catalog.url, headers=headers) as running:
        yield running


@pytest.fixture
def revisions(client: httpx2.Client, changed: str) -> dict[str, str]:
    """Commits by version."""
    rows = client.get(f"/{changed}/versions.json").json()["rows"]
    return {row["name"]: row["commit"] for row in rows}


@pytest.mark.parametrize("tab", TABS)
def test_a_tab_is_of_the_revision_that_was_asked_for(
    client: httpx2.Client, changed: str, revisions: dict[str, str], tab: str
) -> None:
    for asked in ("v1", revisions["v1"]):
        adapter = client.get(f"/{changed}{tab.format(asked)}.json").raise_for_status().json()["adapter"]
        assert (adapter["commit"], adapter["base"], adapter["ranks"]) == (revisions["v1"], OLD, [4])
        page = client.get(f"/{changed}{tab.format(asked)}").text
        assert NEW not in page
        assert "This page is of <strong>v1</strong>" in page
    for asked in ("v2", "latest", "main", revisions["v2"]):
        adapter = client.get(f"/{changed}{tab.format(asked)}.json").raise_for_status().json()["adapter"]
        assert (adapter["commit"], adapter["base"], adapter["ranks"]) == (revisions["v2"], NEW, [8])
        page = client.get(f"/{changed}{tab.format(asked)}").text
        assert OLD not in page
        assert "This page is of" not in page


def test_the_tabs_own_data_is_of_the_revision_that_was_asked_for(client: httpx2.Client, changed: str) -> None:
    def of(tab: str, revision: str) -> dict[str, object]:
        found: dict[str, object] = client.get(f"/{changed}{tab.format(revision)}.json").raise_for_status().json()
        return found

    for revision, base, rank, commits in (("v1", OLD, 4, 2), ("v2", NEW, 8, 3)):
        assert of("/lineage/{}", revision)["parents"] == [base]
        assert of("/training/{}", revision)["points"] == [{"step": 1, "loss": rank + 0.25}]
        assert {entry["path"] for entry in of("/tree/{}", revision)["entries"]} >= {f"of-{rank}.txt"}  # type: ignore[attr-defined]
        assert len(of("/commits/{}", revision)["rows"]) == commits  # type: ignore[arg-type]
        assert f"{changed}@{revision}" in str(of("/v/{}", revision)["snippets"])
    assert client.get(f"/{changed}/blob/v1/of-8.txt").status_code == 404
    assert client.get(f"/{changed}/tree/v1/nothing").status_code == 404


@pytest.mark.parametrize("tab", [*TABS, "/tree/{}/notes", "/blob/{}/README.md", "/image/{}/a.png"])
@pytest.mark.parametrize("revision", ["v9", "no-such-branch", "0" * 40])
def test_a_revision_that_is_not_there_is_a_page_that_says_so(
    client: httpx2.Client, changed: str, tab: str, revision: str
) -> None:
    answer = client.get(f"/{changed}{tab.format(revision)}")
    assert answer.status_code == 404
    assert revision in answer.text
    assert "</html>" in answer.text


@pytest.mark.parametrize("tab", TABS)
def test_whoever_looks_at_an_old_version_stays_there(client: httpx2.Client, changed: str, tab: str) -> None:
    for asked, usual in (("v1", False), ("v2", True)):
        tabs = re.search(r'<nav class="tabs".*?</nav>', client.get(f"/{changed}{tab.format(asked)}").text, re.DOTALL)
        assert tabs is not None
        links = dict(re.findall(r'href="([^"]+)"[^>]*>([\w ]+)', tabs[0]))
        of_revisions = {address for address, label in links.items() if label.strip() not in NOT_OF_A_REVISION}
        assert len(of_revisions) == len(TABS)
        left = {address for address in of_revisions if not re.search(rf"/{asked}$", address)}
        assert left == ({f"/{changed}"} if usual else set())
        for address in of_revisions:
            assert client.get(address).status_code == 200


@pytest.mark.parametrize("tab", ["/lineage", "/compat", ""])
def test_without_a_revision_the_usual_one_is_shown(client: httpx2.Client, changed: str, tab: str) -> None:
    page = client.get(f"/{changed}{tab}")
    assert page.status_code == 200
    assert NEW in page.text
    assert "This page is of" not in page.text


def test_a_download_is_of_what_the_page_shows(client: httpx2.Client, changed: str, revisions: dict[str, str]) -> None:
    """A link that is kept, or a download that goes on, stays at the commit."""
    for address in (f"/{changed}/tree/latest", f"/{changed}/blob/latest/of-8.txt"):
        links = re.findall(r'href="([^"]*/resolve/[^"]*)"', client.get(address).text)
        assert links
        assert {link.split("/resolve/")[1].split("/")[0] for link in links} == {revisions["v2"]}
        assert client.get(links[0], follow_redirects=True).status_code == 200
