"""`lorahub push`."""

from dataclasses import asdict
from pathlib import Path

import click

from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command
from lorahub.errors import RepositoryNotFound
from lorahub.hub.showing import size_text


@command("push")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("reference")
@click.option("-m", "--message", help="What changed.")
@click.option("--base", metavar="BASE", help="The base model: a folder, hf:org/name@rev, or a name of the registry.")
@click.option("--version", metavar="vN", help="The version to make (default: the next).")
@click.option("--alias", "aliases", multiple=True, metavar="NAME", help="Point this alias at the version; repeatable.")
@click.option("--no-latest", is_flag=True, help="Leave the alias latest where it is.")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--create/--no-create", default=True, help="Make the repository where it is missing.")
@click.option(
    "--policy", type=click.Choice(["refuse", "warn"]), help="What to do where it doesn't fit its base, from now on."
)
@click.option("--sign", type=click.Path(path_type=Path), metavar="KEY", help="Sign the files with this key (PEM).")
@click.option("--dry-run", is_flag=True, help="Only list what would be sent.")
def push(session: Session, folder: Path, reference: str, *, dry_run: bool, **wishes: object) -> Result:
    """Publish FOLDER as a new version of REFERENCE (namespace/name).

    A version is exactly the folder's files, a link being the file that it leads to. Hidden files, keys, pickles and
    by-products of training stay; pushing the same files again is done already.
    """
    if dry_run:
        return _would_push(session, folder, reference)
    with session.hub() as hub:
        pushed = hub.push(
            folder,
            reference,
            message=wishes["message"],  # type: ignore[arg-type]  # click has parsed them
            version=wishes["version"],  # type: ignore[arg-type]
            aliases=wishes["aliases"],  # type: ignore[arg-type]
            latest=not wishes["no_latest"],
            private=bool(wishes["private"]),
            create=bool(wishes["create"]),
            base=wishes["base"],  # type: ignore[arg-type]
            sign=wishes["sign"],  # type: ignore[arg-type]
            policy=wishes["policy"],  # type: ignore[arg-type]
        )
    name = f"{pushed.repository}@{pushed.version}"
    verb = "Pushed" if pushed.created else "Already there:"
    aliases = f"  ({', '.join(pushed.aliases)})" if pushed.aliases else ""
    lines = [
        f"✓ {verb} {name}{aliases}   {pushed.files} files, {size_text(pushed.size)}",
        f"  {pushed.digest}",
        f"  Next: lorahub pull {name}",
    ]
    return Result(
        data=asdict(pushed),
        human="\n".join(lines),
        ids=[name],
        rows=[[pushed.repository, pushed.version, pushed.digest, pushed.commit, pushed.created]],
        notes=[
            *(f"  a link: {path} → {target}" for path, target in pushed.links.items()),
            *(f"  left here: {left.path} ({left.why})" for left in pushed.left),
        ],
    )


def _would_push(session: Session, folder: Path, reference: str) -> Result:
    with session.hub() as hub:
        listing = hub.list_folder(folder)
        try:
            versions = [version.name for version in hub.versions(reference)]
        except RepositoryNotFound:
            versions = []
    rows = [[file.path, size_text(file.size)] for file in listing.files]
    total = sum(file.size for file in listing.files)
    newest = f"after {versions[0]}" if versions else "its first version"
    human = (
        f"{table(['file', 'size'], rows)}\nWould push {len(rows)} files, {size_text(total)}, to {reference}, {newest}."
    )
    return Result(
        data={
            "files": [{"path": file.path, "size": file.size} for file in listing.files],
            "left": [asdict(left) for left in listing.left],
            "versions": versions,
        },
        human=human,
        ids=[file.path for file in listing.files],
        rows=[[file.path, file.size] for file in listing.files],
        notes=[
            *(f"  a link: {file.path} → {file.target}" for file in listing.files if file.target),
            *(f"  would stay: {left.path} ({left.why})" for left in listing.left),
            *([] if (folder / "lorahub.json").is_file() else ["  a lorahub.json would go beside an adapter"]),
        ],
    )
