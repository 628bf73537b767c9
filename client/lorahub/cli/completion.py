"""`lorahub completion`."""

import os
from pathlib import Path

import click

from lorahub.cli.output import Result
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidUsage

_WHOLE_REFERENCES = "COMP_WORDBREAKS=${COMP_WORDBREAKS//[@:]}\n"
"""Or bash hands over `acme/sql@v1` in three words."""
_FILES = {"bash": "~/.bashrc", "zsh": "~/.zshrc", "fish": "~/.config/fish/completions/lorahub.fish"}


@command("completion")
@click.argument("shell", required=False, type=click.Choice(sorted(_FILES)))
@click.option("--install", is_flag=True, help="Add it to the shell's own file, once.")
def completion(session: Session, shell: str | None, *, install: bool) -> Result:  # noqa: ARG001
    """Print what makes your shell complete lorahub's commands and options: eval "$(lorahub completion)"."""
    from click.shell_completion import get_completion_class

    from lorahub.cli.main import cli

    name = shell or os.path.basename(os.environ.get("SHELL", ""))  # noqa: PTH119 (a text, not a file)
    kind = get_completion_class(name) if name in _FILES else None
    if kind is None:
        raise InvalidUsage(f"no completion for {name or 'an unknown shell'}", hint="lorahub completion bash|zsh|fish")
    script = kind(cli, {}, "lorahub", "_LORAHUB_COMPLETE").source()
    if name == "bash":
        script += _WHOLE_REFERENCES
    if not install:
        return Result({"shell": name, "script": script}, script, ids=[script], rows=[[script]])
    path = _install(name, script)
    return Result({"shell": name, "file": str(path)}, f"✓ added to {path}; open a new shell", [str(path)], [[path]])


def _install(shell: str, script: str) -> Path:
    path = Path(_FILES[shell]).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    line = script if shell == "fish" else f'eval "$(lorahub completion {shell})"\n'
    before = path.read_text("utf-8") if path.exists() else ""
    if line not in before:
        separator = "\n" if before and not before.endswith("\n") else ""
        path.write_text(before + separator + line, "utf-8")
    return path
