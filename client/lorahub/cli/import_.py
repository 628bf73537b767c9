"""`lorahub import`."""

from pathlib import Path

import click

from lorahub.adapters.files import FolderFiles
from lorahub.adapters.reader import read_adapter
from lorahub.cli.output import Result, size_text
from lorahub.cli.session import Session, command
from lorahub.errors import UsageFault
from lorahub.hub.importing import import_pickle


@command("import")
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--unsafe-pickle", is_flag=True, help="Unpickle it, in a process of its own, tensors only.")
def import_(session: Session, source: Path, folder: Path, *, unsafe_pickle: bool) -> Result:  # noqa: ARG001 (offline)
    """Turn a pickled checkpoint, adapter_model.bin or a .pt file, into safetensors in FOLDER.

    Reading a pickle can run code, so it has to be asked for, and happens in a process that has nothing to lose.
    """
    if not unsafe_pickle:
        raise UsageFault(
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
