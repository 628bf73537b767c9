"""The parts of an address, each decoded once and parsed into its type."""

from typing import Annotated

from fastapi import Depends, Path
from lorahub.errors import (
    InvalidName,
    InvalidPath,
    RepositoryMoved,
    RepositoryNotFound,
    RevisionNotFound,
    VersionYanked,
)
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.paths import FilePath, parse_path

from lorahub_registry.infrastructure.web.description import refuses
from lorahub_registry.infrastructure.web.raw_path import decode


@refuses(RepositoryMoved, RepositoryNotFound)
def repository_name(namespace: Annotated[str, Path()], name: Annotated[str, Path()]) -> RepositoryName:
    """A name that can't exist is a repository that doesn't, the same answer as for a private one."""
    try:
        return RepositoryName.parse(f"{decode(namespace)}/{decode(name)}")
    except InvalidName as error:
        raise RepositoryNotFound(f"Repository not found: {error.message}") from None


@refuses(RevisionNotFound, VersionYanked)
def revision(rev: Annotated[str, Path()]) -> str:
    return decode(rev)


@refuses(InvalidPath)
def file_path(path: Annotated[str, Path()]) -> FilePath:
    return parse_path(decode(path))


Repo = Annotated[RepositoryName, Depends(repository_name)]
Revision = Annotated[str, Depends(revision)]
PathInRevision = Annotated[FilePath, Depends(file_path)]
