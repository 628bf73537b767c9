"""Every operation of the running registry, asked by every kind of caller: each answer is the one the table promises."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import jsonschema
import pytest
from accounts.operations import NOT_THEIRS, OPERATIONS, READERS, SERVED, Request, Stage, address

OUTSIDERS = ("stranger", "anonymous")


def described_operations(document: dict[str, Any]) -> dict[str, Any]:
    paths = document["paths"].items()
    return {f"{method.upper()} {path}": said for path, operations in paths for method, said in operations.items()}


@pytest.fixture(scope="module")
def document(every_caller: Stage) -> dict[str, Any]:
    with every_caller.registry.client(None) as client:
        made: dict[str, Any] = client.get("/api/openapi.json").json()
    return made


def test_every_operation_is_classified(document: dict[str, Any]) -> None:
    assert set(described_operations(document)) == set(OPERATIONS)


@pytest.fixture(scope="module")
def callers(every_caller: Stage) -> Iterator[dict[str, httpx2.Client]]:
    clients = {name: every_caller.registry.client(token) for name, token in every_caller.tokens.items()}
    yield clients
    for client in clients.values():
        client.close()


def ask(client: httpx2.Client, operation: str, request: Request, stage: Stage, repo: str) -> httpx2.Response:
    method, path = address(operation, request, stage, repo)
    body = {"json": request.json} if request.content is None else {"content": request.content}
    return client.request(method, path, **({} if body == {"json": None} else body))


def names_a_repository(operation: str, request: Request) -> bool:
    return "{namespace}/{name}" in operation or request.repository is not None


def promised(operation: str, request: Request, caller: str, *, is_private: bool) -> int | None:
    """The refusal, or None for being served."""
    asks = OPERATIONS[operation].asks
    hidden = is_private and names_a_repository(operation, request) and caller not in READERS
    hidden &= asks != "registry"  # who asks comes first, whatever is named
    if caller in SERVED[asks] and (not hidden or asks == "everybody"):
        return None
    if asks == "other credential" or caller in ("revoked", "expired", "disabled"):
        return 401
    if caller == "anonymous":  # where an account is needed whatever is named, it is asked for first
        return 404 if hidden and "{namespace}/{name}" in operation and asks != "own name" else 401
    return 404 if hidden or caller in NOT_THEIRS.get(asks, ()) else 403


def observed(answer: httpx2.Response) -> int | None:
    """The refusal, or None where the caller got past the door, whatever was found behind it."""
    is_refused = answer.status_code in (401, 403)
    is_hidden = answer.status_code == 404 and answer.headers["X-Error-Code"] != "BaseNotFound"
    return answer.status_code if is_refused or is_hidden else None


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_caller_gets_what_the_table_promises(
    every_caller: Stage, callers: dict[str, httpx2.Client], operation: str
) -> None:
    stage, deviations = every_caller, []
    for repo in (stage.public, stage.private):
        request = OPERATIONS[operation].make(stage, repo)
        for caller, client in callers.items():
            answer = ask(client, operation, request, stage, repo)
            wanted = promised(operation, request, caller, is_private=repo == stage.private)
            if observed(answer) != wanted:
                deviations.append(f"{caller} on {repo}: {answer.status_code} {answer.text[:200]}, promised {wanted}")
            assert answer.status_code < 500 or answer.status_code == 501
            if answer.is_success:  # a refused request changed nothing, so the next caller can send it too
                request = OPERATIONS[operation].make(stage, repo)
        if not names_a_repository(operation, request):
            break
    assert not deviations, "\n".join(deviations)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_is_answered_is_what_is_described_and_nothing_beside_it(
    every_caller: Stage, callers: dict[str, httpx2.Client], document: dict[str, Any], operation: str
) -> None:
    stage = every_caller
    caller = "registry admin" if OPERATIONS[operation].asks == "registry" else "owner"
    request = OPERATIONS[operation].make(stage, stage.public)
    answer = ask(callers[caller], operation, request, stage, stage.public)
    said = described_operations(document)[operation]["responses"]
    assert str(answer.status_code) in said, answer.text
    media_type = answer.headers.get("content-type", "").partition(";")[0]
    if media_type.endswith("json") and operation.partition(" ")[0] != "HEAD":
        schema = said[str(answer.status_code)]["content"][media_type]["schema"]
        jsonschema.validate(answer.json(), {**schema, "components": _closed(document["components"])})


def _closed(components: dict[str, Any]) -> dict[str, Any]:
    """The same, but an object has no properties that aren't described."""
    schemas = components["schemas"].items()
    return {"schemas": {n: {"additionalProperties": False, **s} if "properties" in s else s for n, s in schemas}}


def test_every_answer_in_json_is_typed(document: dict[str, Any]) -> None:
    untyped = [
        operation
        for operation, said in described_operations(document).items()
        for status, answer in said["responses"].items()
        for media_type, content in answer.get("content", {}).items()
        if status.startswith("2") and media_type.endswith("+json") | (media_type == "application/json")
        if "#/components/schemas/" not in json.dumps(content)
    ]
    assert untyped == []


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_private_repository_and_a_missing_one_answer_byte_for_byte_alike(
    every_caller: Stage, callers: dict[str, httpx2.Client], operation: str
) -> None:
    stage = every_caller
    request = OPERATIONS[operation].make(stage, stage.private)
    if not names_a_repository(operation, request):
        return
    private = request.repository or stage.private
    missing = private.replace("guess-", "wrong-")
    json_, query = _renamed(request.json, private, missing), request.query.replace(private, missing)
    other = Request(request.values, json_, request.content, query, repository=missing)
    for caller in OUTSIDERS:
        there = ask(callers[caller], operation, request, stage, stage.private)
        absent = ask(callers[caller], operation, other, stage, missing)
        assert _seen(there, private) == _seen(absent, missing)
        assert there.status_code in (401, 403, 404) or OPERATIONS[operation].asks == "everybody"


def _renamed(body: object, private: str, missing: str) -> object:
    old, new = (name.partition("/")[2] for name in (private, missing))
    return json.loads(json.dumps(body).replace(old, new))


def _seen(answer: httpx2.Response, repo: str) -> tuple[int, dict[str, str], str]:
    name = repo.partition("/")[2]
    headers = {key: value.replace(name, "…") for key, value in answer.headers.items()}
    for of_the_moment in ("date", "x-request-id"):
        headers.pop(of_the_moment)
    return answer.status_code, headers, answer.text.replace(name, "…")
