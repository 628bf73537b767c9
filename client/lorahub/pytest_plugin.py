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
    from lorahub.hub.checking import CheckEntry
    from lorahub.hub.hub import Hub
    from lorahub.hub.lock import Lock
    from lorahub.hub.outcomes import Checked
    from lorahub.hub.project_checks import Environment

LOCK = "lorahub.lock"


_READ = "lorahub_read"
"""Property of a check: whether anything of it could be read."""


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # whose results the main process has
        config.pluginmanager.register(_BlindRuns(), "lorahub-blind-runs")


class _BlindRuns:
    """A run in which nothing of any lock could be read is red, as that of `lorahub check` is."""

    def __init__(self) -> None:
        self._read: list[object] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self._read += [value for name, value in report.user_properties if name == _READ]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._is_blind and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._is_blind:
            terminalreporter.write_line("lorahub: nothing could be read, and so nothing was checked", red=True)

    @property
    def _is_blind(self) -> bool:
        return bool(self._read) and not any(self._read)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lorahub", "adapters and their base models")
    group.addoption(
        "--lorahub-base", action="append", default=[], metavar="BASE", help="check against this base; repeatable"
    )
    group.addoption(
        "--lorahub-level", default=None, choices=["metadata", "shapes", "drift", "load"], help="how deep to look"
    )
    group.addoption(
        "--lorahub-env", action="append", default=[], metavar="NAME", help="for an environment of lorahub.toml"
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
        from lorahub.hub.checking import asked_in
        from lorahub.hub.project_checks import Environment, read_checks
        from lorahub.hub.showing import visible

        with _hub(offline=self.config.getoption("--lorahub-offline")) as hub:
            lock, entries = asked_in(self.path, hub.sources, self.config.getoption("--lorahub-base"))
        environments = read_checks().chosen(self.config.getoption("--lorahub-env")) or [Environment("")]
        for number, asked in enumerate(entries):
            for environment in environments:
                for one in asked.each(environment):
                    where = f" for {environment.name}" if environment.name else ""
                    base = next(iter(one.bases), None) or asked.locked_base or "its base"
                    name = visible(f"{asked.adapter} × {base}{where}")
                    more = {"asked": one, "number": number, "environment": environment, "lock": lock}
                    yield LockedCheck.from_parent(self, name=name, **more)


class LockedCheck(pytest.Item):
    """One adapter against one base."""

    def __init__(
        self, *, asked: "CheckEntry", number: int, environment: "Environment", lock: "Lock", **more: Any
    ) -> None:
        super().__init__(**more)
        self.asked = asked
        self.number = number
        self.environment = environment
        self.lock = lock

    def runtest(self) -> None:
        from lorahub.hub.checking import Checker
        from lorahub.hub.outcomes import is_unread

        config = self.config
        with _hub(offline=config.getoption("--lorahub-offline")) as hub:
            checker = Checker(
                hub.sources,
                level=config.getoption("--lorahub-level") or self.lock.level,
                runtimes=self.lock.runtimes,
                environments=[self.environment],
            )
            fail_on = "undecided" if config.getoption("--lorahub-strict") else checker.project.fail_on
            for checked in checker.rows([self.asked], first=self.number):
                if fail_on != "never":
                    self.user_properties.append((_READ, not is_unread(checked)))
                _require(checked, fail_on)

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
    from lorahub.hub.checking import CheckEntry, Checker

    with _hub(offline=False) as hub:
        for checked in Checker(hub.sources, level=level).rows([CheckEntry(str(adapter), str(adapter), (str(base),))]):
            _require(checked, "undecided")


def _hub(*, offline: bool) -> "Hub":
    from lorahub.hub import configuration
    from lorahub.hub.hub import Hub

    return Hub(settings=configuration.load({"offline": "true"} if offline else None))


def _require(checked: "Checked", fail_on: str | None) -> None:
    """Fails, skips or passes as `lorahub check` would."""
    from lorahub.hub.outcomes import Outcome, judge
    from lorahub.hub.reports import told
    from lorahub.hub.showing import visible

    row = judge(checked, fail_on or "incompatible")
    findings = "\n".join(f"  {found.rule} {visible(told(found))}" for found in checked.findings)
    said = f"{visible(f'{checked.adapter} × {checked.target}')}: {checked.verdict.value}\n{findings}"
    if row.outcome is Outcome.FAILED:
        pytest.fail(said, pytrace=False)
    if row.outcome is Outcome.UNDECIDED:
        pytest.skip(said)
