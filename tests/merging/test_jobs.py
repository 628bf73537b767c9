"""Merges on the registry: planned, computed by a worker, published once."""

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import lorahub
import psutil
import pytest
from corpus.merge_corpus import Stored
from jobs.worker_process import Worker
from lorahub.errors import AdapterDoesNotFit, Conflict, MergeTooLarge, NotFound, NotMergeable, TooManyRequests
from lorahub.merging.recipe import Ingredient, Recipe, recipe_of
from registry_process import LORAHUB, Registry


@pytest.fixture
def working(tmp_path: Path) -> Iterator[Registry]:
    """A registry with a worker."""
    running = Registry(tmp_path / "working", {"LORAHUB_WORKER": "true"}).start()
    yield running
    running.stop()
    running.assert_sound()


@pytest.fixture
def stored(working: Registry, store: Callable[..., Stored]) -> Stored:
    return store(working, ("ana", working.add_user("ana")), seed=random.randrange(1 << 30))


def _hub(registry: Registry, stored: Stored) -> lorahub.Hub:
    return lorahub.Hub(registry.url, token=stored.token)


def _recipe(stored: Stored, **changes: Any) -> Recipe:
    return recipe_of({"base": stored.base, "adapters": [stored.adapter], **changes})


def test_the_result_is_published_with_its_lineage(working: Registry, stored: Stored, tmp_path: Path) -> None:
    with _hub(working, stored) as hub:
        planned = hub.merges.plan(_recipe(stored))
        job = hub.merges.start(_recipe(stored), "ana/merged")
        again = hub.merges.start(_recipe(stored), "ana/merged")
        done = hub.merges.wait(job.id)
        newest = hub.merges.newest()
        revision = hub.revision(done.reference)
        local = hub.merge(Recipe(str(stored.base_folder), (Ingredient(str(stored.adapter_folder)),)), tmp_path / "here")
        pulled = hub.pull(done.reference, tmp_path / "pulled").path
    assert again.id == job.id
    assert newest == [done]
    assert job.created_at <= done.finished_at
    assert done.digest == planned.digest
    assert {file.path: file.size for file in revision.files if file.path != ".gitattributes"} == planned.files
    for path in local.glob("*.safetensors"):
        assert path.read_bytes() == (pulled / path.name).read_bytes()
    assert (pulled / "lorahub-merge.json").exists()
    assert working.sql("select count(*) from merge_outputs") == [(0,)]  # the commit has them


def test_a_large_tokenizer_travels_like_weights(working: Registry, stored: Stored, tmp_path: Path) -> None:
    """Larger than a line of a commit may be."""
    tokenizer = json.dumps({"vocabulary": "x" * (20 << 20)})
    (stored.base_folder / "tokenizer.json").write_text(tokenizer)
    with _hub(working, stored) as hub:
        hub.push(stored.base_folder, stored.base)
        done = hub.merges.wait(hub.merges.start(_recipe(stored), "ana/merged").id)
        pulled = hub.pull(done.reference, tmp_path / "pulled").path
    assert (pulled / "tokenizer.json").read_text() == tokenizer
    assert done.done == done.bytes


def test_killed_at_random_it_is_published_once(tmp_path: Path, store: Callable[..., Stored]) -> None:
    """The registry, its worker, and twice the merge itself: three of its processes would end it."""
    registry = Registry(tmp_path / "killed", {"LORAHUB_WORKER": "true"}).start()
    try:
        stored = store(registry, ("ana", registry.add_user("ana")), seed=random.randrange(1 << 30))
        chosen = random.Random(5)
        with _hub(registry, stored) as hub:
            job = hub.merges.start(_recipe(stored), "ana/merged").id
        killed_merges = 0
        for _ in range(20):
            time.sleep(chosen.random() * 1.2)
            killed_merges += _kill_something(registry, chosen, among_merges=killed_merges < 2)
        with _hub(registry, stored) as hub:
            done = hub.merges.wait(job)
            versions = hub.versions("ana/merged")
            killed = hub.pull(done.reference, tmp_path / "killed-result").path
            undisturbed = hub.merges.start(_recipe(stored, method="sum"), "ana/undisturbed")
            other = hub.merges.wait(undisturbed.id)
            calm = hub.pull(other.reference, tmp_path / "calm-result").path
        assert len(versions) == 1
        assert _sums(killed) == _sums(calm)
    finally:
        registry.stop()
        registry.assert_sound()


def _kill_something(registry: Registry, chosen: random.Random, *, among_merges: bool) -> bool:
    """Now the merge, now the worker, now everything; whether it was the merge."""
    assert registry.process is not None
    children = psutil.Process(registry.process.pid).children(recursive=True)
    merges = [child for child in children if "merges.child" in " ".join(child.cmdline())]
    workers = [child for child in children if "lorahub_registry.worker" in " ".join(child.cmdline())]
    target = chosen.choice(["merge", "merge", "worker", "all"])
    if target == "merge" and merges and among_merges:
        os.kill(merges[0].pid, signal.SIGKILL)
        return True
    for child in workers:
        child.kill()
    registry.kill()
    registry.start()
    return False


def _sums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


def test_refused_before_anything_is_started(working: Registry, stored: Stored) -> None:
    with _hub(working, stored) as hub:
        with pytest.raises(NotFound, match="not stored on this registry"):
            hub.merges.start(recipe_of({"base": "ana/nothing", "adapters": [stored.adapter]}), "ana/merged")
        with pytest.raises(AdapterDoesNotFit, match="several files"):
            hub.merges.start(recipe_of({"base": stored.base, "adapters": [stored.base]}), "ana/merged")
        with pytest.raises(NotFound):
            hub.model("ana/merged")


def test_cancelled_it_leaves_nothing(tmp_path: Path, store: Callable[..., Stored]) -> None:
    registry = Registry(tmp_path / "idle", {"LORAHUB_WORKER": "false"}).start()
    try:
        stored = store(registry, ("ana", registry.add_user("ana")), seed=random.randrange(1 << 30))
        with _hub(registry, stored) as hub:
            job = hub.merges.start(_recipe(stored), "ana/merged").id
            assert hub.merges.cancel(job).status == "cancelled"
            with pytest.raises(Conflict, match="cancelled"):
                hub.merges.wait(job)
            assert [file.path for file in hub.revision("ana/merged@main").files] == [".gitattributes"]
    finally:
        registry.stop()


def test_what_is_published_is_not_cancelled(tmp_path: Path, store: Callable[..., Stored]) -> None:
    """Killed between its commit and its end, it is past the point of no return, and is published once."""
    registry = Registry(tmp_path / "late", {"LORAHUB_WORKER": "true"})
    registry.start(LORAHUB_FAILPOINT="merge-published")
    try:
        stored = store(registry, ("ana", registry.add_user("ana")), seed=random.randrange(1 << 30))
        with _hub(registry, stored) as hub:
            job = hub.merges.start(_recipe(stored), "ana/merged").id
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline and hub.merges.find(job).status != "publishing":
                time.sleep(0.02)
            with pytest.raises(Conflict, match="publishing"):
                hub.merges.cancel(job)
        registry.stop()
        registry.start()
        with _hub(registry, stored) as hub:
            assert hub.merges.wait(job).reference == "ana/merged@v1"
            assert len(hub.versions("ana/merged")) == 1
    finally:
        registry.stop()


def test_each_account_has_a_few_at_once(tmp_path: Path, store: Callable[..., Stored]) -> None:
    registry = Registry(tmp_path / "few", {"LORAHUB_WORKER": "false", "LORAHUB_MERGE_JOBS_PER_ACCOUNT": "1"}).start()
    try:
        stored = store(registry, ("ana", registry.add_user("ana")), seed=random.randrange(1 << 30))
        with _hub(registry, stored) as hub:
            hub.merges.start(_recipe(stored), "ana/one")
            with pytest.raises(TooManyRequests, match="under way"):
                hub.merges.start(_recipe(stored), "ana/two")
        registry.stop()
        registry.start(LORAHUB_MERGE_JOBS_PER_ACCOUNT="0")  # any
        with _hub(registry, stored) as hub:
            assert hub.merges.start(_recipe(stored), "ana/two").status == "queued"
    finally:
        registry.stop()


def test_too_little_memory_is_told_before_it_begins(tmp_path: Path, store: Callable[..., Stored]) -> None:
    settings = {"LORAHUB_MERGE_MEMORY_BYTES": str(64 << 20)}
    registry = Registry(tmp_path / "small", settings).start()
    try:
        stored = _with_a_large_tensor(registry, store)
        with _hub(registry, stored) as hub, pytest.raises(MergeTooLarge, match="64 MiB are given"):
            hub.merges.start(_recipe(stored, method="ties", density=0.5), "ana/merged")
        assert registry.sql("select count(*) from merge_jobs") == [(0,)]
    finally:
        registry.stop()


def test_too_little_memory_fails_the_job_alone(tmp_path: Path, store: Callable[..., Stored]) -> None:
    """Of a worker that was given less than the registry believes."""
    registry = Registry(tmp_path / "small").start()
    worker = Worker(registry, "small", settings={"LORAHUB_MERGE_MEMORY_BYTES": str(64 << 20)})
    try:
        stored = _with_a_large_tensor(registry, store)
        with _hub(registry, stored) as hub:
            job = hub.merges.start(_recipe(stored, method="ties", density=0.5), "ana/merged").id
            worker.started()
            with pytest.raises(NotMergeable, match="more than 64 MiB of memory"):
                hub.merges.wait(job)
            assert worker.is_known()
    finally:
        worker.kill()
        registry.stop()


def _with_a_large_tensor(registry: Registry, store: Callable[..., Stored]) -> Stored:
    user = ("ana", registry.add_user("ana"))
    sizes = {"vocab_size": 65_536}
    return store(registry, user, seed=random.randrange(1 << 30), sizes=sizes, target_modules=["embed_tokens"])


def test_others_jobs_are_not_there(working: Registry, stored: Stored) -> None:
    other = working.add_user("bob")
    with _hub(working, stored) as hub:
        job = hub.merges.start(_recipe(stored), "ana/merged").id
    answer = httpx2.get(f"{working.url}/api/lorahub/v1/merges/{job}", headers={"Authorization": f"Bearer {other}"})
    assert answer.status_code == 404


def test_read_often_it_is_stored_with_the_same_bytes_and_etag(tmp_path: Path, store: Callable[..., Stored]) -> None:
    registry = Registry(tmp_path / "often", {"LORAHUB_WORKER": "true", "LORAHUB_MERGED_STORE_READS": "3"}).start()
    try:
        stored = store(registry, ("ana", registry.add_user("ana")), seed=random.randrange(1 << 30))
        path = f"{registry.url}/{stored.adapter}/resolve/merged%2Fv1/model-00001-of-00002.safetensors"
        headers = {"Authorization": f"Bearer {stored.token}"}
        first = httpx2.get(path, headers=headers)
        assert first.status_code == 200
        for _ in range(4):
            httpx2.get(path, headers=headers)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not _outputs(registry):
            time.sleep(0.3)
        assert _outputs(registry)
        later = httpx2.get(path, headers=headers)
        assert later.content == first.content
        assert later.headers["etag"] == first.headers["etag"]
    finally:
        registry.stop()
        registry.assert_sound()


def _outputs(registry: Registry) -> int:
    [(count,)] = registry.sql("select count(*) from merged_revisions where stored_at is not null")
    return int(count)


# --- what clients may send --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"recipe": [], "target": "a/b"},
        {"recipe": {}, "target": "a/b"},
        {"recipe": {"base": "a/b", "adapters": ["c/d"], "method": []}, "target": "a/b"},
        {"recipe": {"base": "a/b", "adapters": ["c/d"], "method": {"x": 1}}, "target": "a/b"},
        {"recipe": {"base": "a/b", "adapters": [{"source": "c/d", "layers": {"(": 1}}]}, "target": "a/b"},
        {"recipe": {"base": "./folder", "adapters": ["c/d"]}, "target": "a/b"},
        {"recipe": {"base": "hf:a/b", "adapters": ["c/d"]}, "target": "a/b"},
        {"recipe": {"base": "lorahub://elsewhere.example/a/b", "adapters": ["c/d"]}, "target": "a/b"},
        {"recipe": {"base": "a/b", "adapters": ["/etc/passwd"]}, "target": "a/b"},
        {"recipe": {"base": "a/b", "adapters": ["c/d"], "rank": "many"}, "target": "a/b"},
        {"recipe": {"base": "a/b", "adapters": ["c/d"]}, "target": "../b"},
        {"recipe": {"base": "a/b\u0000", "adapters": ["c/d"]}, "target": "a/b"},
        {"recipe": {"base": "a/b", "adapters": [{"source": "c/d", "weight": 1e400}]}, "target": "a/b"},
    ],
)
def test_bad_requests_are_answered_with_a_reason(registry: Registry, user: tuple[str, str], body: Any) -> None:
    headers = {"Authorization": f"Bearer {user[1]}"}
    content = json.dumps(body)
    for address in ("merges", "merges/plan"):
        sent = content if address == "merges" or not isinstance(body, dict) else json.dumps(body.get("recipe", {}))
        answer = httpx2.post(f"{registry.url}/api/lorahub/v1/{address}", headers=headers, content=sent)
        assert 400 <= answer.status_code < 500, answer.text
        assert answer.headers["x-error-message"]


@pytest.mark.parametrize("job", ["x", "0" * 32, "%00", "a" * 5000, "..%2F.."])
def test_jobs_that_are_none(registry: Registry, user: tuple[str, str], job: str) -> None:
    answer = httpx2.get(f"{registry.url}/api/lorahub/v1/merges/{job}", headers={"Authorization": f"Bearer {user[1]}"})
    assert 400 <= answer.status_code < 500


def test_an_anonymous_caller_starts_nothing(registry: Registry) -> None:
    recipe = {"base": "a/b", "adapters": ["c/d"]}
    for address, body in (("merges", {"recipe": recipe, "target": "a/b"}), ("merges/plan", recipe)):
        assert httpx2.post(f"{registry.url}/api/lorahub/v1/{address}", json=body).status_code == 401
    assert httpx2.get(f"{registry.url}/api/lorahub/v1/merges").status_code == 401


# --- the command line -------------------------------------------------------------------------------------------------


def test_from_the_command_line(working: Registry, stored: Stored, tmp_path: Path) -> None:
    environment = {**os.environ, "LORAHUB_ENDPOINT": working.url, "LORAHUB_TOKEN": stored.token}
    environment |= {"LORAHUB_HOME": str(tmp_path / "home"), "LORAHUB_FORMAT": "json"}

    def run(*words: str) -> dict[str, Any]:
        done = subprocess.run([LORAHUB, *words], capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        result: dict[str, Any] = json.loads(done.stdout)["result"]
        return result

    planned = run("merge", stored.base, stored.adapter, "--server", "ana/cli", "--dry-run")
    done = run("merge", stored.base, stored.adapter, "--server", "ana/cli")
    assert done["reference"] == "ana/cli@v1"
    assert done["digest"] == planned["digest"]
    assert run("merge-job", done["id"])["status"] == "done"
    run("merge", stored.base, f"{stored.adapter}@v1", "-o", str(tmp_path / "here"))
    environment |= {"LORAHUB_HF_ENDPOINT": working.url, "HF_TOKEN": stored.token}  # any hub, by range requests
    run("merge", f"hf:{stored.base}", f"hf:{stored.adapter}@v1", "-o", str(tmp_path / "from-hub"))
    with _hub(working, stored) as hub:
        pulled = hub.pull("ana/cli@v1", tmp_path / "pulled").path
    assert _sums(pulled) == _sums(tmp_path / "here") == _sums(tmp_path / "from-hub")
