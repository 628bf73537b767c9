"""No request costs more than it may: every GET and POST of the OpenAPI description, measured."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def costs() -> list[dict[str, Any]]:
    if not sys.platform.startswith("linux"):
        pytest.skip("memory and CPU of another process are read from /proc")
    command = [sys.executable, ROOT / "benchmarks/costs.py", "--json", "--rounds", "3"]
    measured = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert measured.returncode == 0, measured.stderr
    found: list[dict[str, Any]] = json.loads(measured.stdout)
    return found


def test_no_request_costs_more_than_it_may(costs: list[dict[str, Any]]) -> None:
    beyond = [f"{cost['operation']} {cost['what']}: {fault}" for cost in costs for fault in cost["faults"]]
    assert not beyond, "\n".join(beyond)


def test_every_operation_has_a_row_in_the_documents(costs: list[dict[str, Any]]) -> None:
    documented = (ROOT / "docs/costs.md").read_text()
    for cost in costs:
        what = f": {cost['what']}" if cost["what"] else ""
        assert f"| `{cost['operation']}`{what} |" in documented, "python benchmarks/costs.py --write"
