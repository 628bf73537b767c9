"""`lorahub convert`."""

from pathlib import Path

import click

from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command
from lorahub.conversion import TARGETS
from lorahub.hub.converting import Converted, convert_to
from lorahub.hub.showing import size_text


@command("convert")
@click.argument("source")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--to", "target", type=click.Choice(TARGETS), required=True, help="The format to write.")
@click.option("--base", metavar="BASE", help="The base: a folder, hf:org/name, or a name (default: the one it names).")
def convert(session: Session, source: str, folder: Path, *, target: str, base: str | None) -> Result:
    """Write the adapter in SOURCE in another format, into FOLDER: exactly, or not at all.

    SOURCE is a folder, a file, hf:org/name, or a reference of the registry.
    """
    with session.sources() as sources:
        return converted_result(convert_to(sources, source, folder, target, base))


def converted_result(made: Converted) -> Result:
    """How a conversion is shown, whoever asked for it."""
    rows = [[name, size_text(size)] for name, size in made.files.items()]
    return Result(
        data={"folder": str(made.folder), "target": made.target, "files": dict(made.files)},
        human=f"{table(['file', 'size'], rows)}\n✓ {made.target} in {made.folder}",
        ids=[str(made.folder / name) for name in made.files],
        rows=[[str(made.folder / name), size] for name, size in made.files.items()],
    )
