"""`lorahub base`: the base models that adapters are checked against."""

import time
from dataclasses import asdict
from typing import Any

import click

from lorahub.adapters.base_model import BaseLayout
from lorahub.cli.completing import placed
from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command
from lorahub.errors import BaseNotFound, InvalidUsage
from lorahub.hub.bases import Bases, OpenedBase, hash_folder
from lorahub.hub.hub import Hub
from lorahub.hub.showing import size_text
from lorahub.hub.sources import local_place
from lorahub.protocol.messages.bases import CountedBase, KnownBase


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def base() -> None:
    """Register base models, and show what is known of them."""


@command("add")
@click.argument("source", shell_complete=placed)
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
@click.argument("source", shell_complete=placed)
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


@command("watch")
@click.argument("source", shell_complete=placed)
@click.argument("name", required=False)
@click.option("--every", type=click.FloatRange(min=1), default=3600, show_default=True, help="Seconds between looks.")
@click.option("--once", is_flag=True, help="Look once; exit 1 if an adapter doesn't fit.")
def watch(session: Session, source: str, name: str | None, *, every: float, once: bool) -> Result:
    """Look at SOURCE for a new revision, register it, and say which adapters still fit.

    SOURCE is hf:org/name, or a base that this registry knows. NAME is what it is called here. The registry judges every
    adapter that names it, tells their owners, and says so in its feed (`lorahub watch --kind check.changed`).
    """
    seen: str | None = None
    while True:
        with session.hub() as hub:
            known = _followed(session, hub, source, name)
            if known.layout_digest + (known.revision or "") != seen:
                seen = known.layout_digest + (known.revision or "")
                result = _judged(hub, known)
                if once:
                    return result
                session.output.success(result)
        time.sleep(every)


def _followed(session: Session, hub: Hub, source: str, name: str | None) -> KnownBase | CountedBase:
    """The base as it is there now, registered here where it wasn't. Raises `BaseNotFound`."""
    if source.startswith("hf:"):
        opened = _open(session, source, hashing=False).base
        called = name or opened.name or source.removeprefix("hf:")
        newest = _newest(hub, called)
        if newest is not None and newest.revision == opened.revision:
            return newest
        return hub.bases.add(opened, called)
    found = _newest(hub, source)
    if found is None:
        raise BaseNotFound(f"no base is called {source} here", hint=f"lorahub base add hf:{source}")
    return found


def _newest(hub: Hub, name: str) -> CountedBase | None:
    return next((one for one in hub.bases.search(name) if one.name.lower() == name.lower()), None)


def _judged(hub: Hub, known: KnownBase | CountedBase) -> Result:
    """The registry's verdicts on what names it, against this very revision."""
    at = f"@{known.revision}" if known.revision else ""
    adapters = [one.reference for one in hub.bases.adapters(known.name)]
    checks = hub.check_all(adapters, [f"{known.name}{at}"]).checks if adapters else ()
    bad = [one for one in checks if one.verdict not in ("compatible", "fits")]
    lines = [f"{known.name}{_at(known.revision)}: {len(checks) - len(bad)} of {len(checks)} adapters fit"]
    for one in bad:
        worst = next((found for found in one.findings if found.severity == "error"), None)
        lines.append(f"✗ {one.adapter} {one.verdict}{f': {worst.rule} {worst.message}' if worst else ''}")
    verdicts = [one.verdict for one in checks]
    data = {
        "base": known.name,
        "revision": known.revision,
        "layout_digest": known.layout_digest,
        "summary": {verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))},
        "unfit": [{"adapter": one.adapter, "commit": one.commit, "verdict": one.verdict} for one in bad],
    }
    rows = [[one.adapter, one.commit, one.verdict] for one in checks]
    return Result(data, lines, ids=[one.adapter for one in bad], rows=rows, exit_code=1 if bad else 0)


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
base.add_command(watch)
