"""What a recipe's names mean on this registry, and the plan over the stored files."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from lorahub.adapters.base_model import read_base
from lorahub.adapters.check import check, closest
from lorahub.adapters.reader import read_adapter
from lorahub.errors import (
    InvalidBaseModel,
    InvalidName,
    InvalidRecipe,
    InvalidReference,
    NotFound,
    NotMergeable,
    RevisionNotFound,
)
from lorahub.merging.kernel import BlockCache
from lorahub.merging.plan import Device, Ingredients, MergePlan
from lorahub.merging.recipe import MOST_BYTES, RECIPE, Ingredient, Recipe, parse_recipe, recipe_of
from lorahub.protocol.digests import CommitId
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.references import Reference

from lorahub_registry.core.accounts.permissions import Principal
from lorahub_registry.core.repositories.service import Repository, readable, repositories_by_id
from lorahub_registry.core.revisions import service as revisions
from lorahub_registry.features.bases.revision_files import RevisionFiles
from lorahub_registry.features.bases.service import commits_of
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session


@dataclass(frozen=True, slots=True)
class Pinned:
    """One source: the commit of a repository."""

    repository_id: int
    commit_id: CommitId


@dataclass(frozen=True, slots=True)
class MergeSources:
    """A recipe, and what its base and adapters are."""

    recipe: Recipe
    base: Pinned
    adapters: tuple[Pinned, ...]

    def as_json(self) -> dict[str, Any]:
        pins = [[pin.repository_id, pin.commit_id] for pin in (self.base, *self.adapters)]
        return {"recipe": self.recipe.as_json(), "pins": pins}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "MergeSources":
        base, *adapters = (Pinned(repository, CommitId(commit)) for repository, commit in value["pins"])
        return cls(recipe_of(value["recipe"]), base, tuple(adapters))


def of_recipe(session: Session, principal: Principal, recipe: Recipe) -> MergeSources:
    """Raises `InvalidRecipe` for names that can't be of this registry; `RepositoryNotFound`, `GatedRepository`,
    `Quarantined`, `RevisionNotFound`, `VersionYanked`.
    """
    return MergeSources(
        recipe,
        _pin(session, principal, recipe.base, "base"),
        tuple(_pin(session, principal, one.source, "adapter") for one in recipe.adapters),
    )


def of_revision(
    backend: Backend, session: Session, principal: Principal, repository: Repository, commit_id: CommitId
) -> MergeSources:
    """What a revision is merged of, that is an adapter or a recipe. Raises `NotMergeable` where it is neither."""
    said = _said(backend, session, commit_id)
    if isinstance(said, Recipe):
        return of_recipe(session, principal, said)
    if not said.is_adapter:
        raise NotMergeable(
            f"{repository.full_name} is no adapter, and has no {RECIPE}", hint="only these have merged revisions"
        )
    if not said.base:
        raise NotMergeable("the adapter doesn't name its base", hint="push it with: lorahub push --base NAME")
    base = _claimed_base(backend, session, principal, said, commit_id)
    recipe = Recipe(said.base, (Ingredient(repository.full_name),))
    return MergeSources(recipe, base, (Pinned(repository.id, commit_id),))


@dataclass(frozen=True, slots=True)
class _Claim:
    """What an adapter says of its base."""

    is_adapter: bool
    base: str | None
    revision: str | None


_MOST_SAID = 256
_heard: OrderedDict[CommitId, Recipe | _Claim] = OrderedDict()
"""What the commits say that were read last: who asks for a merged revision by its name asks again and again."""


def _said(backend: Backend, session: Session, commit_id: CommitId) -> Recipe | _Claim:
    """What a commit's files say, which never changes."""
    said = _heard.get(commit_id) or _read(_files(backend, session, commit_id))
    _heard[commit_id] = said
    while len(_heard) > _MOST_SAID:
        _heard.popitem(last=False)
    return said


def _read(files: RevisionFiles) -> Recipe | _Claim:
    if RECIPE in files.sizes:
        return parse_recipe(files.read(RECIPE, 0, MOST_BYTES + 1))
    adapter = read_adapter(files)
    return _Claim(adapter.has_format, adapter.claim.name, adapter.claim.revision)


def _claimed_base(
    backend: Backend, session: Session, principal: Principal, said: _Claim, commit_id: CommitId
) -> Pinned:
    """At the revision that the adapter names if it is known here; else of all that the base has been, what it fits."""
    assert said.base is not None
    if said.revision:
        try:
            return _pin(session, principal, f"{said.base}@{said.revision}", "base")
        except (InvalidRecipe, RevisionNotFound):
            pass
    pinned = _pin(session, principal, said.base, "base")
    if "@" in said.base:
        return pinned
    known = commits_of(session, pinned.repository_id)
    return pinned if len(known) < 2 else replace(pinned, commit_id=_fitting(backend, session, commit_id, known))


_fitted: OrderedDict[tuple[CommitId, ...], CommitId] = OrderedDict()
"""Which of several bases an adapter fits best, by its commit and theirs: neither changes."""


def _fitting(backend: Backend, session: Session, commit_id: CommitId, known: Sequence[CommitId]) -> CommitId:
    """The one of these commits that the check would name too; the first where none holds a base."""
    key = (commit_id, *known)
    fitting = _fitted.get(key)
    if fitting is None:
        adapter, judged = read_adapter(_files(backend, session, commit_id)), {}
        for one in known:
            with suppress(InvalidBaseModel):
                base = read_base(_files(backend, session, one))
                judged[one] = check(adapter, base).at(base)
        fitting = list(judged)[closest(list(judged.values()))] if judged else known[0]
        _fitted[key] = fitting
        while len(_fitted) > _MOST_SAID:
            _fitted.popitem(last=False)
    return fitting


def _pin(session: Session, principal: Principal, spec: str, what: str) -> Pinned:
    try:
        reference = Reference.parse(spec)
    except (InvalidName, InvalidReference) as error:
        raise InvalidRecipe(f"the {what} {spec[:200]!r} is no repository: {error.message}") from None
    if reference.host is not None:
        raise InvalidRecipe(
            f"the {what} {spec[:200]!r} is on another host", hint="push it here, or merge on your machine"
        )
    try:
        repository = readable(session, principal, reference.repository)
        commit = revisions.resolve(session, repository.id, reference.revision or "main").commit
    except NotFound as error:
        raise RevisionNotFound(
            f"the {what} {spec[:200]} is not stored on this registry: {error.message}",
            hint=f"push it here as {str(reference.repository)[:200]}, or merge on your machine: lorahub merge",
        ) from None
    return Pinned(repository.id, commit.id)


def refuse_unreadable(session: Session, principal: Principal, sources: MergeSources) -> None:
    """Raises `RevisionNotFound`, `RepositoryNotFound`, `GatedRepository` or `Quarantined` where the principal may not
    read one of the sources any more.
    """
    found = repositories_by_id(session, [pin.repository_id for pin in (sources.base, *sources.adapters)])
    for pin in (sources.base, *sources.adapters):
        if pin.repository_id not in found:
            raise RevisionNotFound("a source of this merge was deleted")
        readable(session, principal, RepositoryName(found[pin.repository_id].namespace, found[pin.repository_id].name))


def plan_of(
    backend: Backend,
    session: Session,
    sources: MergeSources,
    *,
    cache: BlockCache | None = None,
    device: Device | None = None,
) -> MergePlan:
    """Raises `NotMergeable`, `AdapterDoesNotFit`, `InvalidAdapter`, `InvalidBaseModel`, `MergeTooLarge`."""
    base = _files(backend, session, sources.base.commit_id)
    adapters = [_files(backend, session, pin.commit_id) for pin in sources.adapters]
    identities = {"base": _digests(base), "adapters": [_digests(files) for files in adapters]}
    return MergePlan(sources.recipe, Ingredients(base, adapters, identities), cache=cache, device=device)


def _files(backend: Backend, session: Session, commit_id: CommitId) -> RevisionFiles:
    return RevisionFiles.at(backend, session, commit_id, revisions.files_of(session, commit_id))


def _digests(files: RevisionFiles) -> dict[str, str | None]:
    """The sha256 of every file that the result depends on: cards and the like may change."""
    return {path: files.sha256(path) for path in sorted(files.sizes) if not path.endswith((".md", ".gitattributes"))}
