"""`lorahub base`: the base models that adapters are checked against."""

from dataclasses import asdict
from typing import Any

import click

from lorahub.adapters.base_model import BaseLayout
from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidUsage
from lorahub.hub.bases import Bases, OpenedBase, hash_folder
from lorahub.hub.showing import size_text
from lorahub.hub.sources import local_place
from lorahub.protocol.messages.bases import CountedBase


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def base() -> None:
    """Register base models, and show what is known of them."""


@command("add")
@click.argument("source")
@click.argument("name", required=False)
@click.option("--revision", help="Record this revision (default: the source's commit).")
@click.option(
    "--headers-only", is_flag=True, help="Don't hash the weights of a folder: faster, but only shapes are known."
)
def add(session: Session, source: str, name: str | None, *, revision: str | None, headers_only: bool) -> Result:
    """Register the base in SOURCE under NAME.

    SOURCE is a folder, hf:org/name[@revision], or a repository of this registry. Of a folder every tensor is hashed,
    so that "the same weights" can be told from "the same shapes"; from a hub only headers are read.
    """
    opened = _open(session, source, hashing=not headers_only)
    known = name or opened.base.name
    if known is None:
        raise InvalidUsage("a folder has no name of its own", hint=f"lorahub base add {source} acme/llama-7b")
    with session.hub() as hub:
        answer = hub.bases.add(opened.base, known, revision=revision)
    read = f", {size_text(opened.bytes_read)} read" if opened.bytes_read else ""
    lines = [f"✓ {known}{_at(answer.revision)} is registered{read}", *_described(opened.base)]
    return Result(
        asdict(answer), "\n".join(lines), ids=[opened.base.layout_digest], rows=[[known, opened.base.layout_digest]]
    )


@command("info")
@click.argument("source")
def info(session: Session, source: str) -> Result:
    """Show the base in SOURCE: a folder, hf:org/name[@revision], or a name of this registry."""
    opened = _open(session, source, hashing=False)
    found = opened.base
    lines = [f"{found.name or source}{_at(found.revision)}", *_described(found)]
    lines += [f"  ! {one.rule} {one.message}" for one in found.findings]
    if opened.bytes_read:
        lines.append(f"  {size_text(opened.bytes_read)} read")
    data = {
        **_facts(found),
        "origin": opened.origin,
        "bytes_read": opened.bytes_read,
        "findings": [one.as_json() for one in found.findings],
    }
    return Result(
        data, "\n".join(lines), ids=[found.layout_digest], rows=[[key, value] for key, value in _facts(found).items()]
    )


@command("ls")
@click.argument("text", required=False)
def list_bases(session: Session, text: str | None) -> Result:
    """List the registered bases, or those whose name has TEXT in it."""
    with session.hub() as hub:
        found = hub.bases.search(text)
    header = ["base", "revision", "architecture", "parameters", "weights", "adapters"]
    rows = [_row(entry) for entry in found]
    human = table(header, rows) if rows else "no base is registered; lorahub base add hf:org/name, or a folder"
    return Result([asdict(entry) for entry in found], human, ids=[entry.name for entry in found], rows=rows)


def _row(entry: CountedBase) -> list[Any]:
    return [
        entry.name,
        (entry.revision or "")[:12],
        entry.architecture or "",
        _count(entry.parameters),
        "known" if entry.weights_digest else "shapes only",
        entry.adapters,
    ]


def _open(session: Session, source: str, *, hashing: bool) -> OpenedBase:
    with session.sources() as sources:
        if hashing and local_place(source) is not None:
            return OpenedBase(hash_folder(sources.fetch(source).folder, session.progress()), "folder")
        return Bases(sources).open(source)


def _described(found: BaseLayout) -> list[str]:
    what = found.architecture or found.model_type or "weights without config.json"
    weights = (
        f"  weights  sha256:{found.weights_digest}" if found.weights_digest else "  weights  not hashed: shapes only"
    )
    return [
        f"  {what}, {_count(found.parameters)} parameters, {size_text(found.bytes)}",
        f"  {len(found.tensors)} tensors of {', '.join(found.dtypes)}",
        f"  layout   sha256:{found.layout_digest}",
        weights,
    ]


def _facts(found: BaseLayout) -> dict[str, Any]:
    return {
        "name": found.name,
        "revision": found.revision,
        "architecture": found.architecture,
        "model_type": found.model_type,
        "parameters": found.parameters,
        "tensors": len(found.tensors),
        "dtypes": found.dtypes,
        "bytes": found.bytes,
        "layout_digest": found.layout_digest,
        "weights_digest": found.weights_digest,
        "quantised": found.is_quantised,
    }


def _at(revision: str | None) -> str:
    return f"@{revision[:12]}" if revision else ""


def _count(number: int) -> str:
    """A large number for people.

    >>> _count(8_030_261_248)
    '8.0B'
    """
    amount = float(number)
    for unit in ("", "k", "M"):
        if amount < 1000:
            return f"{amount:.0f}" if unit == "" else f"{amount:.1f}{unit}"
        amount /= 1000
    return f"{amount:.1f}B"


base.add_command(add)
base.add_command(info)
base.add_command(list_bases)
