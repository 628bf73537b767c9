"""Which version a commit becomes, and the aliases that follow it."""

from lorahub.adapters.base_model import lacks_shards
from lorahub.adapters.reader import CONFIG
from lorahub.errors import AlreadyExists, Conflict
from lorahub.protocol.digests import Sha256

from lorahub_registry.core.repositories.service import take_version_number
from lorahub_registry.core.revisions import service as revisions
from lorahub_registry.core.revisions.service import Commit
from lorahub_registry.features.checks.service import Judged
from lorahub_registry.features.publishing.commit_body import VersionWish
from lorahub_registry.features.publishing.request import Publication
from lorahub_registry.features.publishing.tree import Plan
from lorahub_registry.features.references.service import LATEST, point_alias
from lorahub_registry.infrastructure.database import Session

WEIGHTS = (".safetensors", ".gguf")


def implied_version(publication: Publication, plan: Plan, judged: Judged | None) -> VersionWish | None:
    """Whoever publishes, and however: a commit on `main` that holds a whole adapter or model is the next version, and
    `latest` follows. None for what isn't whole yet: some clients send an adapter, or the shards of a model, in several
    commits.
    """
    if publication.branch_name != "main":
        return None
    weights = [path for path in plan.files if path.endswith(WEIGHTS)]
    is_whole = judged is not None or CONFIG not in plan.files
    if not weights or not is_whole or lacks_shards(weights):
        return None
    return VersionWish(None, (LATEST,), is_implied=True)


def existing_version(session: Session, publication: Publication, wish: VersionWish, digest: Sha256) -> Commit | None:
    """The commit of the version that holds exactly these files: of the named one, or else of the newest.

    Raises `AlreadyExists`.
    """
    repository = publication.repository
    if wish.number is None:
        newest = revisions.versions_of(session, repository.id, limit=1)
        return next((made for ref, made in newest if ref.yanked_at is None and made.digest == digest), None)
    named = revisions.reference_named(session, repository.id, kind="version", name=f"v{wish.number}")
    if named is None:
        return None
    commit = revisions.commit_by_id(session, repository.id, named.commit_id)
    if commit is None or commit.digest != digest:
        raise AlreadyExists(
            f"{repository.full_name}@v{wish.number} exists with other files; a version never changes",
            hint="leave the version out to get the next one",
        )
    return commit


def make_version(session: Session, publication: Publication, wish: VersionWish, commit: Commit) -> str:
    """Its name. Raises `Conflict`, `AlreadyExists`."""
    repository = publication.repository
    number = take_version_number(session, repository.id, at_least=wish.number or 0)
    if wish.number is not None and number != wish.number:
        raise Conflict(
            f"v{wish.number} is below v{number}, the next free version of {repository.full_name}; versions only go up",
            hint=f"name v{number} or higher, or leave the version out",
        )
    name = f"v{number}"
    if revisions.name_in_use(session, repository.id, kind="version", name=name):
        raise AlreadyExists(
            f"a tag of {repository.full_name} is called {name}",
            hint="delete the tag, or name a higher version",
        )
    revisions.create_reference(
        session,
        repository_id=repository.id,
        kind="version",
        name=name,
        commit_id=commit.id,
        by=publication.author.name,
        is_made=True,
    )
    return name


def point_aliases(session: Session, publication: Publication, wish: VersionWish, commit_id: str) -> list[str]:
    """The aliases that did not lead there before. A protected one that nobody named stays where it is."""
    author, repository = publication.author, publication.repository

    def point(alias: str) -> str | None:
        return point_alias(session, author, repository, alias, commit_id, leaves_protected=wish.is_implied)

    return [alias for alias in wish.aliases if point(alias) is not None]
