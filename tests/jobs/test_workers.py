"""Workers that die, sleep, end and share: every job is done once."""

import hashlib
import random
import time
from collections.abc import Callable
from pathlib import Path

import lorahub
import pytest
from jobs.conftest import Model
from jobs.worker_process import Worker
from lorahub.errors import NotMergeable
from lorahub.merging.recipe import Ingredient, Recipe
from registry_process import Registry, eventually

Hire = Callable[..., Worker]
Push = Callable[..., Model]


def sums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


def assert_published_once(model: Model, job: str, folder: Path) -> None:
    """One version, whose bytes are those of a merge on this machine."""
    done = model.hub.merges.wait(job)
    assert done.done == done.bytes
    assert len(model.hub.versions(done.target)) == 1
    pulled = model.hub.pull(done.reference, folder / "pulled").path
    recipe = Recipe(str(folder / "base"), (Ingredient(str(folder / "adapter")),))
    assert sums(pulled) == sums(model.hub.merge(recipe, folder / "here"))


def test_what_a_killed_worker_had_begun_is_taken_over(shared: Registry, hire: Hire, push: Push, tmp_path: Path) -> None:
    """Seen at once by its lock on the same machine, and by its heartbeat from any other."""
    model = push(shared)
    first = hire(shared, "first").started()
    job = model.start()
    first.hold_a_file()
    is_far = "LORAHUB_DATABASE_URL" in shared.settings
    hire(shared, "second", tmp_path / "machine" if is_far else None).started()
    first.kill()
    assert_published_once(model, job, tmp_path)
    assert [worker["name"] for worker in shared.admin_command("jobs")["workers"]] == ["second"]


def test_what_computes_gives_way_to_requests(shared: Registry, hire: Hire, push: Push) -> None:
    model, worker = push(shared), hire(shared, "worker").started()
    job = model.start()
    child = worker.hold_a_file()
    eventually(lambda: child.nice() == 10)
    child.resume()
    assert model.hub.merges.wait(job).status == "done"


def test_one_that_was_only_asleep_does_no_harm(on_postgres: Registry, hire: Hire, push: Push, tmp_path: Path) -> None:
    model = push(on_postgres)
    sleeper = hire(on_postgres, "sleeper", tmp_path / "one").started()
    job = model.start()
    child = sleeper.hold_a_file()
    sleeper.pause()
    other = hire(on_postgres, "other", tmp_path / "two").started()
    assert_published_once(model, job, tmp_path)
    child.resume()
    sleeper.wake()
    eventually(lambda: not sleeper.children(), 60)
    other.tell_to_end()
    assert other.wait() == 0
    again = model.start("owner/again")
    assert model.hub.merges.wait(again).reference == "owner/again@v1"
    assert len(model.hub.versions("owner/merged")) == 1


def test_workers_that_die_and_sleep_all_the_time(on_postgres: Registry, hire: Hire, push: Push, tmp_path: Path) -> None:
    """Three on machines of their own; every second something happens to one of them, until ten did."""
    model = push(on_postgres, files=12)
    workers = [hire(on_postgres, name, tmp_path / name).start() for name in ("a", "b", "c")]
    job = model.start()
    chosen, asleep = random.Random(3), []
    for _ in range(10):
        time.sleep(1 + chosen.random())
        for worker in asleep:
            worker.wake()
        worker = chosen.choice(workers)
        asleep = [worker] if chosen.random() < 0.3 else []
        if asleep:
            worker.pause()
        else:
            worker.kill()
            worker.start()
    for worker in asleep:
        worker.wake()
    assert_published_once(model, job, tmp_path)


def test_two_workers_share_the_files_of_a_merge(shared: Registry, hire: Hire, push: Push, tmp_path: Path) -> None:
    model = push(shared, files=4)
    one, two = (hire(shared, name).started() for name in ("one", "two"))
    job = model.start()
    held = [one.hold_a_file(), two.hold_a_file()]  # each has one: neither could take the other's
    working = {row["worker"] for row in shared.admin_command("jobs")["jobs"] if row["name"] == "merge-file"}
    assert working == {"one", "two", None}  # None: the other files wait
    for child in held:
        child.resume()
    assert_published_once(model, job, tmp_path)


def test_told_to_end_it_finishes_the_file_in_hand(on_sqlite: Registry, hire: Hire, push: Push, tmp_path: Path) -> None:
    model = push(on_sqlite, files=3)
    worker = hire(on_sqlite, "first").started()
    job = model.start()
    child = worker.hold_a_file()
    worker.tell_to_end()
    time.sleep(1)
    child.resume()
    assert worker.wait() == 0
    assert on_sqlite.admin_command("jobs")["workers"] == []
    assert on_sqlite.sql("select count(*) from merge_outputs") == [(1,)]
    hire(on_sqlite, "second").start()
    assert_published_once(model, job, tmp_path)


def test_told_to_end_it_hands_back_what_takes_too_long(
    on_postgres: Registry, hire: Hire, push: Push, tmp_path: Path
) -> None:
    model = push(on_postgres)
    worker = hire(on_postgres, "first", LORAHUB_WORKER_DRAIN_SECONDS="1").started()
    job = model.start()
    worker.hold_a_file()
    worker.tell_to_end()
    assert worker.wait() == 0
    assert on_postgres.sql("select status, faults from merge_jobs") == [("running", 0)]
    hire(on_postgres, "second").start()
    assert_published_once(model, job, tmp_path)


def test_a_poisonous_job_ends_and_others_go_on(on_postgres: Registry, hire: Hire, push: Push, tmp_path: Path) -> None:
    model = push(on_postgres, files=1)
    worker = hire(on_postgres, "first", LORAHUB_FAILPOINT="merge-file-computed").started()
    job = model.start()
    with pytest.raises(NotMergeable, match=r"model-00001-of-00001.safetensors: tried 3 times.*signal 9"):
        model.hub.merges.wait(job)
    model.hub.push(tmp_path / "adapter", "owner/other")
    path = "/api/lorahub/v1/models/owner/other/statistics/main"
    with on_postgres.client() as client:
        eventually(lambda: client.get(path).json()["status"] == "done", 60)
    worker.tell_to_end()
    worker.wait()
    hire(on_postgres, "second").started()
    assert on_postgres.admin_command("jobs", "requeue", job) == {"job": f"merge/{job}"}
    assert_published_once(model, job, tmp_path)


def test_cancelled_nothing_of_it_goes_on(on_sqlite: Registry, hire: Hire, push: Push) -> None:
    model = push(on_sqlite, files=3)
    worker = hire(on_sqlite, "first").started()
    job = model.start()
    worker.hold_a_file()
    assert model.hub.merges.cancel(job).status == "cancelled"
    eventually(lambda: not worker.children(), 60)
    eventually(lambda: not on_sqlite.admin_command("jobs")["jobs"], 60)
    assert on_sqlite.sql("select count(*) from merge_outputs") == [(0,)]
    assert [file.path for file in model.hub.revision("owner/merged@main").files] == [".gitattributes"]


def test_progress_is_that_of_all_files(on_postgres: Registry, hire: Hire, push: Push) -> None:
    model = push(on_postgres, files=2, width=64)
    one, two = (hire(on_postgres, name).started() for name in ("one", "two"))
    job = model.start()
    held = [one.hold_a_file(), two.hold_a_file()]
    held[0].resume()
    eventually(lambda: model.hub.merges.find(job).done >= 64 * 64 * 4, 60)
    assert model.hub.merges.find(job).done < 2 * 64 * 64 * 4
    held[1].resume()
    done = model.hub.merges.wait(job)
    assert done.done == done.bytes


def test_a_name_is_one_workers(on_sqlite: Registry, hire: Hire) -> None:
    first = hire(on_sqlite, "same").started()
    assert hire(on_sqlite, "same").start().wait() == 2
    assert hire(on_sqlite, "no/name").start().wait() == 2
    first.kill()
    assert hire(on_sqlite, "same").started().is_known()


def test_a_name_is_one_workers_on_all_machines(on_postgres: Registry, hire: Hire, tmp_path: Path) -> None:
    first = hire(on_postgres, "same", tmp_path / "one").started()
    assert hire(on_postgres, "same", tmp_path / "two").start().wait() == 2
    first.kill()
    assert hire(on_postgres, "same", tmp_path / "two").started().is_known()  # when the heartbeat is old


def test_no_job_of_that_id(shared: Registry) -> None:
    assert shared.admin_command("jobs", "requeue", "merge/nothing")["error"]["code"] == "NotFound"
    assert shared.admin_command("jobs") == {"workers": [], "jobs": []}


def test_a_hub_needs_no_worker_to_accept(on_sqlite: Registry, push: Push) -> None:
    model = push(on_sqlite)
    with lorahub.Hub(on_sqlite.url, token=on_sqlite.token) as hub:
        assert hub.merges.find(model.start()).status == "queued"
