"""`lorahub cache`."""

from collections.abc import Callable, Mapping

import click

from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidUsage
from lorahub.hub import upkeep
from lorahub.hub.showing import size_text
from lorahub.hub.upkeep import Cleared, Held


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cache() -> None:
    """List and clear what was read from registries and the Hub."""


@command("ls")
def list_cache(session: Session) -> Result:
    """List what is in the cache, and what each takes on the disk: together what `du` says.

    What several share is counted for the first of them. What nobody uses is one line; `lorahub cache prune` removes it.
    """
    root = session.settings.cache_folder
    found = upkeep.survey(root)
    entries = [_data(one) for one in found.held]
    unused = sum(one.disk for one in found.unused)
    if found.unused:
        size = sum(one.size for one in found.unused)
        entries.append(_entry("unused", path=str(root), size=size, disk=unused))
    if not entries:
        return Result(data=[], human="the cache is empty")
    columns = ("host", "repository", "commit", "size", "path", "disk")
    return Result(
        data=entries,
        human="\n".join([table(_HEADER, [_shown(entry) for entry in entries]), _together(found.disk, unused)]),
        ids=[str(entry["path"]) for entry in entries],
        rows=[[entry[column] for column in columns] for entry in entries],
    )


@command("prune")
def prune(session: Session) -> Result:
    """Remove what nobody uses: what broken pulls left, and files that belong to no revision in the cache.

    Waits for pulls that are running, up to --timeout.
    """
    _, cleared = _clear(session, lambda _: False)
    count = sum(cleared.files.values())
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(cleared.files.items()))
    return Result(
        {"files": count, "bytes": cleared.bytes, "kinds": dict(cleared.files)},
        f"✓ removed {count} files, {size_text(cleared.bytes)}" + (f": {kinds}" if kinds else ""),
        ids=[],
        rows=[[count, cleared.bytes]],
    )


@command("rm")
@click.argument("repository", required=False)
@click.option("--all", "everything", is_flag=True, help="The whole cache.")
@click.option("--yes", is_flag=True, help="Don't ask.")
def remove(session: Session, repository: str | None, *, everything: bool, yes: bool) -> Result:
    """Remove what is there of REPOSITORY, of every host."""
    if (repository is None) == (not everything):
        raise InvalidUsage("say which repository, or --all", hint="lorahub cache ls lists them")
    name = str(repository).removeprefix("hf:").lower()

    def doomed(one: Held) -> bool:
        return everything or one.name.lower().partition("@")[0] == name

    found = [one for one in upkeep.survey(session.settings.cache_folder).held if doomed(one)]
    if found:
        session.confirm(f"Remove {len(found)} entries of the cache?", yes=yes)
    gone, cleared = _clear(session, doomed)
    return Result(
        {"removed": [_data(one) for one in gone], "bytes": cleared.bytes},
        f"✓ removed {len(gone)} entries, {size_text(cleared.bytes)}",
        ids=[str(one.path) for one in gone],
        rows=[[str(one.path), one.size] for one in gone],
    )


def _clear(session: Session, doomed: Callable[[Held], bool]) -> tuple[list[Held], Cleared]:
    settings = session.settings
    return upkeep.clear(
        settings.cache_folder,
        doomed,
        patience=settings.timeout,
        on_wait=lambda: session.output.note("  another lorahub fills the cache; waiting for its end"),
    )


_HEADER = ("host", "repository", "commit", "size", "on disk")


def _data(one: Held) -> dict[str, object]:
    return _entry(
        "revision" if one.commit else "base",
        host=one.host,
        repository=one.name,
        commit=one.commit,
        path=str(one.path),
        size=one.size,
        disk=one.disk,
    )


def _entry(kind: str, **known: object) -> dict[str, object]:
    return {"kind": kind, "host": "", "repository": "", "commit": None, **known}


def _shown(entry: Mapping[str, object]) -> list[str]:
    what = entry["repository"] or f"({entry['kind']})"
    sizes = [size_text(int(str(entry[column]))) for column in ("size", "disk")]
    return [str(entry["host"]), str(what), str(entry["commit"] or "")[:12], *sizes]


def _together(disk: int, unused: int) -> str:
    said = f"together {size_text(disk)} on the disk"
    return f"{said}, {size_text(unused)} of it unused: lorahub cache prune" if unused else said


for each in (list_cache, prune, remove):
    cache.add_command(each)
