"""Every operation of the registry in one table: whom it serves, what a good request of it is, what it logs.

Two tests read it: the matrix of operations and callers, and that of operations and audit rows. An operation of
/api/openapi.json that has no row here fails both.
"""

import itertools
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import builders
import lorahub
import numpy as np
import wire
from lorahub.hub import configuration
from registry_process import Registry

V1 = "/api/lorahub/v1"
MODEL = "/api/models/{namespace}/{name}"
OWN = f"{V1}/models/{{namespace}}/{{name}}"
SHA = "0" * 64
ISSUER = "https://issuer.test"
SETTINGS = {"LORAHUB_OIDC_ISSUERS": f'["{ISSUER}"]', "LORAHUB_OUTBOUND_HOSTS": '["hub.test"]'}

# --- the stage --------------------------------------------------------------------------------------------------------

_numbers = itertools.count(10)


@dataclass
class Stage:
    """An organisation with a public and a private repository of one adapter, its base, and callers of every kind."""

    registry: Registry
    tokens: dict[str, str | None]
    organisation: str = "stage-org"
    public: str = "stage-org/shown-adapter"
    private: str = "stage-org/guess-adapter"
    base: str = "stage-org/base"

    def as_owner(self, method: str, path: str, **sent: Any) -> Any:
        with self.registry.client(self.tokens["owner"]) as client:
            answer = client.request(method, path, **sent)
            assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
            return answer.json()

    def fresh(self, prefix: str) -> str:
        return f"{prefix}{next(_numbers)}"

    def fresh_repository(self, like: str) -> str:
        """As private as the other, and with a name as guessable."""
        made = f"{self.organisation}/{self.fresh('guess-')}"
        with self.registry.client(self.tokens["owner"]) as client:
            return wire.create_repo(client, made, private=like == self.private)


def build_stage(registry: Registry, folder: Path) -> Stage:
    stage = Stage(registry, {"anonymous": None, "registry admin": registry.token})
    stage.tokens["owner"] = registry.add_user("stage-owner")
    stage.as_owner("POST", f"{V1}/organisations", json={"name": stage.organisation})
    for role in ("read", "write", "admin"):
        stage.tokens[f"{role} member"] = registry.add_user(f"stage-{role}")
        stage.as_owner("PUT", f"{V1}/organisations/{stage.organisation}/members/stage-{role}", json={"role": role})
    registry.add_user("stage-guest")
    for name in ("stranger", "disabled"):
        stage.tokens[name] = registry.add_user(f"stage-{name}")
    bounds: Mapping[str, Mapping[str, object]] = {
        "read token": {"scope": "read"},
        "write token": {"scope": "write"},
        "token for another namespace": {"scope": "admin", "namespace": "stage-owner"},
        "token for this namespace": {"scope": "admin", "namespace": stage.organisation},
        "revoked": {"scope": "admin"},
        "expired": {"scope": "admin", "expiresInDays": 1},
    }
    for name, bound in bounds.items():
        made = stage.as_owner("POST", f"{V1}/tokens", json={"name": name, **bound})
        stage.tokens[name] = made["token"]
        if name == "revoked":
            stage.as_owner("DELETE", f"{V1}/tokens/{made['id']}")
    registry.admin_command("user", "disable", "stage-disabled")
    with registry.database() as database:
        database.exec_driver_sql("UPDATE tokens SET expires_at = '2020-01-01 00:00:00' WHERE name = 'expired'")
    _fill(stage, folder)
    return stage


def _fill(stage: Stage, folder: Path) -> None:
    base = folder / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    weights = {f"model.layers.{i}.self_attn.q_proj.weight": np.full((16, 16), 0.5) for i in range(2)}
    (base / "model.safetensors").write_bytes(builders.safetensors_bytes(weights))
    adapter = builders.write_adapter(folder / "adapter", base=stage.base)
    (adapter / "notes").mkdir()
    (adapter / "notes" / "data.md").write_text("# How it was trained\n")
    with lorahub.Hub(stage.registry.url, token=str(stage.tokens["owner"])) as hub:
        hub.push(base, stage.base)
        for repo, is_private in ((stage.public, False), (stage.private, True)):
            hub.push(adapter, repo, private=is_private)


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass
class Request:
    """What fills the operation's address, and what is sent there."""

    values: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    content: bytes | None = None
    query: str = ""
    repository: str | None = None
    """The repository it is about, where it isn't the one that was asked for."""


@dataclass(frozen=True)
class Operation:
    """`asks` is a key of `SERVED`; `audits` the action of the one row that a success leaves, None where it leaves none.

    `make` builds a request that succeeds for the owner, and prepares what it needs.
    """

    asks: str
    audits: str | None = None
    make: Callable[[Stage, str], Request] = lambda _stage, _repo: Request()


def sends(body: Any = None, **values: str) -> Callable[[Stage, str], Request]:
    return lambda _stage, _repo: Request(values, body)


def _commit(stage: Stage, _repo: str) -> Request:
    lines = [{"key": "header", "value": {"summary": "x"}}, wire.inline(stage.fresh("file"), b"x"), wire.version("late")]
    return Request({"rev": "main"}, content="".join(json.dumps(line) + "\n" for line in lines).encode())


def _with_branch(stage: Stage, repo: str) -> Request:
    name = stage.fresh("branch-")
    stage.as_owner("POST", f"/api/models/{repo}/branch/{name}", json={})
    return Request({"rev": name}, {"message": "one"})


def _with_tag(stage: Stage, repo: str) -> Request:
    name = stage.fresh("tag-")
    stage.as_owner("POST", f"/api/models/{repo}/tag/main", json={"tag": name})
    return Request({"rev": name})


def _with_alias(stage: Stage, repo: str) -> Request:
    name = stage.fresh("alias-")
    stage.as_owner("PUT", f"{V1}/models/{repo}/aliases/{name}", json={"revision": "main"})
    return Request({"alias": name})


def _with_version(stage: Stage, repo: str) -> Request:
    """In a repository of its own: what others ask for leads to versions too, and nothing may lead to a yanked one."""
    made = stage.fresh_repository(repo)
    with stage.registry.client(stage.tokens["owner"]) as client:
        wire.require(wire.commit(client, made, [wire.inline("notes.md", b"x"), wire.version(name="v1")]))
    return Request({"version": "v1"}, {"reason": "x"}, repository=made)


def _gated(stage: Stage, repo: str, user: str) -> Request:
    """A gated repository that `user` has asked for."""
    made = stage.fresh_repository(repo)
    stage.as_owner("PUT", f"/api/models/{made}/settings", json={"gated": "manual"})
    stage.as_owner("POST", f"/api/models/{made}/user-access-request/grant", json={"user": "stage-write"})
    return Request({"status": "pending"}, {"user": user, "status": "rejected"}, repository=made)


def _named(stage: Stage, repo: str) -> Request:
    """By its name in the body."""
    made = stage.fresh_repository(repo)
    namespace, _, name = made.partition("/")
    moved = {"fromRepo": made, "toRepo": f"{namespace}/{stage.fresh('moved-')}"}
    return Request(json={"name": name, "organization": namespace, **moved}, repository=made)


def _policy(stage: Stage, repo: str) -> Request:
    return Request(json={"policy": "warn"}, repository=stage.fresh_repository(repo))


def _publisher(_stage: Stage, _repo: str) -> Request:
    return Request(json={"issuer": ISSUER, "claims": {"repository": "acme/training"}})


def _with_publisher(stage: Stage, repo: str) -> Request:
    made = stage.as_owner("POST", f"{V1}/models/{repo}/publishers", json=_publisher(stage, repo).json)
    return Request({"publisher": str(made["id"])})


def _mirror(stage: Stage, _repo: str) -> Request:
    target = f"{stage.organisation}/{stage.fresh('mirrored-')}"
    return Request(json={"endpoint": "https://hub.test", "repository": "org/adapter", "target": target})


def _with_mirror(stage: Stage, repo: str) -> Request:
    made = stage.as_owner("POST", f"{V1}/mirrors", json=_mirror(stage, repo).json)
    return Request({"mirror": str(made["id"])})


def _with_mirror_and_token(stage: Stage, repo: str) -> Request:
    return replace(_with_mirror(stage, repo), json={"token": "hf_example"})


def _webhook(stage: Stage, _repo: str) -> Request:
    watched = [{"type": "namespace", "name": stage.organisation}]
    return Request(json={"url": "https://hub.test/hook", "watched": watched})


def _hub_webhook(stage: Stage, _repo: str) -> Request:
    watched = [{"type": "org", "name": stage.organisation}]
    return Request(json={"url": "https://hub.test/hook", "watched": watched, "domains": ["repo"]})


def _with_webhook(stage: Stage, repo: str) -> Request:
    """With a message in its log; the ones before go."""
    for known in stage.as_owner("GET", f"{V1}/webhooks"):
        stage.as_owner("DELETE", f"{V1}/webhooks/{known['id']}")
    webhook = stage.as_owner("POST", f"{V1}/webhooks", json=_webhook(stage, repo).json)["id"]
    stage.as_owner("POST", f"{V1}/webhooks/{webhook}/test")
    [message] = stage.as_owner("GET", f"{V1}/webhooks/{webhook}/deliveries")
    return Request({"webhook": webhook, "delivery": str(message["id"]), "act": "disable"})


def _with_webhook_changed(stage: Stage, repo: str) -> Request:
    return replace(_with_webhook(stage, repo), json={"url": "https://hub.test/other"})


def _base(stage: Stage, _repo: str) -> Request:
    layout = "lorahub-base-layout-v1\nmodel.embed_tokens.weight\tF32\t4,4\n"
    return Request(json={"names": [f"{stage.organisation}/{stage.fresh('base-')}"], "layout": layout})


def _merge(stage: Stage, repo: str) -> Request:
    """A recipe that no job has had, for a target that is there."""
    recipe = {"base": stage.base, "adapters": [{"source": repo, "weight": next(_numbers) / 1000}]}
    return Request(json={"recipe": recipe, "target": stage.public}, repository=repo)


def _beside_itself(_stage: Stage, repo: str) -> Request:
    return Request(query=f"?with={repo}@main")


def _plan(stage: Stage, repo: str) -> Request:
    return Request(json=_merge(stage, repo).json["recipe"], repository=repo)


def _cancel_all(stage: Stage) -> None:
    for job in stage.as_owner("GET", f"{V1}/merges"):
        if job["status"] == "queued":
            stage.as_owner("POST", f"{V1}/merges/{job['id']}/cancel")


def _start(stage: Stage, repo: str) -> Request:
    _cancel_all(stage)
    return _merge(stage, repo)


def _with_job(stage: Stage, repo: str) -> Request:
    _cancel_all(stage)
    job = stage.as_owner("POST", f"{V1}/merges", json=_merge(stage, repo).json)
    return Request({"job": job["id"]})


def _with_token(stage: Stage, _repo: str) -> Request:
    made = stage.as_owner("POST", f"{V1}/tokens", json={"name": stage.fresh("spare ")})
    return Request({"token_id": str(made["id"])})


def _member(stage: Stage, _repo: str) -> Request:
    stage.as_owner("PUT", f"{V1}/organisations/{stage.organisation}/members/stage-guest", json={"role": "read"})
    return Request({"user": "stage-guest"}, {"role": "write"})


def _reason(stage: Stage, repo: str) -> Request:
    return Request(json={"reason": "x"}, repository=stage.fresh_repository(repo))


def _blocked(stage: Stage, _repo: str) -> Request:
    with stage.registry.client() as client:
        wire.require(client.put(f"{V1}/blocked/{SHA}", json={"reason": "x"}))
    return Request({"sha256": SHA})


def _bundle(stage: Stage, _repo: str) -> Request:
    """Of what is here already."""
    with tempfile.TemporaryDirectory() as folder:
        settings = configuration.load({"endpoint": stage.registry.url, "cache": folder})
        with lorahub.Hub(token=stage.registry.token, settings=settings) as hub:
            hub.export([stage.public], Path(folder) / "bundle.tar")
        return Request(content=(Path(folder) / "bundle.tar").read_bytes())


LFS = {"operation": "upload", "objects": []}
GOOD_BYTES = {"oid": wire.sha256(b"x"), "size": 1}

OPERATIONS: dict[str, Operation] = {
    # what needs no token, and reads none
    "GET /livez": Operation("open"),
    "GET /readyz": Operation("open"),
    "GET /startupz": Operation("open"),
    f"GET {V1}/server": Operation("open"),
    "GET /api/agent-harnesses": Operation("open"),
    "HEAD /api/telemetry/{rest}": Operation("open", make=sends(rest="x")),
    "POST /v1/telemetry": Operation("open"),
    "GET /api/models-tags-by-type": Operation("open"),
    "POST /api/validate-yaml": Operation("open", make=sends({"content": "---\nlicense: mit\n---\n"})),
    f"GET {V1}/oidc/audience": Operation("open"),
    "GET /api/users/{user}/overview": Operation("open", make=sends(user="stage-owner")),
    "GET /api/organizations/{organisation}/overview": Operation("open"),
    "GET /api/organizations/{organisation}/members": Operation("open"),
    # what shows each caller what he may see
    "GET /api/models": Operation("everybody"),
    "GET /api/users/{user}/likes": Operation("everybody", make=sends(user="stage-owner")),
    f"GET {V1}/bases": Operation("everybody"),
    f"GET {V1}/bases/{{name}}": Operation("everybody", make=sends(name="sha256:" + SHA)),
    f"GET {V1}/bases/{{name}}/adapters": Operation("everybody"),
    f"GET {V1}/bases/{{name}}/revisions": Operation("everybody"),
    f"GET {V1}/bases/{{namespace}}/{{name}}": Operation("everybody"),
    f"GET {V1}/bases/{{namespace}}/{{name}}/adapters": Operation("everybody"),
    f"GET {V1}/bases/{{namespace}}/{{name}}/revisions": Operation("everybody"),
    f"GET {V1}/events": Operation("everybody"),
    f"GET {V1}/by-hash/{{sha256}}": Operation("everybody", make=sends(sha256=SHA)),
    f"POST {V1}/by-hash": Operation("everybody", make=sends({"sha256": [SHA]})),
    # a repository, read
    f"GET {MODEL}": Operation("read"),
    f"GET {MODEL}/revision/{{rev}}": Operation("read"),
    f"GET {MODEL}/tree/{{rev}}": Operation("read"),
    f"GET {MODEL}/tree/{{rev}}/{{path}}": Operation("read", make=sends(path="notes")),
    f"POST {MODEL}/paths-info/{{rev}}": Operation("read"),
    "GET /{namespace}/{name}/resolve/{rev}/{path}": Operation("read"),
    "HEAD /{namespace}/{name}/resolve/{rev}/{path}": Operation("read"),
    f"GET {MODEL}/commits/{{rev}}": Operation("read"),
    f"GET {MODEL}/refs": Operation("read"),
    f"GET {MODEL}/auth-check": Operation("read"),
    f"GET {MODEL}/likers": Operation("read"),
    f"GET {MODEL}/discussions": Operation("read"),
    f"POST {MODEL}/discussions": Operation("read"),
    f"GET {MODEL}/discussions/{{rest}}": Operation("read", make=sends(rest="1")),
    f"POST {MODEL}/discussions/{{rest}}": Operation("read", make=sends(rest="1")),
    f"GET {OWN}/revisions/{{rev}}": Operation("read"),
    f"GET {OWN}/versions": Operation("read"),
    f"GET {OWN}/aliases": Operation("read"),
    f"GET {OWN}/ref-log": Operation("read"),
    f"GET {OWN}/check/{{rev}}": Operation("read"),
    f"GET {OWN}/signature/{{rev}}": Operation("read"),
    f"GET {OWN}/statistics/{{rev}}": Operation("read"),
    f"GET {OWN}/overlap/{{rev}}": Operation("read", make=_beside_itself),
    f"GET {OWN}/record": Operation("read"),
    # a repository, written to
    f"POST {MODEL}/preupload/{{rev}}": Operation("write", make=sends({"files": []})),
    f"POST {MODEL}/commit/{{rev}}": Operation("write", "revision.publish", _commit),
    f"POST {OWN}/files/{{rev}}": Operation("write", make=_commit),
    f"GET {MODEL}/xet-write-token/{{rev}}": Operation("write"),
    "POST /{namespace}/{name}.git/info/lfs/objects/batch": Operation("write", make=sends(LFS)),
    "POST /{namespace}/{name}.git/info/lfs/verify": Operation("write", make=sends(GOOD_BYTES)),
    f"GET {MODEL}/lfs-files": Operation("write"),
    f"POST {MODEL}/lfs-files/batch": Operation("write", make=sends({})),
    f"GET {MODEL}/auth-check/write": Operation("write"),
    f"POST {MODEL}/branch/{{rev}}": Operation(
        "write", "branch.create", lambda stage, _: Request({"rev": stage.fresh("branch-")}, {})
    ),
    f"DELETE {MODEL}/branch/{{rev}}": Operation("write", "branch.delete", _with_branch),
    f"POST {MODEL}/super-squash/{{rev}}": Operation("write", "branch.squash", _with_branch),
    f"POST {MODEL}/tag/{{rev}}": Operation(
        "write", "tag.create", lambda stage, _: Request({"rev": "main"}, {"tag": stage.fresh("tag-")})
    ),
    f"DELETE {MODEL}/tag/{{rev}}": Operation("write", "tag.delete", _with_tag),
    f"PUT {OWN}/aliases/{{alias}}": Operation(
        "write", "alias.create", lambda stage, _: Request({"alias": stage.fresh("alias-")}, {"revision": "main"})
    ),
    f"DELETE {OWN}/claim": Operation(
        "write", "repository.withdraw", lambda stage, repo: Request(repository=stage.fresh_repository(repo))
    ),
    f"DELETE {OWN}/aliases/{{alias}}": Operation("write", "alias.delete", _with_alias),
    f"POST {OWN}/versions/{{version}}/yank": Operation("write", "version.yank", _with_version),
    f"DELETE {OWN}/versions/{{version}}/yank": Operation("write", "version.unyank", _with_version),
    # a repository, governed
    f"PUT {MODEL}/settings": Operation(
        "manage",
        "repository.settings",
        lambda stage, repo: Request(json={"gated": "auto"}, repository=stage.fresh_repository(repo)),
    ),
    f"GET {MODEL}/user-access-request/{{status}}": Operation(
        "manage", make=lambda stage, repo: _gated(stage, repo, "stage-write")
    ),
    f"POST {MODEL}/user-access-request/handle": Operation(
        "manage", "access.handle", lambda stage, repo: _gated(stage, repo, "stage-write")
    ),
    f"POST {MODEL}/user-access-request/grant": Operation(
        "manage", "access.grant", lambda stage, repo: _gated(stage, repo, "stage-read")
    ),
    f"PUT {OWN}/check-policy": Operation("manage", "repository.check_policy", _policy),
    f"GET {OWN}/retention": Operation("manage"),
    f"PUT {OWN}/retention": Operation(
        "manage",
        "retention.set",
        lambda stage, repo: Request(json={"keep": 3}, repository=stage.fresh_repository(repo)),
    ),
    f"GET {OWN}/publishers": Operation("manage"),
    f"POST {OWN}/publishers": Operation("manage", "publisher.trust", _publisher),
    f"DELETE {OWN}/publishers/{{publisher}}": Operation("manage", "publisher.distrust", _with_publisher),
    "DELETE /api/repos/delete": Operation("manage", "repository.delete", _named),
    "POST /api/repos/move": Operation("manage", "repository.move", _named),
    # what a caller does in his own name to what he sees
    f"POST {MODEL}/like": Operation("own name", "repository.like"),
    f"DELETE {MODEL}/like": Operation("own name", "repository.unlike"),
    f"POST {MODEL}/ask-access": Operation(
        "own name", "access.request", lambda stage, repo: _gated(stage, repo, "stage-read")
    ),
    # a namespace
    "POST /api/repos/create": Operation(
        "write namespace",
        "repository.create",
        lambda stage, _: Request(json={"name": stage.fresh("made-"), "organization": stage.organisation}),
    ),
    f"POST {V1}/bases": Operation("write namespace", "base.register", _base),
    f"POST {V1}/merges": Operation("write namespace", "merge.start", _start),
    f"PUT {V1}/organisations/{{organisation}}/members/{{user}}": Operation("govern", "organisation.member", _member),
    f"DELETE {V1}/organisations/{{organisation}}/members/{{user}}": Operation("govern", "organisation.member", _member),
    f"POST {V1}/mirrors": Operation("manage namespace", "mirror.add", _mirror),
    f"POST {V1}/mirrors/{{mirror}}/run": Operation("own mirror", "mirror.run", _with_mirror),
    f"POST {V1}/mirrors/{{mirror}}/pause": Operation("own mirror", "mirror.pause", _with_mirror),
    f"POST {V1}/mirrors/{{mirror}}/resume": Operation("own mirror", "mirror.resume", _with_mirror),
    f"PUT {V1}/mirrors/{{mirror}}/token": Operation("own mirror", "mirror.token", _with_mirror_and_token),
    f"DELETE {V1}/mirrors/{{mirror}}": Operation("own mirror", "mirror.remove", _with_mirror),
    f"POST {V1}/webhooks": Operation("own name", "webhook.add", _webhook),
    f"PUT {V1}/webhooks/{{webhook}}": Operation("own webhook, written", "webhook.change", _with_webhook_changed),
    f"DELETE {V1}/webhooks/{{webhook}}": Operation("own webhook, written", "webhook.remove", _with_webhook),
    f"POST {V1}/webhooks/{{webhook}}/pause": Operation("own webhook, written", "webhook.pause", _with_webhook),
    f"POST {V1}/webhooks/{{webhook}}/resume": Operation("own webhook, written", "webhook.resume", _with_webhook),
    f"POST {V1}/webhooks/{{webhook}}/secret": Operation("own webhook, written", "webhook.secret", _with_webhook),
    f"POST {V1}/webhooks/{{webhook}}/test": Operation("own webhook, written", "webhook.test", _with_webhook),
    f"POST {V1}/webhooks/{{webhook}}/deliveries/{{delivery}}/replay": Operation(
        "own webhook, written", "webhook.replay", _with_webhook
    ),
    "POST /api/settings/webhooks": Operation("own name", "webhook.add", _hub_webhook),
    "POST /api/settings/webhooks/{webhook}": Operation("own webhook, written", "webhook.change", _with_webhook_changed),
    "POST /api/settings/webhooks/{webhook}/{act}": Operation("own webhook, written", "webhook.pause", _with_webhook),
    "DELETE /api/settings/webhooks/{webhook}": Operation("own webhook, written", "webhook.remove", _with_webhook),
    # an account
    f"GET {V1}/webhooks": Operation("account"),
    f"GET {V1}/webhooks/{{webhook}}": Operation("own webhook", make=_with_webhook),
    f"GET {V1}/webhooks/{{webhook}}/deliveries": Operation("own webhook", make=_with_webhook),
    "GET /api/settings/webhooks": Operation("account"),
    "GET /api/settings/webhooks/{webhook}": Operation("own webhook", make=_with_webhook),
    "GET /api/whoami-v2": Operation("account"),
    "GET /api/settings/repositories": Operation("account"),
    "GET /api/organizations/{organisation}/settings/repositories": Operation("account"),
    f"POST {V1}/checks": Operation(
        "account",
        make=lambda _, repo: Request(json={"adapters": [repo], "bases": []}, repository=repo),
    ),
    f"POST {OWN}/overlap/{{rev}}": Operation("account", make=_beside_itself),
    f"POST {V1}/merges/plan": Operation("account", make=_plan),
    f"GET {V1}/merges": Operation("account"),
    f"GET {V1}/merges/{{job}}": Operation("own job", make=_with_job),
    f"POST {V1}/merges/{{job}}/cancel": Operation("own job, written", "merge.cancel", _with_job),
    f"GET {V1}/mirrors": Operation("account"),
    f"GET {V1}/mirrors/{{mirror}}": Operation("own mirror", make=_with_mirror),
    f"GET {V1}/tokens": Operation("own account"),
    f"POST {V1}/tokens": Operation("own account", "token.create", sends({"name": "new", "namespace": "stage-owner"})),
    f"DELETE {V1}/tokens/{{token_id}}": Operation("own token", "token.revoke", _with_token),
    f"POST {V1}/organisations": Operation(
        "own account", "organisation.create", lambda stage, _: Request(json={"name": stage.fresh("org-")})
    ),
    f"GET {V1}/whoami": Operation("account"),
    # the registry
    f"GET {V1}/audit": Operation("registry"),
    f"GET {V1}/quarantined": Operation("registry"),
    f"PUT {OWN}/quarantine": Operation("registry", "repository.quarantine", _reason),
    f"DELETE {OWN}/quarantine": Operation("registry", "repository.release", _reason),
    f"GET {V1}/blocked": Operation("registry"),
    f"PUT {V1}/blocked/{{sha256}}": Operation("registry", "blob.block", sends({"reason": "x"}, sha256=SHA)),
    f"DELETE {V1}/blocked/{{sha256}}": Operation("registry", "blob.unblock", _blocked),
    f"POST {V1}/bundles": Operation("registry", "repository.import", _bundle),
    # addresses and session tokens that are credentials: a user's token is none
    f"POST {V1}/oidc/token": Operation("other credential", make=sends({"token": "x", "repository": "stage-org/x"})),
    "PUT /lfs/{credential}/whole": Operation("other credential", make=sends(credential="x")),
    "PUT /lfs/{credential}/parts/{number}": Operation("other credential", make=sends(credential="x", number="1")),
    "POST /lfs/{credential}/complete": Operation(
        "other credential", make=sends({"oid": SHA, "parts": []}, credential="x")
    ),
    "GET /cas/{element}/v1/chunks/default/{chunk}": Operation("other credential", make=sends(chunk=SHA)),
    "POST /cas/{element}/v1/xorb-grants/default/{xorb}": Operation("other credential", make=sends(xorb=SHA)),
    "POST /cas/{element}/v1/xorb-commits/default/{xorb}/grant/{grant}": Operation(
        "other credential", make=sends(xorb=SHA, grant="put")
    ),
    "POST /cas/{element}/v1/xorbs/default/{xorb}": Operation("other credential", make=sends(xorb=SHA)),
    "POST /cas/{element}/v1/shards": Operation("other credential"),
    "POST /cas/{element}/v2/shards": Operation("other credential"),
}

_MEMBERS = frozenset({"owner", "read member", "write member", "admin member"})
_GOOD = _MEMBERS | {
    "stranger",
    "read token",
    "write token",
    "token for another namespace",
    "token for this namespace",
    "registry admin",
}
_BAD = frozenset({"revoked", "expired", "disabled"})
READERS = _MEMBERS | {"read token", "write token", "token for this namespace", "registry admin"}
_WRITERS = READERS - {"read member", "read token"}
_GOVERNORS = frozenset({"owner", "admin member", "token for this namespace", "registry admin"})
_THEMSELVES = _GOOD - {"read token", "token for this namespace"}  # who may write in his own name
_OF_THE_OWNER = frozenset({"owner", "write token", "token for another namespace"})

SERVED: dict[str, frozenset[str]] = {
    "open": _GOOD | _BAD | {"anonymous"},
    "everybody": _GOOD | {"anonymous"},
    "read": _GOOD | {"anonymous"},
    "write": _WRITERS,
    "manage": _WRITERS - {"write member"},
    "own name": _THEMSELVES,
    "write namespace": _WRITERS,
    "govern": _GOVERNORS,
    "account": _GOOD,
    "manage namespace": _WRITERS - {"write member"},
    "own mirror": _WRITERS - {"write member"},
    "own webhook": _OF_THE_OWNER | {"read token", "token for this namespace", "registry admin"},
    "own webhook, written": _OF_THE_OWNER | {"registry admin"},
    "own job": _GOVERNORS - {"admin member"} | {"read token", "write token"},
    "own job, written": _GOVERNORS - {"admin member"} | {"write token"},
    "own account": _THEMSELVES - {"write token"},
    "own token": frozenset({"owner", "token for another namespace"}),
    "registry": frozenset({"registry admin"}),
    "other credential": frozenset(),
}
"""Who is served, for a public repository. A private one is for `READERS` among them; for others it isn't there."""


NOT_THEIRS: dict[str, frozenset[str]] = {
    "own job": _GOOD,
    "own mirror": _GOOD,
    "own webhook": _GOOD,
    "own webhook, written": _GOOD - {"read token", "token for this namespace"},
    "own job, written": _GOOD - {"read token"},
    "own token": SERVED["own account"],
}
"""Who is told that what belongs to somebody else isn't there, being able to have one himself."""


def address(operation: str, request: Request, stage: Stage, repo: str) -> tuple[str, str]:
    """Method and path of a request."""
    method, _, template = operation.partition(" ")
    namespace, _, name = (request.repository or repo).partition("/")
    values = {
        "namespace": namespace,
        "name": name,
        "rev": "main",
        "path": "adapter_config.json",
        "organisation": stage.organisation,
        "version": "v1",
        "element": "n-" + "0" * 32,
    }
    return method, template.format_map({**values, **request.values}) + request.query
