"""Weight statistics: wanted when an adapter is published, computed by a worker, once for the same bytes.

The factors of one module are in memory at a time; ΔW never is. Where the base's weights are stored here, the norms are
also given relative to the weights they are added to.
"""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lorahub.adapters.adapter import BESIDE, Adapter, Update
from lorahub.adapters.base_model import weight_files
from lorahub.adapters.check import check
from lorahub.adapters.files import header_of
from lorahub.adapters.patterns import layer_index
from lorahub.adapters.reader import read_adapter
from lorahub.adapters.safetensors_header import TensorEntry
from lorahub.adapters.weight_statistics import UpdateStatistics, decode, is_computable, statistics_of
from lorahub.errors import BlobDamaged, NotFound, Refusal
from lorahub.protocol.names import RepositoryName, similarity_key

from lorahub_registry.core.access import OpenedCommit, OpenedRepository, reading
from lorahub_registry.core.accounts.permissions import Level, Principal
from lorahub_registry.core.audit.service import record as record_audit
from lorahub_registry.core.blobs.service import known_blobs
from lorahub_registry.core.repositories.service import repositories_by_id
from lorahub_registry.core.revisions import service as revisions
from lorahub_registry.features.bases.revision_files import RevisionFiles
from lorahub_registry.features.checks.service import adapter_digest, base_of, recorded_of
from lorahub_registry.features.statistics import queries
from lorahub_registry.features.statistics.queries import StatisticsOutcome
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session

if TYPE_CHECKING:
    from lorahub.adapters.weight_statistics import Matrix

__all__ = ["StatisticsOutcome"]

MOST_BASE_BYTES = 8 << 30
"""So much of the base's weights is read for the norms of one adapter; beyond it they stay unknown."""
_PIECE_BYTES = 4 << 20
_OF_DORA = "DoRA: these are figures of scale · B · A; what its magnitudes change depends on the base's weights"


def want(session: Session, digest: str, commit_id: str) -> None:
    """Inside the transaction that makes the commit."""
    queries.insert_wish(session, digest, commit_id)


def wanted(backend: Backend, *, limit: int) -> list[str]:
    with backend.database.read() as session:
        return queries.wishes(session, limit=limit)


def want_again(backend: Backend, digest: str, *, by: str) -> bool:
    """Where computing them failed; whether it had."""
    with backend.database.write() as session:
        is_new = queries.want_again(session, digest)
        if is_new:
            record_audit(session, actor=by, action="statistics.requeue", subject=digest)
    return is_new


def give_up(backend: Backend, digest: str, reason: str) -> None:
    with backend.database.write() as session:
        queries.settle(session, digest, StatisticsOutcome("failed", reason[:500], None))


def statistics_at(opened: OpenedRepository, revision: str) -> StatisticsOutcome:
    """What is known of the adapter at a revision.

    Raises `GatedRepository`, `Quarantined`, `RevisionNotFound`, `VersionYanked`; `NotFound` where it is no adapter.
    """
    found = queries.outcome_of(opened.session, _digest_at(opened.readable_at(revision)))
    if found is None:
        raise NotFound(f"{opened.repository.full_name} has no adapter at {revision[:80]}")
    return found


def _digest_at(at: OpenedCommit) -> str:
    """As it was recorded; of what was never published, as the head of a squashed branch, it is read from the files."""
    recorded = recorded_of(at.repository.session, [at.commit.id]).get(at.commit.id)
    if recorded is not None:
        return recorded.digest
    held = RevisionFiles.of(at)
    return adapter_digest(held, read_adapter(held))


# --- the work ---------------------------------------------------------------------------------------------------------


def fulfil(backend: Backend, digest: str) -> str:
    """Computes and keeps the statistics that were wanted; the status. The same result, however often it runs."""
    with backend.database.read() as session:
        wish = queries.wish(session, digest)
        if wish is None:
            return "gone"
        files = revisions.files_of(session, wish.commit_id)
        blobs = known_blobs(session, [file.sha256 for file in files.values()])
        repository = repositories_by_id(session, [wish.repository_id])[wish.repository_id]
    held = RevisionFiles(backend, files, blobs)
    try:
        outcome = StatisticsOutcome("done", None, _compute(backend, held, repository.namespace))
    except (Refusal, BlobDamaged, ValueError, KeyError, MemoryError) as error:
        outcome = StatisticsOutcome("failed", f"{type(error).__name__}: {error}"[:500], None)
    with backend.database.write() as session:
        queries.settle(session, digest, outcome)
    return outcome.status


def _compute(backend: Backend, files: RevisionFiles, namespace: str) -> dict[str, Any]:
    adapter = read_adapter(files)
    path = adapter.weights_file
    if path is None or not path.endswith(".safetensors"):
        return {"modules": {}, "layers": {}, "skipped": {"*": "only safetensors are computed"}}
    norms = _base_norms(backend, adapter, namespace)
    start = header_of(files, path).data_start
    modules: dict[str, UpdateStatistics] = {}
    skipped: dict[str, str] = {}
    for update in adapter.updates:
        if not is_computable(update):
            skipped[update.module] = f"{update.method}, rank {update.rank}"
            continue
        factors = factors_of(files, path, start, update)
        modules[update.module] = statistics_of(update, factors, base_norm=norms.get(update.module))
    return {
        "modules": {module: one.as_json() for module, one in modules.items()},
        "layers": _layers(modules),
        "skipped": skipped,
        "note": _OF_DORA if adapter.is_dora else None,
    }


def factors_of(files: RevisionFiles, path: str, start: int, update: Update) -> dict[str, "Matrix"]:
    """By role, in float64. `start` is where the tensors of the file begin."""
    return {
        role: decode(entry, files.read(path, start + entry.start, start + entry.stop))
        for role, entry in update.tensors.items()
        if role not in BESIDE
    }


def _layers(modules: Mapping[str, UpdateStatistics]) -> dict[str, float]:
    """‖ΔW‖_F of all updates of a layer together."""
    squares: dict[str, float] = {}
    for module, one in modules.items():
        index = layer_index(module)
        if index is not None and one.frobenius is not None:
            squares[str(index)] = squares.get(str(index), 0.0) + one.frobenius**2
    return {index: math.sqrt(total) for index, total in squares.items()}


# --- the base ---------------------------------------------------------------------------------------------------------


def reader_for(namespace: str) -> Principal:
    """A worker, who may read what members of the adapter's namespace may."""
    return Principal(account_id=-1, name="(worker)", roles={similarity_key(namespace): Level.READ})


def _base_norms(backend: Backend, adapter: Adapter, namespace: str) -> dict[str, float]:
    """‖W‖_F by the adapter's modules, where the base is a repository here that the adapter's namespace may read."""
    if adapter.claim.name is None:
        return {}
    reader = reader_for(namespace)
    try:
        found = base_of(backend, reader, adapter)
        own = None if found is None or found.id is not None else found.base.revision
        name = RepositoryName.parse(adapter.claim.name.removeprefix("hf:"))
        with reading(backend, reader, name) as opened:
            held = RevisionFiles.of(opened.readable_at(own or adapter.claim.revision or "main"))
    except Refusal:
        return {}
    if found is None:
        return {}
    whole = {
        update.module: weight.places[0].tensor
        for update, weight in check(adapter, found.base).bound
        if weight.places[0].is_whole
    }
    norms = dict(_norms(held, set(whole.values())))
    return {module: norms[tensor] for module, tensor in whole.items() if tensor in norms}


def _norms(files: RevisionFiles, wanted: set[str]) -> Iterator[tuple[str, float]]:
    entries = [(path, header_of(files, path, allow_empty=True), prefix) for prefix, path in weight_files(files)]
    chosen = [
        (path, header.data_start, prefix, entry)
        for path, header, prefix in entries
        for entry in header.tensors
        if prefix + entry.name in wanted
    ]
    if sum(entry.stop - entry.start for _, _, _, entry in chosen) > MOST_BASE_BYTES:
        return
    for path, start, prefix, entry in chosen:
        yield prefix + entry.name, _norm(files, path, start, entry)


def _norm(files: RevisionFiles, path: str, start: int, entry: TensorEntry) -> float:
    """Piece by piece: a base's weight is larger than all of an adapter."""
    import numpy as np

    total = 0.0
    for begin in range(entry.start, entry.stop, _PIECE_BYTES):
        stop = min(begin + _PIECE_BYTES, entry.stop)
        raw = files.read(path, start + begin, start + stop)
        elements = (stop - begin) * entry.elements // (entry.stop - entry.start)
        values = decode(TensorEntry(entry.name, entry.dtype, (elements,), begin, stop), raw)
        total += float(np.dot(values, values))
    return math.sqrt(total)
