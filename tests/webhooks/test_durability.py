"""Everything that happened is told, in order within a repository, whoever is killed meanwhile.

`make test` kills workers, and lets the receiver fail, under a hundred and fifty events; `make soak` under ten thousand.
"""

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import wire
from jobs.conftest import QUIET, hire
from jobs.worker_process import Worker
from registry_process import Registry, eventually
from services import production
from webhooks.receiver import Receiver
from webhooks.test_webhooks import WEBHOOKS, call, move_alias

__all__ = ["hire"]

Hire = Callable[..., Worker]


@pytest.fixture(params=["sqlite", "postgres"])
def told(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Registry, Receiver]]:
    url = {"LORAHUB_DATABASE_URL": production.postgres().new_database()} if request.param == "postgres" else {}
    with Receiver() as receiver:
        internal = {"LORAHUB_OUTBOUND_INTERNAL": f'["127.0.0.1:{receiver.port}"]'}
        registry = Registry(tmp_path / "told", {**url, **QUIET, **internal}).start()
        yield registry, receiver
        registry.stop()
        registry.assert_sound()


def write(registry: Registry, repositories: list[str], each: int) -> None:
    """By a writer for each repository, who moves aliases one after the other."""
    with ThreadPoolExecutor(len(repositories)) as pool:
        moves = [pool.submit(_move_all, registry, repo, each) for repo in repositories]
        for one in moves:
            one.result()


def _move_all(registry: Registry, repo: str, each: int) -> None:
    for number in range(each):
        while True:
            try:
                move_alias(registry, repo, f"n{number}")
                break
            except wire.Refused as refused:  # the database is away
                if refused.status != 503:
                    raise
                time.sleep(0.2)


def disturb(registry: Registry, receiver: Receiver, hire: Hire, is_over: threading.Event, pause: float) -> Worker:
    """Kills one of two workers again and again, and lets the receiver fail now and then; the one that is left."""
    chance, number, workers = random.Random(7), 0, [hire(registry, f"w{count}").started() for count in range(2)]
    receiver.answer = lambda _: 200 if chance.random() > 0.03 else chance.choice([0, 500, 503])
    while not is_over.wait(pause):
        victim = workers.pop(0)
        victim.kill()
        number += 1
        workers.append(hire(registry, f"again{number}").started())
    receiver.answer = lambda _: 200
    return workers[-1]


def numbers_in_order(receiver: Receiver) -> dict[str, list[int]]:
    """Of each repository, as they were first taken: a message may come twice, under the same id."""
    found: dict[str, list[int]] = defaultdict(list)
    for told in [one for one in receiver.told if one.status == 200]:
        event = told.message["data"]
        if event["number"] not in found[event["name"]]:
            found[event["name"]].append(event["number"])
    return found


def assert_all_told(
    registry: Registry, receiver: Receiver, hire: Hire, *, writers: int, each: int, pause: float, patience: float
) -> None:
    with registry.client() as client:
        repositories = [wire.create_repo(client, f"{registry.admin}/kept{number}") for number in range(writers)]
    watched = [{"type": "namespace", "name": registry.admin}]
    call(registry, "POST", WEBHOOKS, {"url": receiver.url, "watched": watched, "kinds": ["alias.moved"]})
    is_over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        disturbing = pool.submit(disturb, registry, receiver, hire, is_over, pause)
        write(registry, repositories, each)
        is_over.set()
        disturbing.result(timeout=120)

    def is_all_told() -> bool:
        with registry.database() as database:
            database.exec_driver_sql("UPDATE webhook_deliveries SET next_try_at = created_at WHERE status = 'wanted'")
        return sum(map(len, numbers_in_order(receiver).values())) >= writers * each

    eventually(is_all_told, patience)
    found = numbers_in_order(receiver)
    assert {name: len(numbers) for name, numbers in found.items()} == dict.fromkeys(repositories, each), "none is lost"
    assert all(numbers == sorted(numbers) for numbers in found.values()), "none is out of order"
    [feed] = registry.sql("SELECT last FROM feed")
    assert [number for (number,) in registry.sql("SELECT number FROM events ORDER BY number")] == list(
        range(1, feed[0] + 1)
    )


def test_all_is_told_in_order_while_workers_and_the_receiver_fail(told: tuple[Registry, Receiver], hire: Hire) -> None:
    registry, receiver = told
    assert_all_told(registry, receiver, hire, writers=5, each=30, pause=1.5, patience=90)


@pytest.mark.soak
def test_ten_thousand_events_are_told(told: tuple[Registry, Receiver], hire: Hire) -> None:
    registry, receiver = told
    assert_all_told(registry, receiver, hire, writers=20, each=500, pause=5, patience=1800)
