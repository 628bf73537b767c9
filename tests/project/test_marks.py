"""What a test needs is found in what it uses, and a fast test that needs more fails."""

import subprocess
import sys
from pathlib import Path

import marks
import pytest
from fast import Fast
from registry_process import Registry, serve
from services import production

TESTS = Path(marks.__file__).parent


class Starter:
    def start(self) -> None:
        subprocess.run(["true"], check=True)


def by_a_class() -> None:
    Starter()


def by_another_function() -> None:
    by_a_class()


def by_a_module() -> None:
    production.s3()


def by_a_registry(tmp_path: Path) -> None:
    Registry(tmp_path).start()


def whichever(tmp_path: Path) -> None:
    serve(tmp_path).client()


def which_is_killed(registry: Registry) -> None:
    registry.kill()


def with_pytorch() -> None:
    from corpus.peft_corpus import llama

    llama()


@pytest.mark.parametrize(
    ("function", "needs"),
    [
        (by_a_class, {"process"}),
        (by_another_function, {"process"}),
        (by_a_module, {"process"}),
        (by_a_registry, {"process"}),
        (which_is_killed, {"process"}),
        (with_pytorch, {"torch"}),
        (whichever, set()),
    ],
)
def test_what_a_function_needs_is_found(function: object, needs: set[str]) -> None:
    assert marks._needs_of(function) == needs


def test_modules_that_import_pytorch_are_known_without_importing_them() -> None:
    assert marks.needs_torch(TESTS / "training" / "bases.py")
    assert marks.needs_torch(TESTS / "serving" / "test_session.py")
    assert not marks.needs_torch(TESTS / "builders.py")
    assert not marks.needs_torch(TESTS / "merging" / "conftest.py")


def test_a_fast_test_starts_no_program() -> None:
    watch = Fast()
    watch._running = "a test"
    try:
        with pytest.raises(AssertionError, match="a test starts a program, and is not marked `process`"):
            subprocess.run([sys.executable, "--version"], check=True)
    finally:
        watch._running = None
    subprocess.run([sys.executable, "--version"], check=True, capture_output=True)
