"""`lorahub search`."""

from collections.abc import Sequence
from typing import Any

import click

from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command
from lorahub.hub.showing import time_text
from lorahub.protocol.messages.message import as_json
from lorahub.protocol.messages.models import ModelInformation


@command("search")
@click.argument("text", required=False)
@click.option("--author", metavar="NAME", help="In this namespace.")
@click.option("--base", metavar="ID", help="Adapters of this base model.")
@click.option("--rank", metavar="N..M", help="Of this rank: 16, 8..64, 8.., ..64.")
@click.option("--target", "targets", multiple=True, metavar="MODULE", help="That updates this module; repeatable.")
@click.option("--fits", multiple=True, metavar="RUNTIME", help="That loads there: vllm, llama.cpp, …; repeatable.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="With this tag; repeatable.")
@click.option("--sort", type=click.Choice(["lastModified", "createdAt", "downloads", "likes", "trendingScore"]))
@click.option("--limit", type=click.IntRange(1, 10_000), default=30, show_default=True)
def search(
    session: Session,
    text: str | None,
    tags: tuple[str, ...],
    **wishes: Any,
) -> Result:
    """Find repositories whose name has TEXT in it, and that match every option given."""
    with session.hub() as hub:
        found = hub.search(text, filters=tags, **wishes)
    rows = [
        [model.id, *_measured(model), model.downloads or 0, _day(model), "private" if model.private else ""]
        for model in found
    ]
    return Result(
        data=[_line(model) for model in found],
        human=table(_HEADER, rows) if rows else "nothing matches",
        ids=[model.id for model in found],
        rows=[
            [model.id, *_measured(model), model.downloads or 0, model.last_modified, ",".join(model.tags or ())]
            for model in found
        ],
    )


_HEADER = ("repository", "base", "rank", "verdict", "downloads", "updated", "")


def _measured(model: ModelInformation) -> list[str]:
    """Base, rank and verdict; a repository without an adapter has none."""
    found = model.adapter
    return ["", "", ""] if found is None else [found.base or "", _span(found.ranks), found.verdict]


def _span(ranks: Sequence[int]) -> str:
    """`16`, or `8..64`, as --rank takes it."""
    least, most = min(ranks, default=None), max(ranks, default=None)
    return "" if least is None else str(least) if least == most else f"{least}..{most}"


def _line(model: ModelInformation) -> dict[str, Any]:
    return {
        "id": model.id,
        "tags": list(model.tags or ()),
        "downloads": model.downloads or 0,
        "likes": model.likes or 0,
        "private": bool(model.private),
        "updated_at": model.last_modified,
        "library": model.library_name,
        "adapter": as_json(model.adapter),
    }


def _day(model: ModelInformation) -> str:
    return time_text(model.last_modified)[:10] if model.last_modified else ""
