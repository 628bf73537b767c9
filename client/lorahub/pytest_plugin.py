"""A pytest plugin: every adapter of `lorahub.lock` against every base is a test of its own.

    pytest lorahub.lock --lorahub-base hf:acme/llama-7b@main

So `-k`, `-n` and `--junitxml` work as they do with any test. Undecided is skipped with its reason, or fails with
`--lorahub-strict`. For tests of one's own there are the fixtures `lorahub_client` and `adapter`, and `assert_fits`.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lorahub.hub.checking import Checked
    from lorahub.hub.hub import Hub

LOCK = "lorahub.lock"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lorahub", "adapters and their base models")
    group.addoption(
        "--lorahub-base", action="append", default=[], metavar="BASE", help="check against this base; repeatable"
    )
    group.addoption(
        "--lorahub-level", default="shapes", choices=["metadata", "shapes", "drift", "load"], help="how deep to look"
    )
    group.addoption("--lorahub-offline", action="store_true", help="ask no network; use what was read before")
    group.addoption("--lorahub-strict", action="store_true", help="an undecided check fails")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.name == LOCK:
        return LockFile.from_parent(parent, path=file_path)
    return None


class LockFile(pytest.File):
    """lorahub.lock, as a file of tests."""

    def collect(self) -> Iterable[pytest.Item]:
        from lorahub.hub.lock import read_lock

        for entry in read_lock(self.path):
            for base in self.config.getoption("--lorahub-base") or [entry.base]:
                name = f"{entry.reference} × {base or 'its base'}"
                yield LockedCheck.from_parent(self, name=name, adapter=entry.pinned, base=base)


class LockedCheck(pytest.Item):
    """One adapter against one base."""

    def __init__(self, *, adapter: str, base: str | None, **more: Any) -> None:
        super().__init__(**more)
        self.adapter = adapter
        self.base = base

    def runtest(self) -> None:
        config = self.config
        checked = _check(
            self.adapter,
            self.base,
            level=config.getoption("--lorahub-level"),
            offline=config.getoption("--lorahub-offline"),
        )
        _require(checked, strict=config.getoption("--lorahub-strict"))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, self.name

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any, **more: Any) -> Any:
        from lorahub.errors import LorahubError

        if isinstance(excinfo.value, LorahubError):
            return f"{excinfo.value.message}\n{excinfo.value.hint or ''}"
        return super().repr_failure(excinfo, *args, **more)


@pytest.fixture
def lorahub_client(request: pytest.FixtureRequest) -> "Iterator[Hub]":
    """The configured registry."""
    with _hub(offline=request.config.getoption("--lorahub-offline")) as hub:
        yield hub


@pytest.fixture
def adapter(tmp_path: Path, lorahub_client: "Hub") -> Callable[[str], Path]:
    """Pulls an adapter: `adapter("acme/sql@v3")` is a folder with its files."""

    def pull(reference: str) -> Path:
        return lorahub_client.pull(reference, tmp_path / reference.replace("/", "-").replace("@", "-")).path

    return pull


def assert_fits(adapter: str | Path, base: str | Path, *, level: str = "shapes") -> None:
    """Fails with the findings where the adapter, a folder or a reference, doesn't fit the base."""
    _require(_check(str(adapter), str(base), level=level, offline=False), strict=True)


def _check(adapter: str, base: str | None, *, level: str, offline: bool) -> "Checked":
    from lorahub.hub.checking import Checker

    with _hub(offline=offline) as hub:
        return Checker(hub.sources, level=level).run(adapter, [base] if base else [])[0]


def _hub(*, offline: bool) -> "Hub":
    from lorahub.hub import configuration
    from lorahub.hub.hub import Hub

    return Hub(settings=configuration.load({"offline": "true"} if offline else None))


def _require(checked: "Checked", *, strict: bool) -> None:
    from lorahub.adapters.findings import Verdict

    findings = "\n".join(f"  {found.rule} {found.message}\n    {found.hint}" for found in checked.report.findings)
    told = f"{checked.adapter} × {checked.base or 'no base'}: {checked.verdict.value}\n{findings}"
    if checked.verdict is Verdict.INCOMPATIBLE:
        pytest.fail(told, pytrace=False)
    if checked.verdict is Verdict.UNDECIDED:
        if strict:
            pytest.fail(told, pytrace=False)
        pytest.skip(told)
