"""`lorahub convert`."""

from pathlib import Path

import click

from lorahub.cli.losses import loss_data, loss_lines
from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command
from lorahub.conversion import TARGETS
from lorahub.hub.converting import LORA, Converted, approximate_to, convert_to
from lorahub.hub.showing import size_text
from lorahub.merging.low_rank import Limit


@command("convert")
@click.argument("source")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--to", "target", type=click.Choice([*TARGETS, LORA]), required=True, help="The format to write.")
@click.option("--base", metavar="BASE", help="The base: a folder, hf:org/name, or a name (default: the one it names).")
@click.option("--rank", type=click.IntRange(1, 65_536), help="Make a LoRA of it that has at most this rank.")
@click.option("--keep", type=click.FloatRange(0, 1, min_open=True), help="The same, with this share of ‖ΔW‖² kept.")
def convert(
    session: Session,
    source: str,
    folder: Path,
    *,
    target: str,
    base: str | None,
    rank: int | None,
    keep: float | None,
) -> Result:
    """Write the adapter in SOURCE in another format, into FOLDER: exactly, or not at all.

    SOURCE is a folder, a file, hf:org/name, or a reference of the registry. `--to lora` makes a plain LoRA of another
    method, in the same format: exactly where that is possible. With --rank or --keep it is the best that there is, and
    what it loses is told; so too with any other format.
    """
    with session.sources() as sources:
        if target != LORA and rank is None and keep is None:
            return converted_result(convert_to(sources, source, folder, target, base))
        limit = Limit(rank, keep)
        made = approximate_to(sources, source, folder, target, base, limit=limit, progress=session.progress())
        return converted_result(made)


def converted_result(made: Converted) -> Result:
    """How a conversion is shown, whoever asked for it."""
    rows = [[name, size_text(size)] for name, size in made.files.items()]
    lines = [table(["file", "size"], rows), f"✓ {made.target} in {made.folder}"]
    data = {"folder": str(made.folder), "target": made.target, "files": dict(made.files)}
    if made.approximation is not None:
        lines += loss_lines(made.approximation)
        data |= loss_data(made.approximation)
    return Result(
        data=data,
        human="\n".join(lines),
        ids=[str(made.folder / name) for name in made.files],
        rows=[[str(made.folder / name), size] for name, size in made.files.items()],
    )
