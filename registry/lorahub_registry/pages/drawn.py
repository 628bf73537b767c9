"""Pictures of what pages show, drawn from the pages' own data."""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from lorahub.protocol.digests import CommitId

from lorahub_registry import pictures
from lorahub_registry.features.bases.service import NamedBase
from lorahub_registry.features.checks.service import kept_verdicts, recorded_of
from lorahub_registry.infrastructure.database import Session


def of_weights(found: Mapping[str, Any], module: str | None) -> dict[str, Any]:
    """Of statistics that are done: the map, the map relative to the base's weights, and the spectrum of one module."""
    modules: Mapping[str, Mapping[str, Any]] = (found["statistics"] or {}).get("modules", {})
    relative = {name: one["relative"] for name, one in modules.items() if one.get("relative") is not None}
    chosen = module if module in modules else _largest(modules)
    one = modules[chosen] if chosen is not None else None
    return {
        "norms": pictures.norm_map({name: one["frobenius"] for name, one in modules.items()}),
        "relative": pictures.relative_map(relative) if relative else None,
        "shown": pictures.spectrum(chosen, one["singular_values"], one["effective_rank"]) if one and chosen else None,
        "shown_module": chosen,
        "by_target": pictures.bars("Effective rank by target", _by_target(modules), what="directions on average"),
    }


def _by_target(modules: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The mean effective rank of the updates whose modules have the same last name."""
    ranks: dict[str, list[float]] = {}
    for name, one in modules.items():
        if one["effective_rank"] is not None:
            ranks.setdefault(name.rpartition(".")[2], []).append(one["effective_rank"])
    return {target: sum(found) / len(found) for target, found in ranks.items()}


def _largest(modules: Mapping[str, Mapping[str, Any]]) -> str | None:
    return max(modules, key=lambda name: modules[name]["frobenius"] or 0.0, default=None)


def of_training(points: Sequence[Mapping[str, Any]]) -> pictures.Picture:
    return pictures.curve(points)


def of_lineage(name: str, around: Mapping[str, Any]) -> pictures.Picture:
    line = around["line"]
    return pictures.lineage(name, {node["name"]: node["level"] for node in line["nodes"]}, line["edges"])


def fit(
    session: Session, rows: Sequence[Mapping[str, Any]], registered: Sequence[NamedBase]
) -> tuple[list[dict[str, str]], pictures.Picture | None]:
    """Known verdicts on the adapters of a page, and a picture where there are some."""
    bases = sorted(registered, key=lambda named: named.added_at)
    commits = {CommitId(row["commit"]): row["id"] for row in rows}
    known = kept_verdicts(session, list(commits), [named.base.id for named in bases])
    found = [
        {"adapter": commits[commit], "revision": named.revision or "any", "verdict": known[commit, named.base.id]}
        for commit in commits
        for named in bases
        if (commit, named.base.id) in known
    ]
    found += _as_pushed(session, commits, {(one["adapter"], one["revision"]) for one in found})
    return found, pictures.fit_matrix([pictures.MapVerdict(**one) for one in found]) if found else None


def _as_pushed(
    session: Session, commits: Mapping[CommitId, str], known: AbstractSet[tuple[str, str]]
) -> Iterator[dict[str, str]]:
    """Verdicts on the revision that each adapter names, where there was one."""
    for commit, one in recorded_of(session, list(commits)).items():
        revision = one.facts.get("base", {}).get("revision") or "unnamed"
        if one.verdict != "undecided" and (commits[commit], revision) not in known:
            yield {"adapter": commits[commit], "revision": revision, "verdict": one.verdict}


def of_difference(
    first: Mapping[str, Any], second: Mapping[str, Any], names: tuple[str, str]
) -> pictures.Picture | None:
    """None unless both have statistics."""
    if first["status"] != "done" or second["status"] != "done":
        return None
    norms = [
        {name: one["frobenius"] for name, one in (found["statistics"] or {}).get("modules", {}).items()}
        for found in (first, second)
    ]
    return pictures.difference_map(norms[0], norms[1], names)


def of_overlap(found: Mapping[str, Any] | None) -> list[pictures.Picture]:
    """Of an overlap that is done: cosines, and what the two share on each side. None where no module was compared."""
    if found is None or not found["modules"]:
        return []
    modules, whole = found["modules"], found["whole"]
    return [pictures.cosine_map(modules, whole), *(pictures.share_map(modules, whole, side) for side in pictures.SIDES)]


def of_pairs(names: Sequence[str], pairs: Sequence[Mapping[str, Any]]) -> list[pictures.Picture]:
    """Of adapters that are about to be merged: the same by pair, as far as pairs have been compared."""
    wholes = {(one["first"], one["second"]): one["whole"] for one in pairs if one["whole"] and one["whole"]["modules"]}
    if not wholes:
        return []
    sides = (pictures.share_pairs(names, wholes, side) for side in pictures.SIDES)
    return [pictures.cosine_pairs(names, wholes), *sides]


def of_downloads(days: Mapping[str, int]) -> pictures.Picture | None:
    return pictures.bars("Downloads per day", days, what="downloads") if any(days.values()) else None
