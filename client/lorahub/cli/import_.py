"""`lorahub import`: from the Hub into the registry, or from a pickle into safetensors."""

from pathlib import Path

import click

from lorahub.adapters.files import FolderFiles
from lorahub.adapters.reader import read_adapter
from lorahub.cli.output import Result
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidUsage
from lorahub.hub.importing import import_pickle
from lorahub.hub.showing import size_text
from lorahub.hub.sources import local_place


@command("import")
@click.argument("source")
@click.argument("target")
@click.option("--unsafe-pickle", is_flag=True, help="Unpickle it, in a process of its own, tensors only.")
@click.option("--private", is_flag=True, help="Make the repository private, where it is new.")
@click.option("--base", metavar="BASE", help="The base whose digests are recorded.")
def import_(
    session: Session, source: str, target: str, *, unsafe_pickle: bool, private: bool, base: str | None
) -> Result:
    """Bring an adapter from the Hub into a repository, or turn a pickle into safetensors.

    With SOURCE hf:org/name@rev, its files go into the repository TARGET, with the commit that they come from. With
    SOURCE a pickle, adapter_model.bin or a .pt file, safetensors go into the folder TARGET; reading a pickle can run
    code, so that has to be asked for, and happens in a process that has nothing to lose.
    """
    place = local_place(source)
    if place is None and source.startswith(("hf:", "http://", "https://")):
        return _from_hub(session, source, target, private=private, base=base)
    return _from_pickle(place or Path(source), Path(target), unsafe_pickle=unsafe_pickle)


def _from_hub(session: Session, source: str, target: str, *, private: bool, base: str | None) -> Result:
    with session.hub() as hub:
        pushed = hub.import_from_hub(source, target, private=private, base=base)
    reference = f"{pushed.repository}@{pushed.version}"
    data = {
        "reference": reference,
        "commit": pushed.commit,
        "digest": pushed.digest,
        "created": pushed.created,
        "left": [{"path": one.path, "why": one.why} for one in pushed.left],
    }
    lines = [f"✓ {source} → {reference}   {pushed.files} files, {size_text(pushed.size)}", pushed.url]
    notes = [f"! left: {one.path}: {one.why}" for one in pushed.left]
    return Result(data, "\n".join(lines), ids=[reference], rows=[[source, reference]], notes=notes)


def _from_pickle(source: Path, folder: Path, *, unsafe_pickle: bool) -> Result:
    if not source.exists():
        raise InvalidUsage(f"{source} isn't there", hint="name a pickled checkpoint, or hf:org/name")
    if not unsafe_pickle:
        raise InvalidUsage(
            f"{source} is imported by unpickling it, which can run code",
            hint="if you trust where it came from, add --unsafe-pickle",
        )
    made = import_pickle(source, folder)
    adapter = read_adapter(FolderFiles(folder))
    what = f"{adapter.format} {adapter.method}, {len(adapter.updates)} modules"
    lines = [f"✓ {made}   {size_text(made.stat().st_size)}", f"  {what}"]
    lines += [f"  {found.rule} {found.severity.value}: {found.message}" for found in adapter.findings]
    data = {
        "file": str(made),
        "format": adapter.format,
        "method": adapter.method,
        "findings": [found.as_json() for found in adapter.findings],
    }
    return Result(data, "\n".join(lines), ids=[str(made)], rows=[[str(made), adapter.format, adapter.method]])
