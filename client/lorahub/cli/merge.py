"""`lorahub merge`."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from lorahub.cli.completing import placed
from lorahub.cli.merge_methods import method_options
from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidUsage
from lorahub.hub.merging import Merger
from lorahub.hub.showing import size_text
from lorahub.merging.devices import open_device
from lorahub.merging.plan import MergePlan
from lorahub.merging.recipe import KIND, MOST_BYTES, Recipe, parse_recipe, recipe_of
from lorahub.protocol.messages.merges import MergeJob, PlannedMerge

_LOSSY = 0.1


@command("merge")
@click.argument("base", required=False, shell_complete=placed)
@click.argument("adapters", nargs=-1, metavar="[ADAPTER[=WEIGHT]]...", shell_complete=placed)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The folder to write the model to.")
@click.option("--recipe", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A recipe instead.")
@method_options()
@click.option("--dtype", help="float32, bfloat16 or float16 (default: the base's own).")
@click.option("--threads", type=click.IntRange(1, 256), help="Default: one for each core.")
@click.option("--device", default="cpu", show_default=True, help="cpu, auto (a GPU, if any), cuda, …: the same bytes.")
@click.option("--dry-run", is_flag=True, help="Show files, sizes and cost; write nothing.")
@click.option(
    "--save-recipe", type=click.Path(path_type=Path, dir_okay=False), help="Write the recipe to this file too."
)
@click.option("--server", "target", metavar="NAMESPACE/NAME", help="Let the registry merge, and publish it there.")
@click.option("--no-wait", is_flag=True, help="With --server: return as soon as the job is accepted.")
def merge(  # noqa: PLR0913 (each is an option)
    session: Session,
    base: str | None,
    adapters: tuple[str, ...],
    *,
    output: Path | None,
    recipe: Path | None,
    threads: int | None,
    device: str,
    dry_run: bool,
    save_recipe: Path | None,
    target: str | None,
    no_wait: bool,
    **options: Any,
) -> Result:
    """Fold adapters into BASE: W' = W + s·BA, exactly, in the memory of one tensor.

    BASE is a folder, hf:org/name, or a repository of the registry; an adapter is one of these, perhaps with =WEIGHT.
    An interrupted merge goes on where it was when it is run again.
    """
    asked = _recipe(base, adapters, recipe, options)
    if save_recipe is not None:
        save_recipe.write_text(asked.as_yaml())
    if target is not None:
        if device != "cpu":
            raise InvalidUsage(
                "--device is for a merge on this machine",
                hint="leave it out: a registry's workers go by its LORAHUB_MERGE_DEVICE",
            )
        return _on_server(session, asked, target, wait=not no_wait, dry_run=dry_run)
    if output is None and not dry_run:
        raise InvalidUsage("where to is missing", hint="add -o FOLDER, or --dry-run to see what it would write")
    with session.sources() as sources, Merger(sources) as merger:
        if dry_run or output is None:
            return _planned(merger.plan(asked, is_dry=True))
        plan = merger.plan(asked, device=open_device(device))
        begun = time.monotonic()
        merger.write(plan, output, threads=threads, progress=session.progress())
        return _written(plan, output, time.monotonic() - begun)


def _recipe(base: str | None, adapters: tuple[str, ...], file: Path | None, options: dict[str, Any]) -> Recipe:
    if file is not None:
        if base is not None:
            raise InvalidUsage("a recipe names its base and adapters", hint="drop them, or drop --recipe")
        if file.stat().st_size > MOST_BYTES:
            raise InvalidUsage(f"{file} is no recipe: it is longer than {MOST_BYTES >> 10} KiB")
        return parse_recipe(file.read_bytes())
    return recipe_from(base, adapters, options)


def recipe_from(base: str | None, adapters: tuple[str, ...], options: Mapping[str, Any]) -> Recipe:
    """As it is written on a command line. Raises `InvalidUsage`, `InvalidRecipe`."""
    if base is None or not adapters:
        raise InvalidUsage("a base and an adapter are missing", hint="lorahub merge ./llama acme/sql=0.7 -o ./merged")
    given = {key: value for key, value in options.items() if value is not None}
    return recipe_of({"kind": KIND, "base": base, "adapters": [weighted(adapter) for adapter in adapters], **given})


def weighted(adapter: str) -> dict[str, Any]:
    """`acme/sql=0.7`; a folder may have `=` in its name, so that only a number counts."""
    source, _, weight = adapter.rpartition("=")
    try:
        return {"source": source, "weight": float(weight)} if source else {"source": adapter}
    except ValueError:
        return {"source": adapter}


# --- what is shown ----------------------------------------------------------------------------------------------------


def _facts(plan: MergePlan) -> dict[str, Any]:
    return {
        "digest": plan.digest,
        "recipe": plan.recipe.as_json(),
        "files": plan.files,
        "cost": plan.cost.as_json(),
        "notes": list(plan.notes),
    }


def _planned(plan: MergePlan) -> Result:
    rows = [[path, size_text(size)] for path, size in plan.files.items()]
    cost = plan.cost
    lines = [
        table(["file", "size"], rows),
        "",
        f"  {size_text(cost.bytes)} of weights, {size_text(cost.computed)} computed, {cost.work / 1e9:.1f} GFLOP",
        *(f"  {note}" for note in plan.notes),
        f"  recipe digest {plan.digest[:16]}",
    ]
    paths = list(plan.files)
    return Result(_facts(plan), "\n".join(lines), ids=[plan.digest], rows=[[path, plan.files[path]] for path in paths])


def _written(plan: MergePlan, folder: Path, seconds: float) -> Result:
    loss = plan.rounding_loss()
    rate = size_text(int(plan.cost.bytes / max(seconds, 1e-3)))
    lines = [f"✓ {folder}: {size_text(plan.cost.bytes)} in {seconds:.1f} s ({rate}/s)"]
    if plan.device is not None:
        lines.append(f"  on {plan.device}: {plan.device.account}")
    lines += [f"  {note}" for note in plan.notes]
    if loss is not None:
        lines.append(f"  rounding loses {loss:.1%} of ‖ΔW‖" + _advice(loss))
    data = {**_facts(plan), "folder": str(folder), "seconds": seconds, "rounding_loss": loss}
    data["device"] = "cpu" if plan.device is None else str(plan.device)
    return Result(data, "\n".join(lines), ids=[str(folder)], rows=[[str(folder), plan.digest]])


def _advice(loss: float) -> str:
    return ": the update is small beside the weights; --dtype float32 keeps it" if loss > _LOSSY else ""


def _on_server(session: Session, recipe: Recipe, target: str, *, wait: bool, dry_run: bool) -> Result:
    with session.hub() as hub:
        if dry_run:
            planned = hub.merges.plan(recipe)
            return Result(asdict(planned), _described(planned), ids=[planned.digest])
        job = hub.merges.start(recipe, target)
        _note(session, job)
        if wait:
            job = hub.merges.wait(job.id, session.progress())
    done = job.reference
    line = f"✓ {done}" if done else f"✓ accepted as {job.id}; see: lorahub merge-job {job.id}"
    return Result(asdict(job), line, ids=[done or job.id])


def _note(session: Session, job: MergeJob) -> None:
    """Why it may wait for long."""
    if job.note:
        session.output.note(f"  {job.id}: {job.note}")


@command("merge-job")
@click.argument("job")
@click.option("--cancel", is_flag=True, help="Stop it; nothing of it stays visible.")
@click.option("--wait", is_flag=True, help="Until it is over.")
def merge_job(session: Session, job: str, *, cancel: bool, wait: bool) -> Result:
    """Show a merge on the registry, wait for it, or cancel it."""
    with session.hub() as hub:
        found = hub.merges.cancel(job) if cancel else hub.merges.find(job)
        _note(session, found)
        if wait and not cancel:
            found = hub.merges.wait(job, session.progress())
    status, done = found.status, found.reference
    line = f"{job}: {status}, {size_text(found.done)} of {size_text(found.bytes)}" + (f", {done}" if done else "")
    return Result(asdict(found), line, ids=[done or job], rows=[[job, status, done]])


def _described(planned: PlannedMerge) -> str:
    rows = [[path, size_text(size)] for path, size in planned.files.items()]
    return table(["file", "size"], rows)
