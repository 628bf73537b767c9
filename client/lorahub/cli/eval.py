"""`lorahub eval`."""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lorahub.adapters.evaluation import EVALUATION, Evaluation, card_with
from lorahub.cli.completing import placed
from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidConfiguration, InvalidUsage
from lorahub.hub.sources import local_place
from lorahub.protocol.references import Reference

if TYPE_CHECKING:
    from lorahub.training.config import TrainConfig

_CARD = "README.md"


@command("eval")
@click.argument("adapter", shell_complete=placed)
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Rows of JSON, as `lorahub train` takes.")
@click.option("--base", metavar="BASE", help="A folder, hf:org/name, or a name (default: the one it names).")
@click.option(
    "--merged/--no-merged", default=True, help="Also measure the merged model, written to a temporary folder."
)
@click.option("--save/--no-save", default=True, help="Write eval.json and the card's model-index into a folder.")
@click.option("--push", is_flag=True, help="Publish the results as the next version of a reference.")
@click.option("--max-len", type=int, default=1024, show_default=True, help="Tokens of one row.")
@click.option(
    "--train-on", type=click.Choice(["auto", "completion", "all"]), default="auto", help="Which tokens count."
)
@click.option("--batch-tokens", type=int, default=1024, show_default=True, help="Tokens of one forward.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, …")
@click.option("--dtype", type=click.Choice(["auto", "bf16", "fp32"]), default="auto", help="Of the base.")
def eval_(
    session: Session,
    adapter: str,
    *,
    data: Path,
    base: str | None,
    merged: bool,
    save: bool,
    push: bool,
    **settings: Any,
) -> Result:
    """Measure ADAPTER, a folder or a reference, on rows: loss, perplexity, exact match, beside its base.

    In a folder the results are kept: eval.json, and model-index in README.md; the next push publishes them.
    """
    place = local_place(adapter)
    if push:
        _require_ours(adapter, place)
    config = config_of(settings)
    from lorahub.training.evaluation import EVALUATED, evaluate

    models = [name for name in EVALUATED if merged or name != "merged"]
    found = evaluate(adapter, data, config, base=base, models=models, hub=session.hub)
    notes = []
    if push:
        notes.append(f"  published as {_published(session, adapter, found)}")
    elif save and place is not None:
        keep(place, place.resolve().name, found)
        notes.append(f"  wrote {EVALUATION} and model-index in {_CARD}: lorahub push publishes them")
    if merged and "merged" not in found.scores:
        notes.append("  it is no update to weights: there is no merged model")
    return _result(adapter, found, notes)


def _require_ours(adapter: str, place: Path | None) -> None:
    if place is not None:
        raise InvalidUsage("a folder is published by `lorahub push`", hint=f"lorahub push {adapter} namespace/name")
    if Reference.parse(adapter).scheme == "hf":
        raise InvalidUsage(f"{adapter} is the Hub's", hint=f"bring it here: lorahub import {adapter} namespace/name")


def config_of(settings: dict[str, Any]) -> "TrainConfig":
    """Also keeps transformers quiet. Raises `InvalidConfiguration`, where torch isn't installed too."""
    try:
        from transformers.utils import logging

        import lorahub.training.evaluation  # noqa: F401 (to find out what is missing)
        from lorahub.training.config import TrainConfig
    except ModuleNotFoundError as error:
        raise InvalidConfiguration(
            f"to evaluate takes a model, and {error.name} is not installed",
            hint="pip install 'lorahub-registry[train]'",
        ) from None
    quiet: Any = logging
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
    return TrainConfig.of(settings)


def keep(folder: Path, name: str, found: Evaluation) -> None:
    """eval.json, and the card's model-index; the rest of the card stays."""
    card = folder / _CARD
    before = card.read_text("utf-8") if card.is_file() else f"# {name}\n"
    for place, content in ((folder / EVALUATION, found.as_bytes()), (card, card_with(before, name, found).encode())):
        part = place.with_name(f".{place.name}.part")
        part.write_bytes(content)
        part.replace(place)


def _published(session: Session, adapter: str, found: Evaluation) -> str:
    """The same files, with the results beside them, as the next version."""
    name = str(Reference.parse(adapter).repository)
    with tempfile.TemporaryDirectory() as place, session.hub() as hub:
        folder = Path(place) / "adapter"
        shutil.copytree(hub.fetch(adapter), folder)
        keep(folder, name.rpartition("/")[2], found)
        pushed = hub.push(folder, name, message=f"Evaluate on {found.data['name']}")
    return f"{pushed.repository}@{pushed.version}"


def _result(adapter: str, found: Evaluation, notes: list[str]) -> Result:
    rows = [
        [name, f"{score.loss:.4f}", f"{score.perplexity:.4g}", f"{score.exact_match:.1%}"]
        for name, score in found.scores.items()
    ]
    on = f"{found.data['rows']} rows of {found.data['name']}, {found.data['supervised']} tokens that count"
    return Result(
        found.as_json(),
        f"{adapter} on {on}\n\n{table(['', 'loss', 'perplexity', 'exact match'], rows)}",
        ids=[f"{found.scores['adapter'].loss:.6f}"],
        rows=[[name, score.loss, score.perplexity, score.exact_match] for name, score in found.scores.items()],
        notes=notes,
    )
