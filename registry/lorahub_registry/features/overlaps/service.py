"""How alike the updates of two adapters are: wanted by somebody who may read both, computed by a worker, once for the
same two sets of bytes, and shown to whoever may read both.

Reading never makes work: a wish is an act of an account, and an account has a bounded number of them open. The factors
of one module of each are in memory at a time; no ΔW ever is.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from lorahub.adapters.adapter import Adapter, Naming, Update
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.files import header_of
from lorahub.adapters.names.base_names import BaseNames
from lorahub.adapters.reader import read_adapter
from lorahub.adapters.weight_overlap import Overlap, of_the_whole, why_not
from lorahub.adapters.weight_overlap import overlap_of as compare
from lorahub.errors import BaseNotFound, BlobDamaged, NotFound, Refusal, TooManyRequests
from lorahub.protocol.digests import CommitId

from lorahub_registry.core.access import OpenedRepository
from lorahub_registry.core.accounts.permissions import Principal
from lorahub_registry.core.audit.service import record as record_audit
from lorahub_registry.core.blobs.service import known_blobs
from lorahub_registry.core.revisions import service as revisions
from lorahub_registry.features.bases.revision_files import RevisionFiles
from lorahub_registry.features.checks.service import base_of, recorded_of
from lorahub_registry.features.overlaps import queries
from lorahub_registry.features.overlaps.queries import AdapterPair, OverlapOutcome
from lorahub_registry.features.statistics.service import factors_of, reader_for
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session

__all__ = ["OverlapOutcome"]

MOST_OPEN = 64
"""Wishes of one account at a time: a composer's six adapters are 15."""
MOST_WORK = 10**12
"""What one comparison may take, in (out + in) · rank² over all modules: 8 minutes of a core.

Rank 256 on a 7B model takes 5.
"""
_ALL = "*"


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: an adapter, and a commit that has it."""

    digest: str
    commit: CommitId


def side_at(opened: OpenedRepository, revision: str) -> Side:
    """Raises `GatedRepository`, `Quarantined`, `RevisionNotFound`, `VersionYanked`; `NotFound` for no adapter."""
    at = opened.readable_at(revision)
    recorded = recorded_of(opened.session, [at.commit.id]).get(at.commit.id)
    if recorded is None:
        raise NotFound(f"{opened.repository.full_name} has no adapter at {revision[:80]}", hint="is it a base model?")
    return Side(recorded.digest, at.commit.id)


@dataclass(frozen=True, slots=True)
class _Ordered:
    pair: AdapterPair
    commits: tuple[CommitId, CommitId]


def overlap_of(session: Session, one: Side, other: Side) -> OverlapOutcome:
    """What is known of the overlap of two adapters."""
    return queries.outcome_of(session, _ordered(one, other).pair)


def want(backend: Backend, principal: Principal, one: Side, other: Side) -> OverlapOutcome:
    """Has it computed, unless it is there or wanted already. What failed is tried again.

    Raises `NotAuthenticated`, `TooManyRequests` beyond `MOST_OPEN`.
    """
    found = _ordered(one, other)
    account_id = principal.require_account()
    try:
        with backend.database.write() as session:
            known = queries.outcome_of(session, found.pair)
            if known.status in ("wanted", "done"):
                return known
            if queries.open_wishes_of(session, account_id) >= MOST_OPEN:
                raise TooManyRequests(
                    f"{MOST_OPEN} comparisons that you asked for are still to be computed",
                    hint="wait for them, and ask again",
                )
            if known.status == "none":
                queries.insert_wish(session, found.pair, found.commits, account_id)
            elif queries.want_again(session, found.pair):
                queries.take_wish(session, found.pair, found.commits, account_id)
    except queries.IntegrityError:  # somebody else asked at the same moment
        pass
    return OverlapOutcome("wanted")


def _ordered(one: Side, other: Side) -> _Ordered:
    first, second = sorted((one, other), key=lambda side: (side.digest, side.commit))
    return _Ordered(AdapterPair(first.digest, second.digest), (first.commit, second.commit))


# --- the work ---------------------------------------------------------------------------------------------------------


def wanted(backend: Backend, *, limit: int) -> list[str]:
    """Subjects of jobs: both digests."""
    with backend.database.read() as session:
        return [f"{pair.first}-{pair.second}" for pair in queries.wishes(session, limit=limit)]


def _pair(subject: str) -> AdapterPair:
    first, _, second = subject.partition("-")
    return AdapterPair(first, second)


def want_again(backend: Backend, subject: str, *, by: str) -> bool:
    """Where computing it failed; whether it had."""
    with backend.database.write() as session:
        is_new = queries.want_again(session, _pair(subject))
        if is_new:
            record_audit(session, actor=by, action="overlap.requeue", subject=subject)
    return is_new


def give_up(backend: Backend, subject: str, reason: str) -> None:
    with backend.database.write() as session:
        queries.settle(session, _pair(subject), OverlapOutcome("failed", reason[:500]))


def fulfil(backend: Backend, subject: str) -> str:
    """Computes and keeps what was wanted; the status. The same result, however often it runs."""
    with backend.database.read() as session:
        commits = queries.commits_of(session, _pair(subject))
    if commits is None:
        return "gone"
    try:
        outcome = OverlapOutcome("done", None, _compute(backend, commits))
    except (Refusal, BlobDamaged, ValueError, KeyError, MemoryError) as error:
        outcome = OverlapOutcome("failed", f"{type(error).__name__}: {error}"[:500])
    with backend.database.write() as session:
        queries.settle(session, _pair(subject), outcome)
    return outcome.status


@dataclass(frozen=True, slots=True)
class _Opened:
    adapter: Adapter
    base: BaseLayout | None
    """That it claims, where members of its namespace may read it here."""
    files: RevisionFiles
    path: str
    start: int
    """Where the tensors begin in the file."""

    def factors(self, update: Update) -> dict[str, Any]:
        return factors_of(self.files, self.path, self.start, update)


def _open(backend: Backend, commit_id: CommitId) -> _Opened | None:
    """None where the weights are no safetensors."""
    with backend.database.read() as session:
        files = revisions.files_of(session, commit_id)
        held = RevisionFiles(backend, files, known_blobs(session, [file.sha256 for file in files.values()]))
        namespace = queries.namespace_of(session, commit_id)
    adapter = read_adapter(held)
    path = adapter.weights_file
    if path is None or not path.endswith(".safetensors"):
        return None
    base = base_of(backend, reader_for(namespace), adapter)
    return _Opened(adapter, None if base is None else base.base, held, path, header_of(held, path).data_start)


def _compute(backend: Backend, commits: tuple[CommitId, CommitId]) -> dict[str, Any]:
    """Raises `BaseNotFound` for names that only a base could join; it may be known when somebody asks again."""
    opened = [found for commit_id in commits if (found := _open(backend, commit_id))]
    if len(opened) < 2:
        return _result({}, {_ALL: "only safetensors are computed"})
    first, second = sorted(opened, key=lambda one: one.adapter.naming is not Naming.DOTTED)  # whose names are shown
    if first.adapter.naming is not second.adapter.naming and not _same_base(first, second):
        raise BaseNotFound(
            "their files name modules in different ways, and the base that would join them isn't known here"
        )
    compared: dict[str, Overlap] = {}
    skipped: dict[str, str] = {}
    pairs = _paired(first, second, skipped)
    if sum(_work(*pair) for pair in pairs.values()) > MOST_WORK:
        return _result({}, {_ALL: "their ranks are too high to be compared here"})
    for module, (one, two) in pairs.items():
        result = compare(one, first.factors(one), two, second.factors(two))
        if isinstance(result, Overlap):
            compared[module] = result
        else:
            skipped[module] = result
    return _result(compared, skipped)


def _same_base(first: _Opened, second: _Opened) -> bool:
    bases = first.base, second.base
    return bases[0] is not None and bases[1] is not None and bases[0].layout_digest == bases[1].layout_digest


def _paired(first: _Opened, second: _Opened, skipped: dict[str, str]) -> dict[str, tuple[Update, Update]]:
    """The updates of both to one weight of the base; those that can't be compared go to `skipped`."""
    pairs: dict[str, tuple[Update, Update]] = {}
    base = first.base if _same_base(first, second) else None
    ours, theirs = (_by_weight(one.adapter, base) for one in (first, second))
    for weight in dict.fromkeys([*ours, *theirs]):
        one, two = ours.get(weight, []), theirs.get(weight, [])
        shown = _shown((one or two)[0])
        if not one or not two:
            skipped[shown] = "only one of them changes it"
        elif len(one) > 1 or len(two) > 1:
            skipped[shown] = "it is changed in several parts"
        elif reason := why_not(one[0], two[0]):
            skipped[shown] = reason
        else:
            pairs[shown] = one[0], two[0]
    return pairs


def _by_weight(adapter: Adapter, base: BaseLayout | None) -> dict[Hashable, list[Update]]:
    """By where the base has the weight; by the adapter's own name of it, where there is no base, or no such weight."""
    names = None if base is None else BaseNames(base)
    modules = names.resolve((update.module for update in adapter.updates), adapter.naming).modules if names else {}
    found: dict[Hashable, list[Update]] = {}
    for update in adapter.updates:
        module = modules.get(update.module)
        weight = names.find(module, update.parameters, update.turn) if names and module else None
        found.setdefault(weight.places if weight else _shown(update), []).append(update)
    return found


def _shown(update: Update) -> str:
    parameter = update.parameters[0]
    return update.module if parameter == "weight" else f"{update.module}.{parameter}"


def _work(one: Update, two: Update) -> int:
    """What two QR decompositions take, and what joins them. LoHa's rank is that of its halves' product."""
    rank = sum((update.rank or 1) ** (2 if update.method == "loha" else 1) for update in (one, two))
    return sum(length or 1 for length in one.shape) * rank**2


def _result(compared: Mapping[str, Overlap], skipped: Mapping[str, str]) -> dict[str, Any]:
    return {
        "whole": of_the_whole(list(compared.values())),
        "modules": {module: one.as_json() for module, one in compared.items()},
        "skipped": dict(skipped),
    }
