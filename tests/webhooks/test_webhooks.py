"""Webhooks, against real receivers: told soon, signed, in order, again where they fail, and only what may be known."""

import itertools
from collections.abc import Iterator
from typing import Any

import huggingface_hub
import pytest
import wire
from huggingface_hub import HfApi, WebhookPayload
from registry_process import Registry, eventually, serve
from webhooks.receiver import Receiver

WEBHOOKS = "/api/lorahub/v1/webhooks"
WORKING = {"LORAHUB_WORKER": "true"}
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def receivers() -> Iterator[list[Receiver]]:
    with Receiver() as first, Receiver() as second:
        yield [first, second]


@pytest.fixture(scope="module")
def told_registry(receivers: list[Receiver], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """With a worker, that may call the receivers."""
    ports = ", ".join(f'"127.0.0.1:{one.port}"' for one in receivers)
    running = serve(
        tmp_path_factory.mktemp("told"), {"LORAHUB_OUTBOUND_INTERNAL": f"[{ports}]", "LORAHUB_WORKER": "true"}
    )
    yield running
    running.stop()
    running.assert_sound()


@pytest.fixture
def receiver(told_registry: Registry, receivers: list[Receiver]) -> Iterator[Receiver]:
    """Of this test's webhooks alone, which go with it."""
    one = receivers[0]
    one.answer = lambda _: 200
    one.told.clear()
    yield one
    for webhook in call(told_registry, "GET", WEBHOOKS):
        call(told_registry, "DELETE", f"{WEBHOOKS}/{webhook['id']}")


def repository(registry: Registry, *, private: bool = False) -> str:
    with registry.client() as client:
        return wire.create_repo(client, f"{registry.admin}/told-{next(_numbers)}", private=private)


def call(registry: Registry, method: str, path: str, json: Any = None, token: str | None = None) -> Any:
    with registry.client(token or registry.token) as client:
        return wire.require(client.request(method, path, json=json)).json()


def add(registry: Registry, receiver: Receiver, *watched: tuple[str, str], **more: Any) -> dict[str, Any]:
    things = [{"type": kind, "name": name} for kind, name in watched]
    token = more.pop("token", None)
    body = {"url": receiver.url, "watched": things, **more}
    return dict(call(registry, "POST", WEBHOOKS, body, token))


def move_alias(registry: Registry, repo: str, alias: str) -> None:
    call(registry, "PUT", f"/api/lorahub/v1/models/{repo}/aliases/{alias}", {"revision": "main"})


def log_of(registry: Registry, webhook: dict[str, Any]) -> list[dict[str, Any]]:
    return list(call(registry, "GET", f"{WEBHOOKS}/{webhook['id']}/deliveries"))


def tries_of(registry: Registry, webhook: dict[str, Any], repo: str) -> list[int]:
    """Of each message about the repository, the newest first."""
    return [one["attempts"] for one in log_of(registry, webhook) if one["name"] == repo]


def try_now(registry: Registry, webhook: dict[str, Any], token: str | None = None) -> None:
    """What waits for its next try needn't."""
    with registry.database() as database:
        database.exec_driver_sql("UPDATE webhook_deliveries SET next_try_at = created_at")
    call(registry, "POST", f"{WEBHOOKS}/{webhook['id']}/test", token=token)  # rings


def test_what_happens_is_told_soon_signed_and_in_order(told_registry: Registry, receiver: Receiver) -> None:
    repo, other = repository(told_registry), repository(told_registry)
    webhook = add(told_registry, receiver, ("repository", repo))
    move_alias(told_registry, other, "elsewhere")
    for number in range(5):
        move_alias(told_registry, repo, f"a{number}")
    eventually(lambda: len(receiver.told) == 5, 20)
    assert [one["data"]["data"]["alias"] for one in receiver.taken()] == [f"a{number}" for number in range(5)]
    first = receiver.told[0]
    assert first.message["type"] == "alias.moved"
    assert first.message["data"]["name"] == repo
    assert first.id == f"msg_{webhook['id']}_{first.message['data']['number']}"
    assert abs(int(first.headers["webhook-timestamp"]) - first.at) < 30
    assert first.is_signed_with(webhook["secret"])
    assert not first.is_signed_with("whsec_" + "A" * 32)
    hub = WebhookPayload.model_validate_json(first.body)
    assert (hub.event.action, hub.event.scope, hub.repo.name) == ("update", "repo.content", repo)
    assert hub.updatedRefs is not None
    assert hub.updatedRefs[0].ref == "refs/tags/a0"
    eventually(lambda: {one["status"] for one in log_of(told_registry, webhook)} == {"delivered"})
    log = log_of(told_registry, webhook)
    assert [(one["attempts"], one["answer"], one["said"]) for one in log] == [(1, 200, "ok")] * 5
    assert call(told_registry, "GET", f"{WEBHOOKS}/{webhook['id']}")["secret"] is None


def test_what_fails_is_tried_again_and_holds_up_its_repository_alone(
    told_registry: Registry, receiver: Receiver
) -> None:
    repo, other = repository(told_registry), repository(told_registry)
    failing = iter([0, 500])
    receiver.answer = lambda message: next(failing, 200) if message["data"].get("name") == repo else 200
    webhook = add(told_registry, receiver, ("namespace", told_registry.admin), kinds=["alias.*"])
    for number in range(2):
        move_alias(told_registry, repo, f"b{number}")
        move_alias(told_registry, other, f"b{number}")
    eventually(lambda: len(receiver.taken(other)) == 2, 20)
    assert receiver.taken(repo) == []
    eventually(lambda: tries_of(told_registry, webhook, repo) == [0, 1])
    for tries in ([0, 2], [1, 3]):
        try_now(told_registry, webhook)
        eventually(lambda tries=tries: tries_of(told_registry, webhook, repo) == tries, 20)
    assert [one["data"]["data"]["alias"] for one in receiver.taken(repo)] == ["b0", "b1"]
    of_first = {
        one.id
        for one in receiver.told
        if one.message["data"].get("data", {}).get("alias") == "b0" and one.message["data"]["name"] == repo
    }
    assert len(of_first) == 1, "each try under the same id"


def test_nobody_is_told_what_he_may_not_see(told_registry: Registry, receiver: Receiver) -> None:
    name = f"curious{next(_numbers)}"
    token = told_registry.add_user(name)
    webhook = add(told_registry, receiver, ("namespace", told_registry.admin), token=token)
    hidden, shown = repository(told_registry, private=True), repository(told_registry)
    move_alias(told_registry, hidden, "secret")
    move_alias(told_registry, shown, "open")
    eventually(lambda: len(receiver.taken(shown)) == 3, 20)
    assert {one["data"]["name"] for one in receiver.taken()} == {shown}
    with told_registry.client(token) as client:
        log = client.get(f"{WEBHOOKS}/{webhook['id']}/deliveries").json()
        assert hidden not in str(log)
        watched = {"url": receiver.url, "watched": [{"type": "repository", "name": hidden}]}
        assert client.post(WEBHOOKS, json=watched).headers["x-error-code"] == "RepoNotFound"
        assert client.post(WEBHOOKS, json={"url": receiver.url, "watched": [{"type": "registry"}]}).status_code == 403


def test_what_became_private_before_it_was_sent_is_withheld(told_registry: Registry, receiver: Receiver) -> None:
    token = told_registry.add_user(f"curious{next(_numbers)}")
    repo = repository(told_registry)
    receiver.answer = lambda _: 500
    webhook = add(told_registry, receiver, ("repository", repo), token=token)
    move_alias(told_registry, repo, "seen")
    eventually(lambda: len(receiver.told) == 1, 20)
    call(told_registry, "PUT", f"/api/models/{repo}/settings", {"private": True})
    receiver.answer = lambda _: 200
    try_now(told_registry, webhook, token)
    eventually(lambda: any(one.message["type"] == "webhook.test" for one in receiver.told), 20)
    eventually(
        lambda: (
            ("withheld",)
            in told_registry.sql("SELECT status FROM webhook_deliveries WHERE webhook_id = :id", id=webhook["id"])
        ),
        20,
    )
    assert receiver.taken(repo) == []


def test_a_secret_is_replaced_and_the_former_one_signs_for_a_while(told_registry: Registry, receiver: Receiver) -> None:
    webhook = add(told_registry, receiver, ("registry", ""))
    path = f"{WEBHOOKS}/{webhook['id']}"
    replaced = call(told_registry, "POST", f"{path}/secret")["secret"]
    assert replaced != webhook["secret"]
    call(told_registry, "POST", f"{path}/test")
    eventually(lambda: len(receiver.told) == 1, 20)
    assert receiver.told[0].is_signed_with(replaced)
    assert receiver.told[0].is_signed_with(webhook["secret"])
    with told_registry.database() as database:
        database.exec_driver_sql("UPDATE webhooks SET former_until = created_at")
    call(told_registry, "POST", f"{path}/test")
    eventually(lambda: len(receiver.told) == 2, 20)
    assert receiver.told[1].is_signed_with(replaced)
    assert not receiver.told[1].is_signed_with(webhook["secret"])
    assert replaced.encode() not in b"".join(row[0] for row in told_registry.sql("SELECT sealed_secret FROM webhooks"))


def test_a_message_is_sent_again_and_an_address_that_is_gone_is_left_alone(
    told_registry: Registry, receiver: Receiver
) -> None:
    repo = repository(told_registry)
    webhook = add(told_registry, receiver, ("repository", repo))
    path = f"{WEBHOOKS}/{webhook['id']}"
    move_alias(told_registry, repo, "once")
    eventually(lambda: len(receiver.taken()) == 1, 20)
    eventually(lambda: [one["status"] for one in log_of(told_registry, webhook)] == ["delivered"])
    [logged] = log_of(told_registry, webhook)
    call(told_registry, "POST", f"{path}/deliveries/{logged['id']}/replay")
    eventually(lambda: len(receiver.taken()) == 2, 20)
    assert receiver.told[0].id == receiver.told[1].id
    receiver.answer = lambda _: 410
    move_alias(told_registry, repo, "gone")
    eventually(lambda: call(told_registry, "GET", path)["paused"], 20)
    assert call(told_registry, "GET", path)["reason"] == "the address answers 410: it is gone"
    move_alias(told_registry, repo, "unheard")
    assert call(told_registry, "POST", f"{path}/resume")["paused"] is False


def test_only_hosts_that_the_operator_allows_are_told(told_registry: Registry, registry: Registry) -> None:
    body = {"url": "https://elsewhere.example/hook", "watched": [{"type": "registry"}]}
    with told_registry.client() as client:
        assert client.post(WEBHOOKS, json=body).headers["x-error-code"] == "NotPermitted"
        assert client.post(WEBHOOKS, json={**body, "url": "javascript:alert(1)"}).status_code == 403
        weak = {**body, "url": "http://127.0.0.1:1/"}
        assert client.post(WEBHOOKS, json=weak).status_code == 403
    with registry.client() as client:
        assert client.post(WEBHOOKS, json=body).headers["x-error-code"] == "NotSupported"


def test_the_stock_client_makes_changes_and_removes_them(told_registry: Registry, receiver: Receiver) -> None:
    api = HfApi(endpoint=told_registry.url, token=told_registry.token)
    repo = repository(told_registry)
    made = api.create_webhook(
        url=receiver.url, watched=[{"type": "model", "name": repo}], domains=["repo"], secret="my word"
    )
    assert (made.url, made.domains, made.disabled) == (receiver.url, ["repo"], False)
    assert [(one.type, one.name) for one in made.watched] == [("model", repo)]
    assert made.id in [one.id for one in api.list_webhooks()]
    move_alias(told_registry, repo, "told")
    eventually(lambda: len(receiver.told) == 1, 20)
    assert receiver.told[0].headers["x-webhook-secret"] == "my word"
    assert api.disable_webhook(made.id).disabled
    assert not api.enable_webhook(made.id).disabled
    changed = api.update_webhook(made.id, watched=[{"type": "user", "name": told_registry.admin}], secret="another")
    assert [(one.type, one.name) for one in changed.watched] == [("org", told_registry.admin)]
    assert api.get_webhook(made.id).domains == ["repo"]
    api.delete_webhook(made.id)
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError):
        api.get_webhook(made.id)
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="no datasets here"):
        api.create_webhook(url=receiver.url, watched=[{"type": "dataset", "name": repo}])
