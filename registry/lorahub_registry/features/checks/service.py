"""Checks: what an adapter is, measured from its header, and whether it fits the base it names or any other.

A verdict is a function of the adapter's bytes, the base's digests and the set of rules: it is kept under these three,
and made again only where one of them changed.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lorahub.adapters.adapter import Adapter, BaseClaim
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.check import AtRevision, Report, check, closest, recheck
from lorahub.adapters.findings import Verdict as VerdictOf
from lorahub.adapters.manifest import MANIFEST, measured_facts
from lorahub.adapters.reader import CONFIG, read_adapter
from lorahub.adapters.rules import RULE_SET, Severity
from lorahub.adapters.runtimes import judge_runtimes, newest, older
from lorahub.adapters.weights import weight_findings
from lorahub.conversion import refusal
from lorahub.errors import AdapterDoesNotFit, BaseNotFound, InvalidAdapter, InvalidInput, NotFound, Refusal
from lorahub.protocol.digests import CommitId, Sha256
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.references import LATEST, Reference

from lorahub_registry.core.access import OpenedCommit, OpenedRepository, looking, reading
from lorahub_registry.core.accounts.permissions import Action, Principal
from lorahub_registry.core.audit.service import record_act
from lorahub_registry.core.blobs.service import Blob, known_blobs
from lorahub_registry.core.repositories.service import (
    Repository,
    permitted,
    repositories_by_id,
    visible_namespaces,
)
from lorahub_registry.core.revisions.service import files_of
from lorahub_registry.features.bases import service as bases
from lorahub_registry.features.bases.revision_files import ReadableFile, RevisionFiles
from lorahub_registry.features.bases.service import FoundBase
from lorahub_registry.features.checks import queries
from lorahub_registry.features.checks.queries import Judged, Recorded, Verdict
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session

__all__ = ["Judged", "Recorded"]

logger = logging.getLogger("lorahub")

POLICIES = ("refuse", "warn")
MOST_PAIRS = 1000  # of one request: adapters × bases
MOST_DIGESTS = 1000
_MOST_PLACES = 2000
_INCOMPLETE = frozenset({"LH308"})  # files come one commit at a time with some clients
_OWN_FILES = (CONFIG, MANIFEST)


# --- one adapter ------------------------------------------------------------------------------------------------------


def judge(
    backend: Backend, principal: Principal, files: Mapping[str, ReadableFile], blobs: Mapping[Sha256, Blob]
) -> Judged | None:
    """Facts and verdict of the adapter in these files; None where they are none, or not complete yet."""
    held = RevisionFiles(backend, files, blobs)
    adapter = read_adapter(held)
    if not _is_adapter(adapter, held):
        return None
    return _judged(adapter, held, bases_of(backend, principal, adapter.claim))


def _is_adapter(adapter: Adapter, files: RevisionFiles) -> bool:
    """A base model is read as one of no known format; so is a repository with nothing but a card."""
    if any(finding.rule in _INCOMPLETE for finding in adapter.findings):
        return False
    return adapter.has_format or CONFIG in files.sizes


def bases_of(backend: Backend, principal: Principal, claim: BaseClaim) -> list[FoundBase]:
    """The bases that an adapter may mean, newest first: the one of its weights' digest, or of its name and revision;
    without these all that go by its name; else the one of its layout.

    Empty where none of these is known here. Raises what a storage that is away does: that a base can't be read now
    doesn't mean that it isn't there.
    """
    if claim.weights and (found := _found(backend, principal, f"sha256:{claim.weights}")):
        return [found]
    name, _, written = (claim.name or "").partition("@")
    revision = claim.revision or written
    if name and revision and (found := _found(backend, principal, name, revision)):
        return [found]
    if name and (known := bases.find_all(backend, principal, name)):
        return known
    found = _found(backend, principal, f"sha256:{claim.layout}") if claim.layout else None
    return [found] if found else []


def _found(backend: Backend, principal: Principal, name: str, revision: str | None = None) -> FoundBase | None:
    try:
        return bases.find(backend, principal, name, revision)
    except BaseNotFound:
        return None


def base_of(backend: Backend, principal: Principal, adapter: Adapter) -> FoundBase | None:
    """The one of `bases_of` that the adapter fits best."""
    found = bases_of(backend, principal, adapter.claim)
    if len(found) < 2:
        return found[0] if found else None
    return found[closest([check(adapter, one.base).at(one.base) for one in found])]


def _judged(adapter: Adapter, files: RevisionFiles, bases_of_it: Sequence[FoundBase]) -> Judged:
    found, report = _closest_report(adapter, files, bases_of_it)
    facts = _facts(adapter, report)
    return Judged(
        digest=adapter_digest(files, adapter),
        method=adapter.method,
        ranks=adapter.ranks,
        base_name=adapter.claim.name,
        base_id=None if found is None else found.id,
        verdict=report.verdict.value,
        rule_set=RULE_SET,
        facts=facts,
        report=report.as_json(),
        labels=list(_labels(adapter, report, None if found is None else found.base)),
    )


def _closest_report(
    adapter: Adapter, files: RevisionFiles, found: Sequence[FoundBase]
) -> tuple[FoundBase | None, Report]:
    """The base that the adapter fits best, and what is said of it, and beside it of the others."""
    if not found:
        return None, _report(adapter, files, None)
    reports = [_report(adapter, files, one.base) for one in found]
    judged = [report.at(one.base) for report, one in zip(reports, found, strict=True)]
    best = closest(judged)
    return found[best], replace(reports[best], revisions=tuple(judged) if len(judged) > 1 else ())


def _report(adapter: Adapter, files: RevisionFiles, base: BaseLayout | None) -> Report:
    report = check(adapter, base)
    inspection = files.inspection(adapter.weights_file or "")
    nonfinite, zero = inspection.get("nonfinite"), inspection.get("zero")
    more = weight_findings(
        adapter,
        nonfinite=nonfinite if isinstance(nonfinite, dict) else {},
        zero=zero if isinstance(zero, list) else [],
    )
    report = recheck(report, [*report.findings, *more], adapter, base)
    return replace(report, runtimes=tuple(judge_runtimes(adapter, base, report.findings, newest(), refusal)))


def adapter_digest(files: RevisionFiles, adapter: Adapter) -> str:
    """sha256 over the files that make the adapter, without its card."""
    own = sorted({*_OWN_FILES, adapter.weights_file or ""} & set(files.sizes))
    return hashlib.sha256("".join(f"{path}\t{files.sha256(path)}\n" for path in own).encode()).hexdigest()


def _facts(adapter: Adapter, report: Report) -> dict[str, Any]:
    claim = adapter.claim
    return {
        **_shown_facts(adapter),
        "base": {
            "name": claim.name,
            "revision": claim.revision,
            "layout": claim.layout,
            "weights": claim.weights,
        },
        "options": _options(adapter),
        "mergeable": adapter.is_mergeable,
        "matched": report.matched,
        "runtimes": {judged.runtime: judged.loads.value for judged in report.runtimes},
    }


def _options(adapter: Adapter) -> dict[str, Any]:
    """What changes the arithmetic or who can load it, as far as it is on."""
    scaling = adapter.scaling
    switches = {
        "rslora": scaling is not None and scaling.is_root,
        "dora": adapter.is_dora,
        "patterns": scaling is not None and scaling.has_patterns,
        "layer_replication": [list(layers) for layers in adapter.replication] or None,
        "init": adapter.start,
        "alpha": None if scaling is None else scaling.alpha,
    }
    return {name: value for name, value in switches.items() if value not in (None, False)}


def _shown_facts(adapter: Adapter) -> dict[str, Any]:
    """What was measured, and beside it what its maker states of the training."""
    return {**measured_facts(adapter), "training": None if adapter.training is None else dict(adapter.training)}


def _labels(adapter: Adapter, report: Report, base: BaseLayout | None) -> Iterator[str]:
    yield f"method:{adapter.method}"
    yield f"format:{adapter.format}"
    yield f"verdict:{report.verdict.value}"
    for target in measured_facts(adapter)["targets"]:
        yield f"target:{target}"
    yield from (f"fits:{judged.runtime}" for judged in report.runtimes if judged.is_usable)
    for judged in (*report.runtimes, *judge_runtimes(adapter, base, report.findings, older(), refusal)):
        if judged.is_usable and judged.version is not None:
            yield f"fits:{judged.runtime}@{judged.version}"


def tags_of(judged: Judged) -> list[str]:
    """What the catalog shows of it as tags: rank and who can load it."""
    ranks = [f"rank:{rank}" for rank in list(judged.ranks)[:8]]
    return [*ranks, *(label for label in judged.labels if label.startswith("fits:") and "@" not in label)]


# --- the gate ---------------------------------------------------------------------------------------------------------


def admit(backend: Backend, repository: Repository, judged: Judged, *, changed: Iterable[str]) -> None:
    """Refuses an adapter that is malformed, or doesn't fit the base it names.

    Raises `InvalidAdapter` and `AdapterDoesNotFit` with every finding. Only what the commit changes is judged: a card
    can be mended beside an adapter that came before a rule did.
    """
    if not any(path in _OWN_FILES or path.endswith((".safetensors", ".gguf")) for path in changed):
        return
    findings = [found for found in judged.report["findings"] if found["severity"] == Severity.ERROR.value]
    if not findings:
        return
    with backend.database.read() as session:
        policy = queries.policy_of(session, repository.id)
    first = findings[0]
    shown = [{**found, "path": found["rule"]} for found in findings]
    if any(found["rule"] in _MALFORMED for found in findings):
        raise InvalidAdapter(
            f"the adapter can't be published: {first['rule']} {first['message']}", hint=first["hint"], findings=shown
        )
    if policy == "refuse":
        raise AdapterDoesNotFit(
            f"the adapter doesn't fit {judged.base_name}: {first['rule']} {first['message']}",
            hint=f"{first['hint']}; to publish it all the same: lorahub push --policy warn",
            findings=shown,
        )


_MALFORMED = frozenset(
    {"LH203", "LH206", "LH208", "LH209", "LH212", "LH213", "LH215", "LH220", "LH301", "LH302", "LH304", "LH305"}
)
"""What is wrong with the adapter itself, whatever the base."""


def record(session: Session, commit_id: str, judged: Judged) -> None:
    """Inside the transaction that makes the commit."""
    queries.insert_facts(session, commit_id, judged)


def recorded_of(session: Session, commit_ids: Sequence[CommitId]) -> dict[CommitId, Recorded]:
    """Of those that are adapters. Whoever asks has decided that the caller may see them."""
    return queries.recorded_of(session, commit_ids)


def report_of(session: Session, commit_id: CommitId) -> dict[str, Any]:
    """Of the check when it was pushed. Whoever asks has decided that the caller may see it."""
    return queries.report_of(session, commit_id)


def policy_of(opened: OpenedRepository) -> str:
    return queries.policy_of(opened.session, opened.id)


def set_policy(backend: Backend, principal: Principal, name: RepositoryName, policy: str) -> str:
    """`refuse` or `warn`: what happens to an adapter that doesn't fit its base. Raises as `permitted`."""
    if policy not in POLICIES:
        raise InvalidInput(f"no policy is called {policy[:60]!r}", hint=f"choose one of: {', '.join(POLICIES)}")
    with backend.database.write() as session:
        repository = permitted(session, principal, name, Action.MANAGE)
        if queries.policy_of(session, repository.id) != policy:
            queries.set_policy(session, repository.id, policy)
            record_act(
                session,
                principal,
                "repository.check_policy",
                repository.full_name,
                policy=policy,
            )
    return policy


# --- asking -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checked:
    """An answer about one adapter and one base. `is_kept`: the verdict was known already."""

    adapter: str
    commit: str
    base: str | None
    verdict: str
    report: dict[str, Any]
    facts: Mapping[str, Any]
    is_kept: bool = False
    digest: str | None = None
    """The revision's."""
    yanked: str | None = None
    """Why, where it was."""


def check_revision(
    backend: Backend, principal: Principal, name: RepositoryName, revision: str, base: str | None
) -> Checked:
    """The adapter of a revision against a base, or against the one it names. Raises `NotFound` where it is none."""
    opened = _open(backend, principal, name, revision)
    if base is not None:
        return _against_all(backend, opened, base, _bases_called(backend, principal, base))
    found = bases_of(backend, principal, opened.adapter.claim)
    if not found:
        judged = _judged(opened.adapter, opened.files, [])
        return Checked(opened.name, opened.commit, judged.base_name, judged.verdict, judged.report, judged.facts)
    return _against_all(backend, opened, opened.adapter.claim.name or str(found[0].base.name), found)


def kept_verdicts(
    session: Session, commits: Sequence[CommitId], base_ids: Sequence[int]
) -> dict[tuple[CommitId, int], str]:
    """Verdicts that are known already, by commit and base. Nothing is checked for it.

    One follows from the bytes of an adapter and a base and from nothing else. So whoever may see both may see it: that
    it is known says that these bytes were checked, not in whose repository.
    """
    recorded = queries.recorded_of(session, commits)
    digests = sorted({one.digest for one in recorded.values()})
    known = queries.verdicts_of(session, digests, base_ids, RULE_SET)
    pairs = ((commit, one.digest, base_id) for commit, one in recorded.items() for base_id in base_ids)
    return {
        (commit, base_id): known[digest, base_id] for commit, digest, base_id in pairs if (digest, base_id) in known
    }


def check_all(
    backend: Backend, principal: Principal, references: Sequence[tuple[RepositoryName, str]], wanted: Sequence[str]
) -> list[Checked]:
    """Every adapter against every base; without bases, against the one each names.

    It may be a thousand checks, so it takes an account. Raises `NotAuthenticated`, `InvalidInput` for more than
    `MOST_PAIRS`, and what opening each raises.
    """
    principal.require_account()
    _refuse_too_many(len(references), max(1, len(wanted)))
    if not wanted:
        return list(_against_their_own(backend, principal, references))
    found = [(base, _bases_called(backend, principal, base)) for base in wanted]
    _refuse_too_many(len(references), sum(len(named) for _, named in found))
    opened = [_open(backend, principal, name, revision) for name, revision in references]
    return [_against_all(backend, adapter, base, named) for adapter in opened for base, named in found]


@dataclass(frozen=True, slots=True)
class RefusedPair:
    """An adapter and a base that couldn't be checked, and why."""

    adapter: str
    base: str | None
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class _Held:
    """An adapter of a row: as it was asked for, what is known of it, and its files, where they have to be read."""

    asked: str
    name: str
    commit: CommitId
    digest: Sha256
    yanked: str | None
    recorded: Recorded | None
    files: RevisionFiles


def check_rows(
    backend: Backend, principal: Principal, references: Sequence[str], wanted: Sequence[str]
) -> list[Checked | RefusedPair]:
    """As `check_all`, with a row for each pair, whatever it is. Only what isn't known yet is read and checked.

    Raises `NotAuthenticated`, `InvalidInput` for more than `MOST_PAIRS`.
    """
    principal.require_account()
    _refuse_too_many(len(references), max(1, len(wanted)))
    known = {base: _bases_or_refusal(backend, principal, base) for base in dict.fromkeys(wanted)}
    held = _hold(backend, principal, references)
    rows = _Rows(backend, known)
    for asked, one in zip(references, held, strict=True):
        if isinstance(one, Refusal):
            rows.refuse(asked, wanted, one)
            continue
        for base in wanted:
            rows.ask(one, base, known[base])
        if not wanted:
            rows.ask(one, *_own_bases(backend, principal, one))
    return rows.answered()


def _bases_or_refusal(backend: Backend, principal: Principal, name: str) -> list[FoundBase] | Refusal:
    try:
        return _bases_called(backend, principal, name)
    except Refusal as refusal:
        return refusal


def _hold(backend: Backend, principal: Principal, references: Sequence[str]) -> list[_Held | Refusal]:
    """Of each reference what is recorded, in one state of the database."""
    found: list[OpenedCommit | Refusal] = []
    with looking(backend, principal) as reader:
        for text in references:
            try:
                reference = Reference.parse(text)
                found.append(reader.open(reference.repository).readable_at(reference.revision or LATEST))
            except Refusal as refusal:
                found.append(refusal)
        commits = [at.commit.id for at in found if not isinstance(at, Refusal)]
        recorded = queries.recorded_of(reader.session, commits)
        return [
            at if isinstance(at, Refusal) else _held(text, at, recorded.get(at.commit.id))
            for text, at in zip(references, found, strict=True)
        ]


def _held(asked: str, at: OpenedCommit, recorded: Recorded | None) -> _Held:
    version = at.version
    yanked = None if version is None or version.yanked_at is None else version.yank_reason or ""
    name = at.repository.repository.full_name
    return _Held(asked, name, at.commit.id, at.commit.digest, yanked, recorded, RevisionFiles.of(at))


def _own_bases(backend: Backend, principal: Principal, held: _Held) -> tuple[str | None, list[FoundBase] | Refusal]:
    """Those that the adapter may mean, by what was recorded of it when it was pushed."""
    said = held.recorded.facts.get("base") if held.recorded is not None else None
    claim = BaseClaim(**said) if isinstance(said, dict) else read_adapter(held.files).claim
    return claim.name, bases_of(backend, principal, claim)


class _Rows:
    """The rows of one request: what is known is asked for at once, and what has to be found out is kept at once."""

    def __init__(self, backend: Backend, known: Mapping[str, list[FoundBase] | Refusal]) -> None:
        self._backend = backend
        self._known = known
        self._rows: list[RefusedPair | tuple[_Held, str | None, list[FoundBase]]] = []
        self._read: dict[CommitId, Adapter] = {}
        self._made: dict[tuple[str, int], Verdict] = {}

    def refuse(self, adapter: str, bases: Sequence[str], refusal: Refusal) -> None:
        self._rows += [RefusedPair(adapter, base, refusal) for base in bases] or [RefusedPair(adapter, None, refusal)]

    def ask(self, held: _Held, base: str | None, found: list[FoundBase] | Refusal) -> None:
        if isinstance(found, Refusal):
            self._rows.append(RefusedPair(held.asked, base, found))
        else:
            self._rows.append((held, base, found))

    def answered(self) -> list[Checked | RefusedPair]:
        pairs = sum(max(1, len(row[2])) for row in self._rows if not isinstance(row, RefusedPair))
        _refuse_too_many(1, pairs)
        kept = self._kept()
        answers = [row if isinstance(row, RefusedPair) else self._answer(*row, kept) for row in self._rows]
        self._keep_made()
        return answers

    def _kept(self) -> dict[tuple[str, int], Verdict]:
        asked = [row for row in self._rows if not isinstance(row, RefusedPair)]
        digests = sorted({held.recorded.digest for held, _, _ in asked if held.recorded is not None})
        base_ids = sorted({one.id for _, _, found in asked for one in found if one.id is not None})
        with self._backend.database.read() as session:
            return queries.reports_of(session, digests, base_ids, RULE_SET)

    def _answer(
        self, held: _Held, base: str | None, found: Sequence[FoundBase], kept: Mapping[tuple[str, int], Verdict]
    ) -> Checked | RefusedPair:
        try:
            verdicts = [self._verdict(held, one, kept) for one in found] or [self._verdict(held, None, kept)]
            facts = self._facts(held)
        except Refusal as refusal:
            return RefusedPair(held.asked, base, refusal)
        judged = [
            AtRevision(one.base.revision, VerdictOf(made.verdict), made.report["matched"], made.report["of"])
            for one, (made, _) in zip(found, verdicts, strict=False)
        ]
        best, is_kept = verdicts[closest(judged) if judged else 0]
        several = {"revisions": [one.as_json() for one in judged]} if len(found) > 1 else {}
        return Checked(
            held.asked, held.commit, base, best.verdict, best.report | several, facts, is_kept, held.digest, held.yanked
        )

    def _verdict(
        self, held: _Held, found: FoundBase | None, kept: Mapping[tuple[str, int], Verdict]
    ) -> tuple[Verdict, bool]:
        """And whether it was known."""
        recorded = held.recorded
        key = None if recorded is None or found is None or found.id is None else (recorded.digest, found.id)
        if key is not None and key in kept:
            return kept[key], True
        adapter = self._adapter(held)
        report = _report(adapter, held.files, None if found is None else found.base)
        made = Verdict(report.verdict.value, report.as_json())
        if found is not None and found.id is not None:
            self._made[adapter_digest(held.files, adapter), found.id] = made
        return made, False

    def _adapter(self, held: _Held) -> Adapter:
        """Raises `NotFound` where it is none."""
        if held.commit not in self._read:
            adapter = read_adapter(held.files)
            if not _is_adapter(adapter, held.files):
                raise NotFound(f"{held.name} has no adapter at {held.commit[:12]}", hint="is it a base model?")
            self._read[held.commit] = adapter
        return self._read[held.commit]

    def _facts(self, held: _Held) -> Mapping[str, Any]:
        return held.recorded.facts if held.recorded is not None else _shown_facts(self._adapter(held))

    def _keep_made(self) -> None:
        if not self._made:
            return
        try:
            with self._backend.database.write() as session:
                for (digest, base_id), verdict in self._made.items():
                    queries.insert_verdict(session, digest, base_id, RULE_SET, verdict)
        except (queries.IntegrityError, *queries.UNAVAILABLE):
            logger.info("%d verdicts were not kept; they are made again when needed", len(self._made))


def _refuse_too_many(adapters: int, bases_: int) -> None:
    """Each base that a name stands for counts."""
    if adapters * bases_ > MOST_PAIRS:
        raise InvalidInput(
            f"{adapters} adapters × {bases_} bases; at most {MOST_PAIRS} pairs a request",
            hint="name fewer adapters, or a base with its revision",
        )


def _against_their_own(
    backend: Backend, principal: Principal, references: Sequence[tuple[RepositoryName, str]]
) -> Iterator[Checked]:
    pairs = 0
    for name, revision in references:
        checked = check_revision(backend, principal, name, revision, None)
        pairs += max(1, len(checked.report["revisions"]))
        _refuse_too_many(1, pairs)
        yield checked


def _bases_called(backend: Backend, principal: Principal, name: str) -> list[FoundBase]:
    """Those that a person means by a name; one, where it says a revision or a digest. Raises `BaseNotFound`."""
    is_one = "@" in name or name.startswith("sha256:")
    known = [] if is_one else bases.find_all(backend, principal, name)
    return known or [bases.find(backend, principal, name)]


@dataclass(frozen=True, slots=True)
class _Opened:
    name: str
    commit: CommitId
    adapter: Adapter
    files: RevisionFiles


def _open(backend: Backend, principal: Principal, name: RepositoryName, revision: str) -> _Opened:
    with reading(backend, principal, name) as opened:
        at = opened.readable_at(revision)
        held = RevisionFiles.of(at)
    adapter = read_adapter(held)
    if not _is_adapter(adapter, held):
        raise NotFound(f"{opened.repository.full_name} has no adapter at {revision[:80]}", hint="is it a base model?")
    return _Opened(opened.repository.full_name, at.commit.id, adapter, held)


def _against_all(backend: Backend, opened: _Opened, base: str, found: Sequence[FoundBase]) -> Checked:
    checked = [_against(backend, opened, base, one) for one in found]
    judged = [
        AtRevision(one.base.revision, VerdictOf(made.verdict), made.report["matched"], made.report["of"])
        for one, made in zip(found, checked, strict=True)
    ]
    best = checked[closest(judged)]
    return best if len(found) < 2 else replace(best, report=best.report | {"revisions": [o.as_json() for o in judged]})


def _against(backend: Backend, opened: _Opened, base: str, found: FoundBase) -> Checked:
    digest = adapter_digest(opened.files, opened.adapter)
    facts = _shown_facts(opened.adapter)
    if found.id is not None:
        with backend.database.read() as session:
            kept = queries.verdict_of(session, digest, found.id, RULE_SET)
        if kept is not None:
            return Checked(opened.name, opened.commit, base, kept.verdict, kept.report, facts, is_kept=True)
    report = _report(opened.adapter, opened.files, found.base)
    made = Verdict(report.verdict.value, report.as_json())
    if found.id is not None:
        _keep(backend, digest, found.id, made)
    return Checked(opened.name, opened.commit, base, made.verdict, made.report, facts)


def verdict_against(backend: Backend, commit_id: CommitId, adapter: str, base: str, found: FoundBase) -> str:
    """Of a commit of the repository `adapter`, for a worker. Raises as reading an adapter does."""
    with backend.database.read() as session:
        files = files_of(session, commit_id)
        blobs = known_blobs(session, [file.sha256 for file in files.values()])
    held = RevisionFiles(backend, files, blobs)
    return _against(backend, _Opened(adapter, commit_id, read_adapter(held), held), base, found).verdict


def _keep(backend: Backend, digest: str, base_id: int, verdict: Verdict) -> None:
    """Saves the next asker the work; where another did, or the disk is full, it can wait."""
    try:
        with backend.database.write() as session:
            queries.insert_verdict(session, digest, base_id, RULE_SET, verdict)
    except (queries.IntegrityError, *queries.UNAVAILABLE):
        logger.info("the verdict on %s was not kept; it is made again when needed", digest[:12])


def adapters_of(
    backend: Backend, principal: Principal, base: str, *, after: int | None, limit: int
) -> list[tuple[int, Repository, CommitId]]:
    """Repositories whose `main` is an adapter that names this base, as far as the principal may see them."""
    with backend.database.read() as session:
        namespaces = visible_namespaces(session, principal)
        rows = queries.adapters_of_base(session, base, visible_namespaces=namespaces, after=after, limit=limit)
        known = repositories_by_id(session, [repository_id for repository_id, _ in rows])
    return [(number, known[number], commit) for number, commit in rows if number in known]


@dataclass(frozen=True, slots=True)
class FilePlace:
    repository: Repository
    commit: str
    version: str | None
    path: str


def places_of(backend: Backend, principal: Principal, digests: Sequence[Sha256]) -> dict[Sha256, list[FilePlace]]:
    """Where files with these bytes are, among what the principal may see. Raises `InvalidInput` for too many."""
    if len(digests) > MOST_DIGESTS:
        raise InvalidInput(f"{len(digests)} digests; at most {MOST_DIGESTS} a request")
    with backend.database.read() as session:
        namespaces = visible_namespaces(session, principal)
        rows = queries.places_of(session, digests, visible_namespaces=namespaces, limit=_MOST_PLACES)
        known = repositories_by_id(session, sorted({row.repository_id for row in rows}))
    found: dict[Sha256, list[FilePlace]] = {digest: [] for digest in digests}
    for row in rows:
        is_version_known = any(p.commit == row.commit_id and p.path == row.path for p in found[row.sha256])
        if row.repository_id in known and not is_version_known:
            found[row.sha256].append(FilePlace(known[row.repository_id], row.commit_id, row.version, row.path))
    return found
