"""Checks by name: adapters against bases, each a row whatever becomes of it."""

import importlib.util
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from lorahub.adapters.adapter import Adapter
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.beside import differences_beside
from lorahub.adapters.check import AtRevision, Report, check, closest, meant, recheck
from lorahub.adapters.files import Files, FolderFiles, HashedFolder
from lorahub.adapters.findings import Evidence, Finding, Verdict, finding, has_errors, worst_first
from lorahub.adapters.identity import same_weights
from lorahub.adapters.manifest import read_stated_base
from lorahub.adapters.reader import read_adapter
from lorahub.adapters.rules import Severity
from lorahub.adapters.runtimes import Loads, RuntimeVerdict, judge_runtimes, newest, parse_runtime
from lorahub.adapters.weights import scan_weights
from lorahub.conversion import refusal
from lorahub.errors import (
    BaseNotFound,
    BlobDamaged,
    InvalidBaseModel,
    InvalidConfiguration,
    InvalidUsage,
    NotFound,
    Refusal,
    RegistryUnreachable,
    TooManyRequests,
    Unavailable,
)
from lorahub.hub.bases import Bases, OpenedBase, hash_folder
from lorahub.hub.contents import Contents
from lorahub.hub.lock import BrokenEntry, Lock, LockedAdapter, digest_of, digest_of_base, is_digest_of, read_lock
from lorahub.hub.outcomes import Checked, CheckedFacts, Checks, ProjectLine, fingerprints, obstacle
from lorahub.hub.progress import Progress, Silence
from lorahub.hub.project_checks import (
    IN_THE_BASELINE,
    LEVELS,
    Environment,
    ProjectChecks,
    deepest,
    read_baseline,
    read_checks,
)
from lorahub.hub.registry_rows import MANY, Answers, ask, refused_finding, registry_reference, report_of
from lorahub.hub.remote_files import RemoteFiles
from lorahub.hub.sources import Sources, is_of_an_adapter, local_place, may_look_up
from lorahub.hub.together import run_all
from lorahub.protocol.messages.checks import CheckedRevision, RefusedCheck

__all__ = ["LEVELS", "CheckEntry", "Checked", "Checker", "Checks"]

_READING = ("drift", "load", "eval")
"""Levels that read the adapter's weights."""
_ALONE = ("load", "eval")
"""Levels that run PyTorch, and so one adapter at a time."""

Evaluate = Callable[[str, str], list[Finding]]
"""Findings of an evaluation: of this adapter, on this base, by what people write."""
T = TypeVar("T")

_SAME = Report(Verdict.COMPATIBLE, (), 0, 0)


@dataclass(frozen=True, slots=True)
class CheckEntry:
    """An entry of what is to be checked: `adapter` as it is shown, `source` as it is opened. Without `bases`, it is the
    one that is locked, or that the adapter names. `broken` is why the entry itself can't be read.
    """

    adapter: str
    source: str
    bases: tuple[str, ...] = ()
    at: ProjectLine | None = None
    locked: LockedAdapter | None = None
    broken: Refusal | Unavailable | None = None

    @property
    def locked_base(self) -> str | None:
        return None if self.locked is None else self.locked.base

    def each(self, environment: Environment) -> list["CheckEntry"]:
        """Against each base alone."""
        return [replace(self, bases=(base,) if base else ()) for base in self.against(environment)]

    def against(self, environment: Environment) -> Sequence[str | None]:
        """None stands for the base that is locked, or that the adapter names."""
        return self.bases or environment.bases or [None]


@dataclass(frozen=True, slots=True)
class OpenedAdapter:
    """An adapter's files, wherever they are. `at` is the file of this project that a finding can point to."""

    name: str
    files: Files
    at: ProjectLine | None = None
    contents: Contents | None = None

    @property
    def yanked(self) -> str | None:
        """Why."""
        revision = None if self.contents is None else self.contents.revision
        return None if revision is None or revision.yanked is None else revision.yanked.reason


@dataclass(frozen=True, slots=True)
class _Subject:
    """An adapter that has been read, and what was found before it was held against any base."""

    asked: CheckEntry
    opened: OpenedAdapter
    adapter: Adapter
    before: tuple[Finding, ...]

    @property
    def facts(self) -> CheckedFacts:
        return CheckedFacts(self.adapter.format, self.adapter.method, tuple(self.adapter.ranks))


@dataclass(frozen=True, slots=True)
class _Against:
    """The bases that a name stands for, and those that came after the one that is locked."""

    name: str | None
    known: Sequence[BaseLayout]
    newer: Sequence[BaseLayout] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class _Question:
    """What the registry is asked for a row: an adapter, and among the `bases` of the request the row's `own`: the one
    that it is of, and behind it those that are newer.
    """

    environment: Environment
    adapter: str
    bases: tuple[str, ...]
    label: str | None
    own: tuple[str | None, ...]
    newer: tuple[str | None, ...] = ()
    """What the newer ones are called."""


class Checker:
    """Runs checks, and keeps the bases it has read."""

    def __init__(
        self,
        sources: Sources,
        *,
        level: str | None = None,
        runtimes: Sequence[str] = (),
        environments: Sequence[Environment] = (),
        progress: Progress | None = None,
        evaluate: Evaluate | None = None,
        project: ProjectChecks | None = None,
    ) -> None:
        """`evaluate` is what the level `eval` does beyond `load`; it needs a model, which this package has none of.

        Without `project`, it is what the project's file says. Raises `InvalidUsage`, `InvalidConfiguration`.
        """
        self._sources = sources
        self._evaluate = evaluate
        self._progress = progress or Silence()
        self._bases = Bases(sources)
        self._opened: dict[str, list[OpenedBase] | Refusal | Unavailable] = {}
        self._unreached: dict[str, RegistryUnreachable] = {}
        self._opening = threading.RLock()
        self._remotes: list[RemoteFiles] = []
        self.project = read_checks() if project is None else project
        asked = level or self.project.level or "shapes"
        self.level = deepest([asked, *(one.level for one in environments if one.level)])
        self.runtimes = tuple(dict.fromkeys(runtimes))
        self.environments = [replace(one, runtimes=(*one.runtimes, *self.runtimes)) for one in environments] or [
            Environment("", runtimes=self.runtimes)
        ]
        self._baseline = frozenset[str]() if self.project.baseline is None else read_baseline(self.project.baseline)
        for runtime in self.runtimes:
            parse_runtime(runtime)
        if self.level == "eval" and evaluate is None:
            raise InvalidUsage(
                "the level eval needs rows to evaluate on", hint="lorahub check … --level eval --data FILE"
            )
        if self.level == "load" and (missing := next(filter(_is_missing, ("peft", "torch", "transformers")), None)):
            raise InvalidConfiguration(
                f"--level load runs PEFT, and {missing} is not installed",
                hint="pip install 'lorahub-registry[train]'",
            )

    @property
    def bytes_read(self) -> int:
        """Of headers, over the network."""
        return sum(one.bytes_read for one in self._remotes) + sum(
            one.bytes_read for opened in self._opened.values() if isinstance(opened, list) for one in opened
        )

    # --- rows ---------------------------------------------------------------------------------------------------------

    def run(self, spec: str, bases: Sequence[str]) -> list[Checked]:
        """One result for each base; without any, against the base that the adapter names, if it can be found.

        Raises what reading them raises.
        """
        subject = self._read(CheckEntry(spec, spec, tuple(bases)))
        return [
            self._row(subject, self._against(subject, base), environment)
            for environment in self.environments
            for base in subject.asked.against(environment)
        ]

    def rows(self, asked: Sequence[CheckEntry], *, first: int = 0) -> list[Checked]:
        """Of every entry, whatever it is: one for each environment and base. `first` is how many others there are
        before them.
        """
        found = self._from_the_registry(asked)
        left = [number for number in range(len(asked)) if number not in found]

        def act(number: int) -> None:
            found[number] = list(self._rows_of(asked[number], first + number))

        alone = left if self.level in _ALONE else left[:1]
        for number in alone:
            act(number)
        run_all([lambda number=number: act(number) for number in left[len(alone) :]])  # type: ignore[misc]
        return [checked for number in range(len(asked)) for checked in found[number]]

    def _rows_of(self, asked: CheckEntry, number: int) -> Iterator[Checked]:
        subject = _told(lambda: self._read(asked))
        for environment in self.environments:
            for base in asked.against(environment):
                if isinstance(subject, Finding):
                    yield self._unread(asked, base, subject, environment)
                    continue
                against = _told(lambda base=base: self._against(subject, base))  # type: ignore[misc]
                name = base or asked.locked_base or subject.adapter.claim.name
                made = against if isinstance(against, Finding) else _told(self._making(subject, against, environment))
                row = self._without_base(subject, name, made, environment) if isinstance(made, Finding) else made
                yield self._with_room(row, environment, number)

    def _making(self, subject: _Subject, against: _Against, environment: Environment) -> Callable[[], Checked]:
        return lambda: self._row(subject, against, environment)

    def _unread(self, asked: CheckEntry, base: str | None, found: Finding, environment: Environment) -> Checked:
        report = Report(Verdict.UNDECIDED, (found,), 0, 0)
        row = Checked(asked.adapter, base or asked.locked_base, report, None, asked.at or _lock_line(asked))
        return self._set_aside(replace(row, environment=environment.name or None, wanted=environment.runtimes))

    def _without_base(self, subject: _Subject, name: str | None, found: Finding, environment: Environment) -> Checked:
        """The row of an adapter whose base couldn't be looked at; its own faults count all the same."""
        report = check(subject.adapter, None, level=self.level)
        own = [one for one in report.findings if one.rule != "LH106"]
        return self._finished(subject, name, report, [*own, *subject.before, found], None, environment)

    def _with_room(self, row: Checked, environment: Environment, number: int) -> Checked:
        if environment.max_adapters is None or number < environment.max_adapters:
            return row
        told = f"{environment.name} has room for {environment.max_adapters} adapters; this is number {number + 1}"
        kept, ignored = self._split(row, [finding("LH507", told)])
        return replace(row, unmet=(*row.unmet, *kept), ignored=(*row.ignored, *ignored))

    # --- rows that the registry knows ---------------------------------------------------------------------------------

    def _from_the_registry(self, asked: Sequence[CheckEntry]) -> dict[int, list[Checked]]:
        """By their numbers, the rows of entries that the registry tells of: one request for all of the same bases."""
        wanted = {parse_runtime(text) for one in self.environments for text in one.runtimes}
        if self.level != "shapes" or not wanted.issubset(newest()):
            return {}  # it tells of the newest versions alone
        questions = {number: found for number, one in enumerate(asked) if (found := self._questions(one))}
        if len(questions) < MANY:
            return {}
        groups: dict[tuple[str, ...], dict[str, None]] = {}
        for one in (one for of_one in questions.values() for one in of_one):
            groups.setdefault(one.bases, {})[one.adapter] = None
        runtimes = {one.runtime.name for one in wanted}
        answers = {bases: ask(self._sources, list(adapters), bases, runtimes) for bases, adapters in groups.items()}
        rows = {
            number: [self._answered(asked[number], number, one, answers[one.bases]) for one in of_one]
            for number, of_one in questions.items()
        }
        return {
            number: [row for row in found if row is not None] for number, found in rows.items() if None not in found
        }

    def _questions(self, asked: CheckEntry) -> "list[_Question]":
        """What the registry can be asked for an entry's rows; nothing where it can't tell of all of them."""
        adapter = None if asked.broken is not None else registry_reference(asked.source, self._sources)
        if adapter is None:
            return []
        found: list[_Question] = []
        for environment in self.environments:
            named = [base for base in asked.against(environment) if base is not None]
            known = [registry_reference(base, self._sources) for base in named]
            specs = tuple(spec for spec in known if spec is not None)
            if len(specs) < len(named):
                return []
            pairs = zip(named, specs, strict=True)
            found += [_Question(environment, adapter, specs, label, (spec,)) for label, spec in pairs]
            if not named and asked.locked_base is None:
                found.append(_Question(environment, adapter, (), None, (None,)))
            elif not named:
                pinned = self._pinned_bases(asked)
                specs = tuple(f"sha256:{base.weights_digest}" for base in pinned)
                if not pinned:
                    return []
                newer = tuple(base.revision for base in pinned[1:])
                found.append(_Question(environment, adapter, specs, asked.locked_base, specs, newer))
        return found

    def _pinned_bases(self, asked: CheckEntry) -> list[BaseLayout]:
        """The base that is locked, and those that are newer; none where one can't be asked for by its digest."""
        locked = asked.locked
        assert locked is not None
        against = _told(lambda: self._pinned(locked, str(locked.base)))
        if isinstance(against, Finding) or against.findings or len(against.known) != 1:
            return []
        bases = [*against.known, *against.newer]
        return bases if all(base.weights_digest for base in bases) else []

    def _answered(self, asked: CheckEntry, number: int, question: "_Question", answers: Answers) -> Checked | None:
        """The row of an answer; None where it has to be found out here."""
        told = [answers.get((question.adapter, base)) for base in question.own]
        first, *newer = told
        if isinstance(first, RefusedCheck):
            if first.code == BaseNotFound.code:
                return None  # the adapter's own faults count all the same
            row = self._unread(asked, question.label, refused_finding(first), question.environment)
            return self._with_room(row, question.environment, number)
        report = None if first is None else report_of(first)
        if first is None or report is None or any(not isinstance(one, CheckedRevision) for one in newer):
            return None
        if asked.locked is not None and asked.locked.digest != f"sha256:{first.digest}":
            return None
        label = question.label or first.base
        facts = CheckedFacts(first.facts.format, first.facts.method, first.facts.ranks)
        row = self._begun(asked, label, report, facts, asked.at, question.environment)
        findings = [*report.findings, *_yanked(asked, first.yanked)]
        if self._split(row, findings)[1]:
            return None
        row = self._completed(row, replace(report, findings=tuple(worst_first(findings))), question.environment)
        later = tuple(
            AtRevision(revision, Verdict(one.verdict), one.matched, one.of)
            for revision, one in zip(question.newer, newer, strict=True)
            if isinstance(one, CheckedRevision)
        )
        return self._with_room(replace(row, newer=later), question.environment, number)

    # --- locks --------------------------------------------------------------------------------------------------------

    def locks(self, asked: Sequence[CheckEntry], base: str | None) -> list[tuple[Checked, LockedAdapter | None]]:
        """What each reference stands for now, and the base that it is held against; beside it the row that says so, or
        why it can't be told.
        """
        found: list[tuple[Checked, LockedAdapter | None]] = [(Checked("", None, _SAME), None)] * len(asked)

        def act(number: int) -> None:
            one = asked[number]
            made = _told(lambda: self._locked(one, base or one.locked_base))
            row = self._unread(one, base, made, Environment("")) if isinstance(made, Finding) else _as_locked(one, made)
            found[number] = (row, None if isinstance(made, Finding) else made)

        run_all([lambda number=number: act(number) for number in range(len(asked))])  # type: ignore[misc]
        return found

    def _locked(self, asked: CheckEntry, base: str | None) -> LockedAdapter:
        """Raises what reading them raises."""
        subject = self._read(replace(asked, locked=None))
        contents = subject.opened.contents
        if contents is None:
            raise InvalidUsage(f"{asked.adapter} is here; what is locked is on a registry or the Hub")
        against = self._against(replace(subject, asked=replace(asked, locked=None)), base)
        entry = LockedAdapter(asked.adapter, contents.commit, digest_of(contents), base)
        if not against.known:
            return entry
        judged = [check(subject.adapter, one, level=self.level).at(one) for one in against.known]
        best = against.known[closest(judged)]
        digest = digest_of_base(best)
        return replace(entry, base=against.name, base_revision=best.revision, base_digest=digest)

    def verified(self, entries: Sequence[CheckEntry]) -> list[Checked]:
        """Whether each locked reference leads to the locked files: same, LH503, or LH506 where it can't be told."""
        found: list[Checked] = [Checked("", None, _SAME)] * len(entries)

        def act(number: int) -> None:
            found[number] = self._verified(entries[number])

        run_all([lambda number=number: act(number) for number in range(len(entries))])  # type: ignore[misc]
        return found

    def _verified(self, asked: CheckEntry) -> Checked:
        entry = asked.locked
        now = _told(lambda: self._contents(asked))
        if isinstance(now, Finding) or entry is None:
            assert isinstance(now, Finding)  # what isn't locked is broken, and says so
            return self._unread(asked, None, now, Environment(""))
        row = Checked(asked.adapter, entry.base, _SAME, at=asked.at)
        differs = [
            Evidence(what, now_, before)
            for what, before, now_ in (
                ("commit", entry.commit, now.commit),
                ("digest", entry.digest, digest_of(now)),
            )
            if before != now_
        ]
        if not differs:
            return row
        told = f"{asked.adapter} leads to other files now"
        report = replace(_SAME, verdict=Verdict.INCOMPATIBLE, findings=(finding("LH503", told, differs),))
        return self._set_aside(replace(row, report=report))

    def _contents(self, asked: CheckEntry) -> Contents:
        if asked.broken is not None:
            raise asked.broken
        opened = self._asking(asked.source, lambda: self._sources.open(asked.source))
        if isinstance(opened, FolderFiles):
            raise InvalidUsage(f"{asked.source} is here; what is locked is on a registry or the Hub")
        return opened.contents

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read(self, asked: CheckEntry) -> _Subject:
        """Raises what is wrong with the entry, and what reading it raises."""
        if asked.broken is not None:
            raise asked.broken
        opened = self._asking(asked.source, lambda: self.adapter(asked.source))
        adapter = self._asking(asked.source, lambda: read_adapter(opened.files))
        return _Subject(asked, opened, adapter, tuple(self._beside(asked, opened, adapter)))

    def _asking(self, spec: str, act: Callable[[], T]) -> T:
        """What couldn't be reached once isn't tried again for every other entry."""
        endpoint = self._sources.endpoint_of(spec)
        if endpoint is not None and endpoint in self._unreached:
            raise self._unreached[endpoint]
        try:
            return act()
        except RegistryUnreachable as fault:
            if endpoint is not None:
                self._unreached[endpoint] = fault
            raise

    def adapter(self, spec: str) -> OpenedAdapter:
        """A folder, a file, a reference of a registry or of the Hub. Raises what `Sources` does."""
        if self.level in _READING:
            fetched = self._sources.fetch(spec, is_of_an_adapter)
            files, contents = HashedFolder(fetched.folder), fetched.contents
            return OpenedAdapter(spec, files, _pointed(spec, files), contents)
        opened = self._sources.open(spec)
        if isinstance(opened, FolderFiles):
            return OpenedAdapter(spec, opened, _pointed(spec, opened))
        self._remotes.append(opened)
        return OpenedAdapter(spec, opened, contents=opened.contents)

    def bases(self, spec: str) -> list[BaseLayout]:
        """All that the name stands for, newest first. What couldn't be read once is as it was for every adapter."""
        with self._opening:
            if spec not in self._opened:
                self._opened[spec] = self._open_base(spec)
            opened = self._opened[spec]
        if isinstance(opened, Refusal | Unavailable):
            raise opened
        return [one.base for one in opened]

    def _open_base(self, spec: str) -> list[OpenedBase] | Refusal | Unavailable:
        place = local_place(spec)
        try:
            if self.level == "drift" and place is not None:
                folder = self._sources.fetch(place).folder
                return [OpenedBase(hash_folder(folder, self._progress), "folder", files=HashedFolder(folder))]
            return self._asking(spec, lambda: self._bases.revisions(spec))
        except Refusal as refusal:
            return refusal
        except Unavailable as fault:
            return fault

    def _beside(self, asked: CheckEntry, opened: OpenedAdapter, adapter: Adapter) -> Iterator[Finding]:
        yield from _yanked(asked, opened.yanked)
        if asked.locked is not None and opened.contents is not None:
            now = digest_of(opened.contents)
            if now != asked.locked.digest:
                told = "the commit that is locked has other files than the lock says"
                yield finding("LH503", told, [Evidence("digest", now, asked.locked.digest)])
        if self.level in _READING and adapter.weights_file is not None:
            yield from scan_weights(opened.files, adapter)

    # --- which bases --------------------------------------------------------------------------------------------------

    def _against(self, subject: _Subject, base: str | None) -> _Against:
        """Raises what reading a base raises."""
        if base is not None:
            return _Against(base, self.bases(base))
        locked = subject.asked.locked
        if locked is not None and locked.base is not None:
            return self._pinned(locked, locked.base)
        name, known = self._recorded(subject.adapter)
        return _Against(name, known)

    def _pinned(self, locked: LockedAdapter, name: str) -> _Against:
        """The base that is locked, by its digest, and those that were registered after it, or follow it on the Hub."""
        known = self.bases(name)
        if locked.base_digest is None:
            return _Against(name, known)
        for number, base in enumerate(known):
            if is_digest_of(locked.base_digest, base):
                return _Against(name, [base], known[:number])
        if locked.base_revision is not None and local_place(name) is None:
            [pinned, *_] = self.bases(f"{name.partition('@')[0]}@{locked.base_revision}")
            if is_digest_of(locked.base_digest, pinned):
                return _Against(name, [pinned], known)
        evidence = [Evidence(name, digest_of_base(known[0]), locked.base_digest)]
        return _Against(name, known[:1], findings=(finding("LH503", f"{name} is another base now", evidence),))

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
            if "--level metadata" not in str(error.hint):
                error.hint = f"{error.hint}; --base names the base, --level metadata looks for none"
            raise

    # --- one adapter and one base -------------------------------------------------------------------------------------

    def _row(self, subject: _Subject, against: _Against, environment: Environment) -> Checked:
        """Against the base of this name that it fits best, with the verdicts for the others."""
        adapter, known = subject.adapter, against.known
        if len(known) < 2:
            made = self._one(subject, against, known[0] if known else None, environment)
        else:
            judged = [check(adapter, base, level=self.level).at(base) for base in known]
            best = closest(judged)
            made = self._one(subject, against, known[best], environment)
            judged[best] = made.report.at(known[best])
            made = replace(made, report=replace(made.report, revisions=tuple(judged)))
        return replace(made, newer=tuple(self._newer(adapter, against.newer)))

    def _newer(self, adapter: Adapter, bases: Iterable[BaseLayout]) -> Iterator[AtRevision]:
        return (check(adapter, base).at(base) for base in bases)

    def _one(self, subject: _Subject, against: _Against, base: BaseLayout | None, environment: Environment) -> Checked:
        adapter, opened = subject.adapter, subject.opened
        trained_on = _told(lambda: self._trained_on(adapter, base))
        recorded, lacks = (None, [trained_on]) if isinstance(trained_on, Finding) else (trained_on, [])
        report = check(adapter, base, level=self.level, recorded=recorded)
        findings = [*report.findings, *subject.before, *against.findings, *lacks]
        if base is not None and self.level in _READING:
            findings += self._beside_weights(subject, base)
        if base is not None:
            findings += self._by_running(opened, against.name, base, findings)
        return self._finished(subject, against.name, report, findings, base, environment)

    def _beside_weights(self, subject: _Subject, base: BaseLayout) -> Iterator[Finding]:
        """What has changed of the base beside its weights, where its files can be read."""
        opened = (one for found in self._opened.values() if isinstance(found, list) for one in found)
        files = next((one.files for one in opened if one.base is base), None)
        if files is not None:
            stated = read_stated_base(subject.opened.files)
            yield from differences_beside(stated, subject.opened.files, files)

    def _by_running(
        self, opened: OpenedAdapter, name: str | None, base: BaseLayout, before: Sequence[Finding]
    ) -> list[Finding]:
        """What the levels that run a model find; LH506 where they can't be run."""
        if self.level == "load":
            from lorahub.hub.loading import load_findings

            found = _told(lambda: load_findings(opened.files, base))
            return [found] if isinstance(found, Finding) else found
        if self._evaluate is None or name is None or has_errors(before):
            return []
        evaluate = self._evaluate
        found = _told(lambda: evaluate(opened.name, name))
        return [found] if isinstance(found, Finding) else found

    def _finished(
        self,
        subject: _Subject,
        name: str | None,
        report: Report,
        findings: Sequence[Finding],
        base: BaseLayout | None,
        environment: Environment,
    ) -> Checked:
        """The row: what the project sets aside is taken out, the verdict follows from the rest, and what is asked
        beside is told.
        """
        asked = subject.asked
        at = asked.at or subject.opened.at or _lock_line(asked)
        row = self._begun(asked, name, report, subject.facts, at, environment)
        kept, ignored = self._split(row, findings)
        if kept != list(report.findings):
            report = recheck(report, kept, subject.adapter, base)
        if report.verdict is not Verdict.INCOMPATIBLE and any(found.rule == "LH506" for found in kept):
            report = replace(report, verdict=Verdict.UNDECIDED)
        runtimes = (*newest(), *map(parse_runtime, environment.runtimes))
        judged = judge_runtimes(subject.adapter, base, report.findings, runtimes, refusal)
        report = replace(report, runtimes=tuple(dict.fromkeys(judged)))
        return self._completed(replace(row, ignored=tuple(ignored)), report, environment)

    def _begun(
        self,
        asked: CheckEntry,
        name: str | None,
        report: Report,
        facts: CheckedFacts,
        at: ProjectLine | None,
        environment: Environment,
    ) -> Checked:
        wanted = environment.runtimes
        return Checked(asked.adapter, name, report, facts, at, wanted=wanted, environment=environment.name or None)

    def _completed(self, row: Checked, report: Report, environment: Environment) -> Checked:
        """With what is asked beside that it fits, and a reason where nothing else tells why it is undecided."""
        if report.verdict is Verdict.UNDECIDED and not report.findings and not row.ignored:
            report = replace(report, findings=(_untold(self.level),))
        assert row.facts is not None
        unmet, ignored = self._split(row, list(_unmet(report, row.facts, environment)))
        return replace(row, report=report, unmet=tuple(unmet), ignored=(*row.ignored, *ignored))

    def _set_aside(self, row: Checked) -> Checked:
        kept, ignored = self._split(row, row.report.findings)
        is_same = row.verdict is Verdict.INCOMPATIBLE and not has_errors(kept)
        verdict = Verdict.COMPATIBLE if is_same else row.verdict
        report = replace(row.report, verdict=verdict, findings=tuple(kept))
        return replace(row, report=report, ignored=tuple(ignored))

    def _trained_on(self, adapter: Adapter, base: BaseLayout | None) -> BaseLayout | None:
        """The very base that lorahub.json records, where the registry has its digests: what drift is measured from."""
        if self.level != "drift" or adapter.claim.weights is None or base is None or same_weights(adapter, base):
            return None
        try:
            recorded = self.bases(f"sha256:{adapter.claim.weights}")
        except (NotFound, InvalidUsage):
            return None
        return recorded[0]

    def _split(self, row: Checked, findings: Sequence[Finding]) -> tuple[list[Finding], list[tuple[Finding, str]]]:
        """What counts, and what is set aside with the reason."""
        kept: list[Finding] = []
        ignored: list[tuple[Finding, str]] = []
        for found, fingerprint in zip(findings, fingerprints(row, findings), strict=True):
            rule = next((one for one in self.project.ignores if not one.is_expired and one.covers(row, found)), None)
            if rule is not None:
                ignored.append((found, rule.reason))
            elif fingerprint in self._baseline:
                ignored.append((found, IN_THE_BASELINE))
            else:
                kept.append(found)
        return kept, ignored


def _told(act: Callable[[], T]) -> T | Finding:
    """What it makes, or LH506 with what kept it from being made."""
    try:
        return act()
    except Refusal as refusal:
        return obstacle(refusal)
    except (BlobDamaged, Unavailable, OSError) as fault:
        return obstacle(fault)


def _yanked(asked: CheckEntry, reason: str | None) -> list[Finding]:
    if reason is None:
        return []
    return [finding("LH502", f"{asked.adapter} was yanked: {reason}", [Evidence(asked.adapter)])]


def _lock_line(asked: CheckEntry) -> ProjectLine | None:
    place = local_place(asked.source)
    return None if place is None else ProjectLine(place.as_posix())


def _pointed(spec: str, files: FolderFiles) -> ProjectLine | None:
    """The file of the project that findings are shown at."""
    place = local_place(spec)
    if place is None:
        return None
    pointed = next((name for name in ("adapter_config.json", *files.sizes) if name in files.sizes), None)
    return ProjectLine((place / pointed if pointed is not None and place.is_dir() else place).as_posix())


def _is_missing(module: str) -> bool:
    return importlib.util.find_spec(module) is None


def _untold(level: str) -> Finding:
    told = "names and digests don't tell, and no shape is compared" if level == "metadata" else "nothing tells it"
    return finding("LH506", f"whether it fits can't be told at the level {level}: {told}")


def _as_locked(asked: CheckEntry, entry: LockedAdapter) -> Checked:
    return Checked(asked.adapter, entry.base, _SAME, at=asked.at)


# --- what is in a lock ------------------------------------------------------------------------------------------------


def asked_in(
    place: Path, sources: Sources, bases: Sequence[str] = (), *, pinned: bool = True
) -> tuple[Lock, list[CheckEntry]]:
    """The entries of a lock file, each with its line; `pinned` to what is locked, else as what they lead to now.

    Raises `InvalidConfiguration` for a file that is none.
    """
    lock = read_lock(place)
    asked = []
    for line, entry in lock.entries:
        at = ProjectLine(place.as_posix(), line)
        if isinstance(entry, BrokenEntry):
            asked.append(CheckEntry(entry.name, entry.name, tuple(bases), at, broken=entry.fault))
        else:
            source = _at_registry(entry.pinned if pinned else entry.reference, lock.registry, sources)
            asked.append(CheckEntry(entry.reference, source, tuple(bases), at, entry))
    return lock, asked


def _at_registry(reference: str, registry: str | None, sources: Sources) -> str:
    """With its host, where the lock was made at another registry than the one that is asked here."""
    is_elsewhere = registry is not None and registry.rstrip("/") != sources.endpoint and ":" not in reference
    return f"lorahub://{urlsplit(registry).netloc!s}/{reference}" if is_elsewhere else reference


# --- what is asked beside that it fits --------------------------------------------------------------------------------


def _unmet(report: Report, facts: CheckedFacts, environment: Environment) -> Iterator[Finding]:
    """What doesn't fit the base is loaded right nowhere, and isn't told again."""
    if report.verdict is Verdict.INCOMPATIBLE:
        return
    for runtime in environment.runtimes:
        yield from _of_runtime(runtime, report)
    limit, rank = environment.max_lora_rank, max(facts.ranks, default=0)
    if limit is not None and rank > limit:
        told = f"rank {rank}; {environment.name} takes at most {limit} (max_lora_rank)"
        evidence = [Evidence("rank", str(rank), f"at most {limit}")]
        yield finding("LH401", told, evidence, severity=Severity.ERROR, runtime=environment.name)


def _of_runtime(asked: str, report: Report) -> Iterator[Finding]:
    judged = at_runtime(report, asked)
    reasons = () if judged is None else judged.reasons
    said = "; ".join(message for _, message in reasons)
    evidence = [Evidence(asked, message) for _, message in reasons]
    if judged is None or judged.loads is Loads.UNKNOWN:
        told = f"whether {asked} loads it can't be told" + (f": {said}" if said else "")
        yield finding("LH506", told, evidence, runtime=asked)
    elif judged.loads in (Loads.NO, Loads.WRONG):
        does = "can't load it" if judged.loads is Loads.NO else "loads it, and computes something else"
        rule = reasons[0][0] if reasons else "LH406"
        hint = f"needs: {judged.needs}" if judged.needs else None
        yield finding(rule, f"{asked} {does}: {said}", evidence, hint=hint, severity=Severity.ERROR, runtime=asked)


def at_runtime(report: Report, asked: str) -> RuntimeVerdict | None:
    """What the report says of a runtime, asked for as people write it: vllm@0.32."""
    name = str(parse_runtime(asked))
    return next((judged for judged in report.runtimes if judged.name == name), None)
