"""`lorahub combine` and `lorahub extract`: adapters made of adapters, and of fine-tuned models."""

from pathlib import Path
from typing import Any

import click

from lorahub.adapters.files import FolderFiles
from lorahub.cli.losses import loss_data, loss_lines
from lorahub.cli.merge import weighted
from lorahub.cli.merge_methods import method_options
from lorahub.cli.output import Result
from lorahub.cli.session import Session, command
from lorahub.errors import AlreadyExists
from lorahub.hub.merging import Merger
from lorahub.hub.sources import is_of_a_model
from lorahub.merging.adapters import Made, combine_adapters
from lorahub.merging.adapters import extract as extract_from
from lorahub.merging.combinations import COMBINATIONS
from lorahub.merging.recipe import KIND, recipe_of


@command("combine")
@click.argument("adapters", nargs=-1, required=True, metavar="ADAPTER[=WEIGHT]...")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The folder of the new adapter.")
@method_options(but=("rank",))
@click.option("--rank", type=click.IntRange(1, 65_536), help="Of the result; without it a sum is exact.")
def combine(session: Session, adapters: tuple[str, ...], *, output: Path, rank: int | None, **options: Any) -> Result:
    """Make one LoRA of several. A sum is exact unless you ask for a rank; what a rank costs is shown."""
    _refuse_files(output)
    method = options["method"]
    given = {key: value for key, value in options.items() if value is not None}
    if COMBINATIONS[method].asks_for("rank"):
        given["rank"] = rank or 0
    recipe = recipe_of({"kind": KIND, "base": "-", "adapters": [weighted(one) for one in adapters], **given})
    with session.sources() as opened, Merger(opened) as merger:
        sources = [merger.adapter_files(one.source) for one in recipe.adapters]
        made = combine_adapters(recipe, sources, rank=rank or 0)
    return _write(made, output)


@command("extract")
@click.argument("base")
@click.argument("tuned")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The folder of the adapter.")
@click.option("--rank", type=click.IntRange(1, 65_536), default=16, help="Of the adapter.")
@click.option("--name", help="What the adapter calls its base (default: BASE).")
def extract(session: Session, base: str, tuned: str, *, output: Path, rank: int, name: str | None) -> Result:
    """Make a LoRA of what fine-tuning changed: the best of its rank for TUNED − BASE.

    Both are folders, hf:org/name, or repositories of the registry.
    """
    _refuse_files(output)
    with session.sources() as sources:
        before, files = (FolderFiles(sources.fetch(one, is_of_a_model).folder) for one in (base, tuned))
    shown = session.progress()
    shown.begin("extracting", sum(files.sizes.values()))
    made = extract_from(before, files, rank=rank, base_name=name or base)
    shown.end()
    return _write(made, output)


def _refuse_files(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AlreadyExists(f"{folder} has files already", hint="name another folder, or remove it")


def _write(made: Made, folder: Path) -> Result:
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in made.files.items():
        (folder / path).write_bytes(content)
    lines = [f"✓ {folder}: {len(made.errors)} modules", *loss_lines(made)]
    if made.left_out:
        lines.append(f"  ! {len(made.left_out)} other tensors changed and are not in it, first {made.left_out[0]}")
    data = {"folder": str(folder), **loss_data(made), "left_out": list(made.left_out)}
    return Result(data, "\n".join(lines), ids=[str(folder)], rows=[[str(folder), made.rank, made.error]])
