"""What a plan says that a merge takes, beside what it takes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from lorahub.merging.combinations import COMBINATIONS
from lorahub_registry.features.merged.reading import MOST_WORK
from merging.measuring import OTHERS, plan_of

SHAPES = ["1024×1024", "512×3072", "3072×768"]
LEEWAY = 4 << 20
"""Bytes that an allocator and a page more or less come to."""

RETURNS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
"""glibc keeps what was freed once, unless it is told to."""


@pytest.mark.parametrize("kind", [*sorted(COMBINATIONS), "pissa", "dora", *OTHERS])
def test_the_stated_memory_is_the_measured_memory(kind: str) -> None:
    members = "3" if kind in COMBINATIONS else "1"
    program = Path(__file__).with_name("measuring.py")
    done = subprocess.run(
        [sys.executable, program, kind, members, *SHAPES],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(program.parent.parent), "OPENBLAS_NUM_THREADS": "1", **RETURNS_MEMORY},
    )
    for shape, found in zip(SHAPES, json.loads(done.stdout), strict=True):
        assert found["measured"] <= found["stated"] + LEEWAY, shape
        assert found["measured"] >= 0.6 * found["stated"] - LEEWAY, shape


def work_of_a_block(kind: str) -> int:
    plan = plan_of(kind, 1024, 1024, 1)
    [extent] = [extent for file in plan.weights.values() for extent in file.extents]
    return plan.effort(extent).work


def test_places_that_are_drawn_one_by_one_are_work_for_a_worker() -> None:
    """However few bytes the block has."""
    assert work_of_a_block("fourierft") < MOST_WORK < work_of_a_block("fourierft-long")
