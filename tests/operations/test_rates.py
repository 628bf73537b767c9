"""Rate limits: exact, said in the words that the Hub's clients parse, and waited for by them."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
import wire
from huggingface_hub.utils import parse_ratelimit_headers
from registry_process import LORAHUB, Registry, serve

LIMIT = 40
UNCOUNTED = ("/livez", "/readyz", "/startupz", "/lfs/", "/cas/", "/v1/telemetry")
"""Probes, and addresses that are their own credential."""


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Registry]:
    """Windows that end only when no test is under way any more."""
    kinds = {f"LORAHUB_RATE_LIMIT_{kind}": str(LIMIT) for kind in ("API", "RESOLVE", "PAGES", "LOGIN")}
    running = serve(tmp_path / "strict", {"LORAHUB_RATE_WINDOW": "P30000D", **kinds})
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
