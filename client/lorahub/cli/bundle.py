"""`lorahub export` and `lorahub import-bundle`."""

from dataclasses import asdict
from pathlib import Path

import click

from lorahub.cli.output import Result
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidUsage
from lorahub.hub.showing import size_text

_path = click.Path(path_type=Path, dir_okay=False)


@command("export")
@click.argument("references", nargs=-1, required=True)
@click.option("-o", "--output", "target", type=_path, required=True, help="The bundle to write.")
@click.option("--sign", "key", type=_path, metavar="KEY", help="Sign it: a private key in PEM, Ed25519 or EC.")
def export(session: Session, references: tuple[str, ...], target: Path, key: Path | None) -> Result:
    """Write repositories into one file, for a registry that no network reaches.

    A reference without a revision is the whole repository; with one, the repository as it was at that revision.
    """
    with session.hub() as hub:
        manifest = hub.export(references, target, key=key)
    size = target.stat().st_size
    names = [str(record.name) for record in manifest.repositories]
    data = {
        "file": str(target),
        "size": size,
        "signed": key is not None,
        "repositories": [
            {"id": str(record.name), "commits": [commit.id for commit in record.commits]}
            for record in manifest.repositories
        ],
    }
    lines = [f"✓ {target}   {size_text(size)}{'' if key is None else '   signed'}", *(f"  {name}" for name in names)]
    return Result(data, "\n".join(lines), ids=[str(target)], rows=[[name, target] for name in names])


@command("import-bundle")
@click.argument("bundle", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--key", type=_path, metavar="KEY", help="The public key, in PEM, that must have signed it.")
@click.option("--unsigned", is_flag=True, help="Take it whoever made it.")
def import_bundle(session: Session, bundle: Path, *, key: Path | None, unsigned: bool) -> Result:
    """Bring the repositories of a bundle into the registry, with the ids that they had. For administrators.

    A bundle of which a bit was changed is refused. What the registry has is moved forward, never overwritten.
    """
    if (key is None) != unsigned:
        raise InvalidUsage("whose bundle is it?", hint="name the key with --key PUB, or say --unsigned")
    with session.hub() as hub:
        taken = hub.import_bundle(bundle, key=key)
    lines = [f"✓ {bundle}"]
    lines += [f"  {one.id}: {one.commits} new commits, {one.references} names" for one in taken.repositories]
    names = [one.id for one in taken.repositories]
    return Result(asdict(taken), "\n".join(lines), ids=names, rows=[[name] for name in names])
