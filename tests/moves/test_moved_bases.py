"""When a base moves: what names it is judged again, owners are told, and pages say what was and what is."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lorahub
import pytest
import wire
from builders import write_adapter
from cli.test_commands import Cli
from pages.conftest import logged_in
from registry_process import Registry, eventually, serve

OWN = "/api/lorahub/v1"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    running = serve(tmp_path_factory.mktemp("moving"), {"LORAHUB_WORKER": "true"})
    yield running
    running.stop()
    running.assert_sound()


def layout(*, width: int = 16, layers: int = 2, vocabulary: int = 32, name: str = "q_proj") -> str:
    """Of a small Llama."""
    tensors = {"model.embed_tokens.weight": (vocabulary, width)}
    for layer in range(layers):
        tensors[f"model.layers.{layer}.self_attn.{name}.weight"] = (width, width)
    lines = [f"{key}\tF32\t{rows},{columns}\n" for key, (rows, columns) in sorted(tensors.items())]
    return "lorahub-base-layout-v1\n" + "".join(lines)


def register(registry: Registry, name: str, revision: str, text: str) -> None:
    body = {"names": [name], "revision": revision, "layout": text, "config": {"model_type": "llama"}}
    with registry.client() as client:
        wire.require(client.post(f"{OWN}/bases", json=body))


def push(registry: Registry, folder: Path, base: str, *, token: str = "") -> str:
    repo = f"{registry.admin}/moved-{next(_numbers)}"
    with lorahub.Hub(registry.url, token=token or registry.token) as hub:
        hub.push(write_adapter(folder / repo.replace("/", "-"), base=base, seed=next(_numbers)), repo)
    return repo


def get(registry: Registry, path: str) -> Any:
    with logged_in(registry, registry.token) as browser:
        return wire.require(browser.get(path)).json()


def changes(registry: Registry, repo: str) -> list[dict[str, Any]]:
    with registry.client() as client:
        query = {"after": 0, "kinds": "check.changed", "repository": repo}
        return [one["data"] for one in wire.require(client.get(f"{OWN}/events", params=query)).json()["events"]]


def judged(registry: Registry, base: str) -> None:
    """When the worker is through with every revision of it."""
    waiting = "SELECT id FROM base_names WHERE name = :name AND judged_at IS NULL"
    eventually(lambda: not registry.sql(waiting, name=base), 30)


@pytest.mark.parametrize(
    ("moved", "after"),
    [
        ({"vocabulary": 64}, "fits"),
        ({"width": 24}, "incompatible"),
        ({"layers": 1}, "incompatible"),
        ({"name": "query"}, "incompatible"),
    ],
    ids=["a grown vocabulary", "a wider model", "a layer less", "renamed modules"],
)
def test_adapters_are_judged_and_owners_told(
    working: Registry, tmp_path: Path, moved: dict[str, Any], after: str
) -> None:
    base = f"{working.admin}/base-{next(_numbers)}"
    register(working, base, "r1", layout())
    repo, other = push(working, tmp_path, base), push(working, tmp_path, "somebody/else")
    register(working, base, "r2", layout(**moved))
    judged(working, base)
    found = changes(working, repo)
    page = get(working, f"/{repo}.json")["adapter"]["moved"]
    notices = [one for one in get(working, "/notifications.json")["moved"] if one["adapter"] == repo]
    assert (page["before"], page["after"], page["revision"]) == ("fits", after, "r2")
    if after == "fits":
        assert (found, notices) == ([], [])
    else:
        [said] = found
        assert (said["base"], said["revision"], said["from"], said["to"]) == (base, "r2", "fits", after)
        assert said["version"] == "v1"
        [notice] = notices
        assert (notice["version"], notice["before"], notice["after"]) == ("v1", "fits", after)
    assert get(working, f"/{repo}.json")["adapter"]["verdict"] == "fits", "what was true when it was pushed stays said"
    assert changes(working, other) == []
    with working.client() as client:
        asked = wire.require(client.get(f"{OWN}/models/{repo}/check/main", params={"base": f"{base}@r2"})).json()
    assert (asked["verdict"], asked["kept"]) == (after, True)


def test_a_base_that_moves_back_ends_the_notice(working: Registry, tmp_path: Path) -> None:
    base = f"{working.admin}/base-{next(_numbers)}"
    register(working, base, "r1", layout())
    repo = push(working, tmp_path, base)
    register(working, base, "r2", layout(width=24))
    register(working, base, "r3", layout(vocabulary=64))
    judged(working, base)
    assert [(one["from"], one["to"]) for one in changes(working, repo)] == [
        ("fits", "incompatible"),
        ("incompatible", "fits"),
    ]
    assert repo not in [one["adapter"] for one in get(working, "/notifications.json")["moved"]]


def test_an_adapter_that_waited_for_its_base_is_judged_when_it_comes(working: Registry, tmp_path: Path) -> None:
    base = f"{working.admin}/base-{next(_numbers)}"
    repo = push(working, tmp_path, base)
    register(working, base, "r1", layout())
    judged(working, base)
    assert [(one["from"], one["to"]) for one in changes(working, repo)] == [("undecided", "fits")]


def test_the_page_says_what_was_and_what_is(working: Registry, tmp_path: Path) -> None:
    base = f"{working.admin}/base-{next(_numbers)}"
    register(working, base, "r1", layout())
    repo = push(working, tmp_path, base)
    register(working, base, "r2", layout(width=24))
    judged(working, base)
    with logged_in(working, working.token) as browser:
        page = browser.get(f"/{repo}", headers={"Accept": "text/html"}).text
        notices = browser.get("/notifications", headers={"Accept": "text/html"}).text
    assert "The base has moved" in page
    assert "Bases that moved" in notices
    assert repo in notices


def test_a_badge_says_what_is(working: Registry, tmp_path: Path) -> None:
    base = f"{working.admin}/base-{next(_numbers)}"
    register(working, base, "r1", layout())
    repo = push(working, tmp_path, base)
    with working.client(None) as anybody:
        first = anybody.get(f"/badge/{repo}.svg")
        assert first.headers["content-type"] == "image/svg+xml"
        assert "v1 fits" in first.text
        register(working, base, "r2", layout(width=24))
        judged(working, base)
        assert "v1 does not fit" in anybody.get(f"/badge/{repo}.svg").text
        assert "v1 fits" in anybody.get(f"/badge/{repo}.svg", params={"base": f"{base}@r1"}).text
        assert anybody.get(f"/badge/{working.admin}/nothing.svg").status_code == 404
        assert anybody.get(f"/badge/{repo}.svg", params={"base": "</text><script>"}).status_code == 404


# --- promotion --------------------------------------------------------------------------------------------------------


@pytest.fixture
def cli(working: Registry, tmp_path: Path) -> Cli:
    made = Cli(tmp_path, working.url)
    assert made.run("login", working.url, "--token-file", "-", stdin=working.token).returncode == 0
    return made


def test_an_alias_moves_only_to_what_fits(working: Registry, tmp_path: Path, cli: Cli) -> None:
    base = f"{working.admin}/base-{next(_numbers)}"
    register(working, base, "r1", layout())
    register(working, base, "r2", layout(width=24))
    repo = push(working, tmp_path, base)
    refused = cli.json("alias", "set", f"{repo}@v1", "champion", "--if-fits", f"{base}@r2", code=7)
    assert refused["code"] == "AdapterDoesNotFit"
    assert cli.json("alias", "ls", repo)[0]["name"] == "latest"
    assert len(cli.json("alias", "ls", repo)) == 1, "it wasn't made"
    made = cli.json("alias", "set", f"{repo}@v1", "champion", "--if-fits", f"{base}@r1", "--for", "vllm")
    assert (made["name"], made["version"]) == ("champion", "v1")
    unknown = cli.run("alias", "set", f"{repo}@v1", "champion", "--if-fits", "nobody/knows")
    assert unknown.returncode == 7, "what can't be decided moves nothing"


def test_a_base_is_watched_until_something_no_longer_fits(working: Registry, tmp_path: Path, cli: Cli) -> None:
    base = f"{working.admin}/base-{next(_numbers)}"
    register(working, base, "r1", layout())
    repo = push(working, tmp_path, base)
    first = cli.json("base", "watch", base, "--once")
    assert (first["base"], first["revision"], first["summary"]) == (base, "r1", {"fits": 1})
    register(working, base, "r2", layout(width=24))
    second = cli.run("base", "watch", base, "--once")
    assert second.returncode == 1, second.stderr
    assert f"✗ {repo}" in second.stdout
