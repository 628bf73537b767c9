"""Checks by name: adapters against bases, with what the project sets aside, and what that means for CI."""

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from lorahub.adapters.adapter import Adapter
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.check import Report, check, closest, meant, recheck
from lorahub.adapters.files import Files, FolderFiles
from lorahub.adapters.findings import Evidence, Finding, Verdict, finding, has_errors
from lorahub.adapters.reader import read_adapter
from lorahub.adapters.rules import RULES, Severity
from lorahub.adapters.runtimes import Loads, RuntimeVerdict, judge_runtimes, newest, parse_runtime
from lorahub.adapters.weights import scan_weights
from lorahub.conversion import refusal
from lorahub.errors import InvalidBaseModel, InvalidConfiguration, InvalidUsage, NotFound, TooManyRequests, Unavailable
from lorahub.hub.bases import Bases, OpenedBase, hash_folder
from lorahub.hub.configuration import PROJECT_FILE
from lorahub.hub.contents import Contents
from lorahub.hub.progress import Progress, Silence
from lorahub.hub.remote_files import RemoteFiles
from lorahub.hub.showing import html_table
from lorahub.hub.sources import Sources, is_of_an_adapter, local_place, may_look_up

LEVELS = ("metadata", "shapes", "drift", "load", "eval")
_READING = ("drift", "load", "eval")
"""Levels that read the adapter's weights."""

Evaluate = Callable[[str, str], list[Finding]]
"""Findings of an evaluation: of this adapter, on this base, by what people write."""
FAIL_ON = ("incompatible", "undecided", "warning", "never")


@dataclass(frozen=True, slots=True)
class OpenedAdapter:
    """An adapter's files, wherever they are. `place` is a path in this project that a finding can point to."""

    name: str
    files: Files
    place: str | None = None
    contents: Contents | None = None

    @property
    def yanked(self) -> str | None:
        """Why."""
        revision = None if self.contents is None else self.contents.revision
        return None if revision is None or revision.yanked is None else revision.yanked.reason


@dataclass(frozen=True, slots=True)
class CheckedFacts:
    """What the adapter is."""

    format: str
    method: str
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """One adapter against one base. `ignored` are findings that the project has set aside, with their reasons.

    >>> [checked] = hub.check("./out", "./narrow")
    >>> checked.verdict.value, [found.rule for found in checked.report.findings]
    ('incompatible', ['LH202'])
    """

    adapter: str
    base: str | None
    report: Report
    facts: CheckedFacts
    place: str | None = None
    ignored: tuple[tuple[Finding, str], ...] = ()
    wanted: Mapping[str, RuntimeVerdict] = field(default_factory=dict)
    """The verdicts for the runtimes that were asked for, each by what it was asked as: `vllm@0.32.0 on awq`."""

    @property
    def verdict(self) -> Verdict:
        return self.report.verdict

    def fails(self, fail_on: str) -> bool:
        """Whether CI should be red."""
        if fail_on == "never":
            return False
        if self.verdict is Verdict.INCOMPATIBLE or any(
            judged.loads in (Loads.NO, Loads.WRONG) for judged in self.wanted.values()
        ):
            return True
        if fail_on == "undecided" and self.verdict is Verdict.UNDECIDED:
            return True
        return fail_on == "warning" and any(f.severity is Severity.WARNING for f in self.report.findings)

    def as_json(self) -> dict[str, object]:
        return {
            "adapter": self.adapter,
            "base": self.base,
            **self.report.as_json(),
            "facts": asdict(self.facts),
            "place": self.place,
            "wanted": {asked: judged.as_json() for asked, judged in self.wanted.items()},
            "ignored": [{**found.as_json(), "reason": reason} for found, reason in self.ignored],
        }

    def _repr_html_(self) -> str:
        """In a notebook: the verdict, and what was found."""
        findings = [
            (found.rule, found.severity.value, found.message, found.hint or "") for found in self.report.findings
        ]
        table = html_table(["rule", "severity", "finding", "hint"], findings) if findings else ""
        return Checks([self])._repr_html_() + table


class Checks(list[Checked]):
    """One for each base; in a notebook, a table."""

    def _repr_html_(self) -> str:
        rows = (
            (
                one.adapter,
                one.base or "no base",
                one.verdict.value,
                f"{one.report.matched} of {one.report.of}",
                ", ".join(dict.fromkeys(found.rule for found in one.report.findings)),
            )
            for one in self
        )
        return html_table(["adapter", "base", "verdict", "modules", "rules"], rows)


class Checker:
    """Runs checks, and keeps the bases it has read."""

    def __init__(
        self,
        sources: Sources,
        *,
        level: str = "shapes",
        runtimes: Sequence[str] = (),
        progress: Progress | None = None,
        evaluate: Evaluate | None = None,
    ) -> None:
        """`evaluate` is what the level `eval` does beyond `load`; it needs a model, which this package has none of."""
        self._sources = sources
        self._evaluate = evaluate
        self._progress = progress or Silence()
        self._bases = Bases(sources)
        self._opened: dict[str, list[OpenedBase]] = {}
        self._remotes: list[RemoteFiles] = []
        self.level = level
        self.runtimes = tuple(map(parse_runtime, runtimes))
        self.ignores = read_ignores(project_file())
        if level == "eval" and evaluate is None:
            raise InvalidUsage(
                "the level eval needs rows to evaluate on", hint="lorahub check … --level eval --data FILE"
            )

    @property
    def bytes_read(self) -> int:
        """Of headers, over the network."""
        return sum(one.bytes_read for one in self._remotes) + sum(
            one.bytes_read for opened in self._opened.values() for one in opened
        )

    def adapter(self, spec: str) -> OpenedAdapter:
        """A folder, a file, a reference of a registry or of the Hub. Raises what `Sources` does."""
        if self.level in _READING:
            fetched = self._sources.fetch(spec, is_of_an_adapter)
            files, contents = FolderFiles(fetched.folder), fetched.contents
            return OpenedAdapter(spec, files, _pointed(spec, files), contents)
        opened = self._sources.open(spec)
        if isinstance(opened, FolderFiles):
            return OpenedAdapter(spec, opened, _pointed(spec, opened))
        self._remotes.append(opened)
        return OpenedAdapter(spec, opened, contents=opened.contents)

    def bases(self, spec: str) -> list[BaseLayout]:
        """All that the name stands for, newest first."""
        if spec not in self._opened:
            place = local_place(spec)
            if self.level == "drift" and place is not None:
                folder = self._sources.fetch(place).folder
                self._opened[spec] = [OpenedBase(hash_folder(folder, self._progress), "folder")]
            else:
                self._opened[spec] = self._bases.revisions(spec)
        return [opened.base for opened in self._opened[spec]]

    def run(self, spec: str, bases: Sequence[str]) -> list[Checked]:
        """One result for each base; without any, against the base that the adapter names, if it can be found."""
        opened = self.adapter(spec)
        adapter = read_adapter(opened.files)
        before = list(self._beside(opened, adapter))
        named: list[tuple[str | None, list[BaseLayout]]] = (
            [(base, self.bases(base)) for base in bases] if bases else [self._recorded(adapter)]
        )
        return [self._closest(opened, adapter, name, known, before) for name, known in named]

    def _closest(
        self,
        opened: OpenedAdapter,
        adapter: Adapter,
        name: str | None,
        known: Sequence[BaseLayout],
        before: Sequence[Finding],
    ) -> Checked:
        """Against the base of this name that it fits best, with the verdicts for the others."""
        if len(known) < 2:
            return self._one(opened, adapter, name, known[0] if known else None, before)
        judged = [check(adapter, base, level=self.level).at(base) for base in known]
        best = closest(judged)
        checked = self._one(opened, adapter, name, known[best], before)
        judged[best] = checked.report.at(known[best])
        return replace(checked, report=replace(checked.report, revisions=tuple(judged)))

    def _beside(self, opened: OpenedAdapter, adapter: Adapter) -> Iterable[Finding]:
        if opened.yanked is not None:
            yield finding("LH502", f"{opened.name} was yanked: {opened.yanked}", [Evidence(opened.name)])
        if self.level in _READING and adapter.weights_file is not None:
            yield from scan_weights(opened.files, adapter)

    def _recorded(self, adapter: Adapter) -> tuple[str | None, list[BaseLayout]]:
        """The bases that go by the name that the adapter gives, where that can be looked up, and leads to one."""
        name = adapter.claim.name
        if name is None or not may_look_up(name) or self.level == "metadata":
            return name, []
        try:
            return name, list(meant(adapter.claim, self.bases(name)))
        except (NotFound, InvalidBaseModel, InvalidUsage):
            return name, []
        except (Unavailable, TooManyRequests) as error:
            error.hint = f"{error.hint}; --base names the base, --level metadata looks for none"
            raise

    def _one(
        self,
        opened: OpenedAdapter,
        adapter: Adapter,
        name: str | None,
        base: BaseLayout | None,
        before: Sequence[Finding],
    ) -> Checked:
        report = check(adapter, base, level=self.level, recorded=self._trained_on(adapter))
        more = list(before)
        if self.level == "load" and base is not None:
            from lorahub.hub.loading import load_findings

            more += load_findings(opened.files, base)
        if self._evaluate is not None and base is not None and name is not None and not has_errors(report.findings):
            more += self._evaluate(opened.name, name)
        kept, ignored = self._without_ignored(opened.name, [*report.findings, *more])
        report = recheck(report, kept, adapter, base) if more or ignored else report
        judged = judge_runtimes(adapter, base, report.findings, (*newest(), *self.runtimes), refusal)
        verdicts = tuple(judged)
        return Checked(
            opened.name,
            name,
            replace(report, runtimes=verdicts[: len(newest())]),
            facts=CheckedFacts(adapter.format, adapter.method, tuple(adapter.ranks)),
            place=opened.place,
            ignored=tuple(ignored),
            wanted=dict(zip(map(str, self.runtimes), verdicts[len(newest()) :], strict=False)),
        )

    def _trained_on(self, adapter: Adapter) -> BaseLayout | None:
        """The very base that lorahub.json records, where the registry has its digests: what drift is measured from."""
        if self.level != "drift" or adapter.claim.weights is None:
            return None
        try:
            return self._bases.open(f"sha256:{adapter.claim.weights}").base
        except (NotFound, InvalidUsage):
            return None

    def _without_ignored(
        self, name: str, findings: Sequence[Finding]
    ) -> tuple[list[Finding], list[tuple[Finding, str]]]:
        kept: list[Finding] = []
        ignored: list[tuple[Finding, str]] = []
        for found in findings:
            rule = next((i for i in self.ignores if i.rule == found.rule and i.covers(name)), None)
            if rule is None:
                kept.append(found)
            else:
                ignored.append((found, rule.reason))
        return kept, ignored


def _pointed(spec: str, files: FolderFiles) -> str | None:
    """The file of the project that findings are shown at."""
    place = local_place(spec)
    if place is None:
        return None
    pointed = next((name for name in ("adapter_config.json", *files.sizes) if name in files.sizes), None)
    return (place / pointed if pointed is not None and place.is_dir() else place).as_posix()


# --- what a project sets aside ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ignore:
    """`[[check.ignore]]` of lorahub.toml: a rule that doesn't count for an adapter, why, and until when."""

    rule: str
    adapter: str
    reason: str
    until: date

    def covers(self, name: str) -> bool:
        """By the reference without its revision, or by the folder's path; `*` stands for all."""
        plain = name.removeprefix("./").rstrip("/")
        return date.today() <= self.until and self.adapter in ("*", plain, plain.partition("@")[0])  # noqa: DTZ011


def project_file() -> Path | None:
    """The nearest lorahub.toml, from here upwards."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / PROJECT_FILE).is_file():
            return folder / PROJECT_FILE
    return None


def read_ignores(path: Path | None) -> list[Ignore]:
    """Raises `InvalidConfiguration` for an entry without a reason or an expiry date."""
    if path is None:
        return []
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidConfiguration(f"can't read {path}: {error}") from None
    table = content.get("check", {})
    entries = table.get("ignore", []) if isinstance(table, dict) else []
    return [_ignore(entry, path) for entry in entries]


def _ignore(entry: Any, path: Path) -> Ignore:
    fields = entry if isinstance(entry, dict) else {}
    rule, reason, until = fields.get("rule"), fields.get("reason"), fields.get("until")
    if rule not in RULES or not isinstance(reason, str) or not reason.strip() or not isinstance(until, date):
        raise InvalidConfiguration(
            f"{path}: an entry of check.ignore needs a known rule, a reason and an expiry date",
            hint="docs/rules/README.md shows one",
        )
    return Ignore(rule, str(fields.get("adapter", "*")), reason, until)


def summary(results: Sequence[Checked]) -> dict[str, int]:
    """How many of each verdict."""
    return {verdict.value: sum(checked.verdict is verdict for checked in results) for verdict in Verdict}
