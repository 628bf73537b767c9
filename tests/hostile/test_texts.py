"""Texts and numbers that a database refuses, in every place where a client may put one: a 4xx, on both databases."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
import wire
from registry_process import Registry
from services import production

TEXTS = ["a\0b", "\ud800", "a" * 100_000, "\u202e", "\uffff", "'\"\\%_*?[", "9" * 5000, "\x1b[31m", "日本" * 200, ""]
NUMBERS = [2**31, 2**63, 2**64, 10**400, -1, -(2**63) - 1]
REPO = "/api/models/owner/texts"
OWN = "/api/lorahub/v1/models/owner/texts"
PLACES: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/api/repos/create", {"name": "@", "organization": "owner"}),
    ("POST", "/api/repos/move", {"fromRepo": "owner/texts", "toRepo": "@"}),
    ("PUT", f"{REPO}/settings", {"visibility": "@"}),
    ("POST", f"{REPO}/tag/main", {"tag": "@", "message": "m"}),
    ("POST", f"{REPO}/tag/main", {"tag": "t", "message": "@"}),
    ("POST", f"{REPO}/branch/b", {"startingPoint": "@"}),
    ("POST", f"{REPO}/super-squash/main", {"message": "@"}),
    ("POST", f"{REPO}/preupload/main", {"files": [{"path": "@", "size": 1, "sample": ""}]}),
    ("POST", f"{REPO}/preupload/main", {"files": [{"path": "p", "size": "#", "sample": ""}]}),
    ("POST", "/owner/texts.git/info/lfs/objects/batch", {"operation": "upload", "objects": [{"oid": "@", "size": 1}]}),
    (
        "POST",
        "/owner/texts.git/info/lfs/objects/batch",
        {"operation": "upload", "objects": [{"oid": "0" * 64, "size": "#"}]},
    ),
    ("PUT", f"{OWN}/aliases/best", {"revision": "@"}),
    ("POST", f"{OWN}/versions/v1/yank", {"reason": "@"}),
    ("PUT", f"{OWN}/check-policy", {"policy": "@"}),
    ("POST", "/api/lorahub/v1/tokens", {"name": "@", "scope": "read"}),
    ("POST", "/api/lorahub/v1/tokens", {"name": "n", "scope": "read", "expiresInDays": "#"}),
    ("POST", "/api/lorahub/v1/organisations", {"name": "@"}),
    ("POST", "/api/lorahub/v1/organisations", {"name": "texts-inc", "fullname": "@"}),
    ("POST", "/api/lorahub/v1/bases", {"names": ["@"], "layout": "lorahub-base-layout-v1\n"}),
    ("POST", "/api/lorahub/v1/checks", {"adapters": ["@"], "bases": ["@"]}),
    ("POST", "/api/lorahub/v1/by-hash", {"sha256": ["@"]}),
    ("POST", "/api/lorahub/v1/merges", {"recipe": {"base": "@"}, "target": "@"}),
    ("POST", "/api/validate-yaml", {"content": "@", "repoType": "model"}),
]
ASKED = [
    "/api/models?search=@",
    "/api/models?author=@",
    "/api/models?filter=@",
    "/api/models?base=@",
    "/api/models?target=@",
    "/api/models?cursor=@",
    "/api/models?rank=@",
    "/api/models?num_parameters=min:@",
    "/api/models?limit=@",
    "/api/models?expand=@",
    "/api/models?sort=@",
    f"{REPO}/revision/@",
    f"{REPO}/tree/main?cursor=@",
    f"{REPO}/commits/@",
    f"{REPO}/commits/main?limit=@&p=@",
    "/owner/texts/resolve/main/@",
    "/owner/texts/resolve/@/README.md",
    f"{OWN}/revisions/@",
    f"{OWN}/check/main?base=@",
    f"{OWN}/overlap/main?with=@",
    "/api/lorahub/v1/audit?limit=@",
    "/api/lorahub/v1/audit?cursor=@",
    "/api/lorahub/v1/bases?search=@",
    "/api/lorahub/v1/bases?cursor=@",
    "/api/lorahub/v1/bases/acme/tiny/adapters?cursor=@",
    "/api/lorahub/v1/bases/@",
    "/api/lorahub/v1/by-hash/@",
    "/api/lorahub/v1/merges/@",
    "/api/users/@/overview",
]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    home: Path = tmp_path_factory.mktemp("texts")
    url = f"sqlite:///{home / 'here.db'}" if request.param == "sqlite" else production.postgres().new_database()
    registry = Registry(home, settings={"LORAHUB_DATABASE_URL": url}).start()
    with registry.client() as client:
        wire.create_repo(client, "owner/texts")
        made = wire.commit(client, "owner/texts", [wire.inline("README.md", b"x"), wire.version()])
        assert made.status_code == 200
        yield client
    registry.stop()
    registry.assert_sound()


def _filled(body: Any, text: Any, number: Any) -> Any:
    if isinstance(body, dict):
        return {key: _filled(value, text, number) for key, value in body.items()}
    if isinstance(body, list):
        return [_filled(value, text, number) for value in body]
    return {"@": text, "#": number}.get(body, body) if isinstance(body, str) else body


@pytest.mark.parametrize(("method", "path", "body"), PLACES, ids=lambda value: value if isinstance(value, str) else "")
def test_no_value_in_a_body_is_a_server_error(
    client: httpx2.Client, method: str, path: str, body: dict[str, Any]
) -> None:
    for value in [*TEXTS, *NUMBERS, None, True, [], {}]:
        filled = json.dumps(_filled(body, value, value)).encode()
        answer = client.request(method, path, content=filled, headers={"Content-Type": "application/json"})
        assert answer.headers.get("X-Error-Code") != "RouteNotFound", "nothing is there"
        assert answer.status_code < 500, f"{value!a:.60}: {answer.status_code} {answer.text[:300]}"


@pytest.mark.parametrize("address", ASKED)
def test_no_value_in_an_address_is_a_server_error(client: httpx2.Client, address: str) -> None:
    for value in [*TEXTS[:2], "a" * 3000, *TEXTS[3:6], *map(str, NUMBERS)]:
        written = address.replace("@", quote(value.encode("utf-8", "surrogatepass"), safe=""))
        answer = client.get(written)
        assert answer.status_code < 500, f"{value!a:.60}: {answer.status_code} {answer.text[:300]}"
