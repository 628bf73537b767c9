"""Rate limits: exact, said in the words that the Hub's clients parse, and waited for by them."""

import math
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import httpx2
import pytest
import wire
from huggingface_hub.utils import parse_ratelimit_headers
from in_process import running
from registry_process import LORAHUB, Registry, eventually
from services import production
from services.postgres import Postgres

LIMIT = 40
UNCOUNTED = ("/livez", "/readyz", "/startupz", "/lfs/", "/cas/", "/v1/telemetry")
"""Probes, and addresses that are their own credential."""


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Registry]:
    """Windows that end only when no test is under way any more."""
    kinds = {f"LORAHUB_RATE_LIMIT_{kind}": str(LIMIT) for kind in ("API", "RESOLVE", "PAGES", "LOGIN")}
    running = Registry(
        tmp_path / "strict", {"LORAHUB_RATE_WINDOW": "P30000D", "LORAHUB_TRUSTED_PROXIES": "127.0.0.1", **kinds}
    ).start()
    yield running
    running.kill()


def ask_at_once(registry: Registry, path: str, times: int, **headers: str) -> Counter[int]:
    with httpx2.Client(base_url=registry.url, headers=headers, timeout=60) as client, ThreadPoolExecutor(16) as threads:
        return Counter(threads.map(lambda _: client.get(path).status_code, range(times)))


def test_a_limit_is_exact_under_concurrency_and_each_caller_has_its_own(strict: Registry) -> None:
    tokens = [strict.add_user(name) for name in ("first", "second")]
    for token in tokens:
        found = ask_at_once(strict, "/api/whoami-v2", LIMIT + 25, Authorization=f"Bearer {token}")
        assert found == {200: LIMIT, 429: 25}
    assert ask_at_once(strict, "/api/models", LIMIT + 5) == {200: LIMIT, 429: 5}, "without a token: the address"
    elsewhere = {"X-Forwarded-For": "203.0.113.7"}
    assert ask_at_once(strict, "/api/models", 3, **elsewhere) == {200: 3}, "from another address"
    network = {f"2001:db8:1:2::{number:x}" for number in range(1, LIMIT + 6)}
    statuses = Counter(
        httpx2.get(f"{strict.url}/api/models", headers={"X-Forwarded-For": a}).status_code for a in network
    )
    assert statuses == {200: LIMIT, 429: 5}, "an IPv6 network is one caller"


def test_two_tokens_of_one_account_share_its_limit(strict: Registry) -> None:
    first = strict.add_user("sharer")
    second = strict.admin_command("token", "sharer")["token"]
    assert ask_at_once(strict, "/api/whoami-v2", LIMIT - 1, Authorization=f"Bearer {first}") == {200: LIMIT - 1}
    assert ask_at_once(strict, "/api/whoami-v2", 4, Authorization=f"Bearer {second}") == {200: 1, 429: 3}


def test_kinds_are_counted_apart(strict: Registry) -> None:
    with strict.client() as client:
        repo = wire.create_repo(client, "owner/files")
    bearer = {"Authorization": f"Bearer {strict.token}"}
    ask_at_once(strict, "/api/whoami-v2", LIMIT, **bearer)
    assert ask_at_once(strict, "/api/whoami-v2", 1, **bearer) == {429: 1}
    assert ask_at_once(strict, f"/{repo}/resolve/main/.gitattributes", LIMIT + 1, **bearer) == {200: LIMIT, 429: 1}
    assert ask_at_once(strict, "/readyz", LIMIT + 5) == {200: LIMIT + 5}, "probes are never refused"


def test_wrong_tokens_are_counted_by_address_and_right_ones_are_not_held_up(strict: Registry) -> None:
    wrong = {"Authorization": "Bearer lh_wrong"}
    assert ask_at_once(strict, "/api/whoami-v2", LIMIT + 9, **wrong) == {401: LIMIT, 429: 9}
    assert ask_at_once(strict, "/api/whoami-v2", 2, Authorization=f"Bearer {strict.token}") == {200: 2}


def test_every_answer_says_where_its_caller_stands(strict: Registry) -> None:
    bearer = {"Authorization": f"Bearer {strict.token}"}
    window = 30_000 * 86400
    for used in range(1, LIMIT + 3):
        answer = httpx2.get(f"{strict.url}/api/whoami-v2", headers=bearer)
        rate = parse_ratelimit_headers(answer.headers)
        assert rate is not None
        assert (rate.resource_type, rate.limit, rate.window_seconds) == ("api", LIMIT, window)
        assert rate.remaining == max(LIMIT - used, 0)
        assert 0 < rate.reset_in_seconds <= window
    assert answer.status_code == 429
    assert answer.headers["X-Error-Code"] == "TooManyRequests"
    assert answer.headers["Retry-After"] == str(rate.reset_in_seconds)
    assert answer.json()["facts"] == {"retry_after": rate.reset_in_seconds}


@pytest.mark.parametrize("window", [7, 300])
def test_a_window_ends_when_it_was_said_to(tmp_path: Path, window: int) -> None:
    """By a clock that goes by quarters of a second."""
    begins = 1_800_000_000 // window * window
    with (
        running(tmp_path, rate_limit_api=3, rate_window=f"PT{window}S") as app,
        mock.patch("lorahub_registry.infrastructure.web.rates.time") as clock,
    ):
        for quarter in range(8):
            clock.time.return_value = now = begins + quarter / 4
            answer = app.client.get("/api/whoami-v2")
            rate = parse_ratelimit_headers(answer.headers)
            assert answer.status_code == (200 if quarter < 3 else 429)
            assert rate is not None
            assert (rate.remaining, rate.reset_in_seconds) == (max(2 - quarter, 0), math.ceil(begins + window - now))
        clock.time.return_value = now + rate.reset_in_seconds - 1.01
        assert app.client.get("/api/whoami-v2").status_code == 429
        clock.time.return_value = now + rate.reset_in_seconds
        assert app.client.get("/api/whoami-v2").headers["RateLimit"] == f'"api";r=2;t={window}'


# --- several processes ------------------------------------------------------------------------------------------------


@pytest.fixture
def postgres() -> Postgres:
    return production.postgres()


Processes = Callable[..., list[Registry]]


@pytest.fixture
def processes(postgres: Postgres, tmp_path: Path) -> Iterator[Processes]:
    """Two on one database."""
    shared = {
        **{f"LORAHUB_RATE_LIMIT_{kind}": str(LIMIT) for kind in ("API", "RESOLVE", "PAGES", "LOGIN")},
        "LORAHUB_DATABASE_URL": postgres.new_database(),
        "LORAHUB_STORAGE": str(tmp_path / "storage"),
        "LORAHUB_SECRET": "one of both",
        "LORAHUB_LOG_LEVEL": "info",
    }
    registries = [Registry(tmp_path / name, shared, log=tmp_path / f"{name}.log") for name in ("one", "other")]

    def start(window: str = "P30000D") -> list[Registry]:
        one, other = [registry.start(LORAHUB_RATE_WINDOW=window) for registry in registries]
        other.token = one.token
        return [one, other]

    yield start
    for registry in registries:
        registry.kill()


def ask_both(registries: list[Registry], path: str, times: int, **headers: str) -> Counter[int]:
    """At once, and as often each."""
    with ThreadPoolExecutor(2) as threads:
        found = threads.map(lambda registry: ask_at_once(registry, path, times // 2, **headers), registries)
        return sum(found, Counter())


def test_processes_on_one_database_count_together(processes: Processes) -> None:
    both = processes()
    bearer = {"Authorization": f"Bearer {both[0].token}"}
    assert ask_both(both, "/api/whoami-v2", LIMIT + 24, **bearer) == {200: LIMIT, 429: 24}
    assert ask_both(both, "/api/models", LIMIT + 24) == {200: LIMIT, 429: 24}
    assert ask_both(both, "/api/whoami-v2", LIMIT + 10, Authorization="Bearer lh_wrong") == {401: LIMIT, 429: 10}


def test_each_process_says_where_a_caller_stands_with_all(processes: Processes) -> None:
    both = processes()
    window = 30_000 * 86400
    for used in range(1, LIMIT + 3):
        answer = httpx2.get(f"{both[used % 2].url}/api/whoami-v2", headers={"Authorization": f"Bearer {both[0].token}"})
        rate = parse_ratelimit_headers(answer.headers)
        assert rate is not None
        assert (rate.remaining, rate.limit, rate.window_seconds) == (max(LIMIT - used, 0), LIMIT, window)
        assert abs(rate.reset_in_seconds - (window - time.time() % window)) < 60
        assert answer.status_code == (200 if used <= LIMIT else 429)
    assert answer.headers["Retry-After"] == str(rate.reset_in_seconds)


def test_windows_that_are_over_are_forgotten(processes: Processes) -> None:
    one, other = processes("PT2S")
    for _ in range(4):
        for registry in (one, other):
            assert ask_at_once(registry, "/api/models", 5) == {200: 5}
        time.sleep(2)
    httpx2.get(f"{one.url}/api/models")
    assert one.sql("SELECT count(*) FROM request_counts") <= [(2,)], "of one window, or of two at its turn"
    assert one.sql("SELECT relpersistence FROM pg_class WHERE relname = 'request_counts'") == [("u",)]


def test_a_database_that_can_t_count_fails_no_request(processes: Processes, postgres: Postgres) -> None:
    one, _ = processes()
    database = one.settings["LORAHUB_DATABASE_URL"].rpartition("/")[2]
    others = f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}'"
    postgres.sql(f'alter database "{database}" set default_transaction_read_only = on')
    postgres.sql(others)
    assert ask_at_once(one, "/api/models", LIMIT + 9) == {200: LIMIT, 429: 9}, "it counts for itself"
    postgres.sql(f'alter database "{database}" reset default_transaction_read_only')
    postgres.sql(others)
    eventually(lambda: httpx2.get(f"{one.url}/api/models").headers["RateLimit"].startswith('"api";r=3'))
    assert one.log is not None
    assert 0 < one.log.read_text().count("counted by this process alone") < 5, "said, and not for each request"


# --- routes, and clients ----------------------------------------------------------------------------------------------


def test_no_route_is_left_uncounted(tmp_path: Path) -> None:
    counted = {f"LORAHUB_RATE_LIMIT_{kind}": "1000000" for kind in ("API", "RESOLVE", "PAGES", "LOGIN")}
    registry = Registry(tmp_path / "registry", counted).start()
    try:
        with registry.client() as client:
            paths = client.get("/api/openapi.json").json()["paths"]
            for path, operations in paths.items():
                if path.startswith(UNCOUNTED):
                    continue
                for method in operations:
                    address = re.sub(r"\{\w+\}", "x-y", path)
                    answer = client.request(method, address)
                    assert "RateLimit" in answer.headers, f"{method.upper()} {path} answers {answer.status_code}"
    finally:
        registry.kill()


def refused(registry: Registry) -> int:
    """How many requests were refused for their number, by the log."""
    assert registry.log is not None
    return registry.log.read_text().count("status=429")


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Registry]:
    """Windows that clients can wait for, and a log."""
    settings = {"LORAHUB_RATE_WINDOW": "PT4S", "LORAHUB_RATE_LIMIT_API": "6", "LORAHUB_LOG_LEVEL": "info"}
    running = Registry(tmp_path / "watched", settings, log=tmp_path / "log").start()
    yield running
    running.kill()


def run(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_stock_client_waits_for_the_next_window(watched: Registry) -> None:
    code = "from huggingface_hub import HfApi\nfor _ in range(14): list(HfApi().list_models())\nprint('done')"
    assert run([sys.executable, "-c", code], HF_ENDPOINT=watched.url, HF_TOKEN=watched.token) == "done\n"
    assert refused(watched) >= 1


def test_our_client_waits_too(watched: Registry, adapter: Path) -> None:
    environment = {"LORAHUB_ENDPOINT": watched.url, "LORAHUB_TOKEN": watched.token}
    for number in range(3):
        (adapter / "README.md").write_text(f"# number {number}")
        run([LORAHUB, "push", str(adapter), "owner/patient"], **environment)
    assert refused(watched) >= 1
