"""`lorahub chat`."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lorahub.cli.completing import placed
from lorahub.cli.output import Result
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidConfiguration, InvalidUsage, Refusal, Unavailable

if TYPE_CHECKING:
    from lorahub.serving.dialog import Dialog
    from lorahub.serving.session import Session as Swapping

_HELP = """\
/adapter NAME  go on with this adapter; /adapter none: with the base alone
/adapters      what is loaded
/help          this
/quit          leave (as does the end of the input)"""


@command("chat")
@click.argument("base", shell_complete=placed)
@click.option("--adapter", "adapters", multiple=True, metavar="[NAME=]SOURCE", help="Of an adapter; repeatable.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Of one answer.")
@click.option(
    "--on-swap",
    type=click.Choice(["reprefill", "keep"]),
    default="reprefill",
    show_default=True,
    help="Of what was said: compute it anew, exactly, or keep it, at once.",
)
@click.option("--device", default="cpu", show_default=True, help="Where to run: cpu, cuda, …")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 is greedy.")
def chat(session: Session, base: str, adapters: Sequence[str], **wishes: Any) -> Result:
    """Talk to BASE and change its adapter between two lines.

    BASE and SOURCE are folders, hf:org/name[@revision], or repositories of the registry. Reads lines from standard
    input, a pipe's too. The first adapter acts at first.
    """
    named = _named(adapters)
    swapping, dialog = _opened(session, base, named, wishes)
    talk = _Talk(swapping, dialog, wishes["max_new_tokens"], is_shown=session.output.format == "human")
    try:
        for line in _lines(lambda: swapping.active):
            if not talk.take(line):
                break
    except KeyboardInterrupt:
        _say("")
    turns = talk.turns
    return Result(
        {"turns": turns, "is_exact": dialog.is_exact},
        "",
        ids=[turn["answer"] for turn in turns],
        rows=[[turn["adapter"], turn["question"], turn["answer"]] for turn in turns],
    )


class _Talk:
    """One run: lines in, answers on standard output, what is about them on standard error."""

    def __init__(self, swapping: "Swapping", dialog: "Dialog", most: int, *, is_shown: bool) -> None:
        self.turns: list[dict[str, Any]] = []
        self._swapping = swapping
        self._dialog = dialog
        self._most = most
        self._is_shown = is_shown

    def take(self, line: str) -> bool:
        """False at the end."""
        word, _, rest = line.partition(" ")
        if word == "/quit":
            return False
        try:
            if word == "/adapter":
                _say(self._swapped(rest.strip()))
            elif word == "/adapters":
                _say(self._loaded())
            elif word == "/help":
                _say(_HELP)
            elif word.startswith("/"):
                _say(f"✗ no command is called {word}\n{_HELP}")
            elif line:
                self._answer(line)
        except (Refusal, Unavailable) as error:
            _say(f"✗ {error.message}" + (f"\n  Hint: {error.hint}" if error.hint else ""))
        return True

    def _swapped(self, name: str) -> str:
        if not name:
            raise InvalidUsage("which adapter?", hint="/adapter NAME, or /adapter none")
        seconds = self._dialog.swap(None if name == "none" else name)
        what = "the base alone" if name == "none" else name
        kept = "what was said keeps the old adapter's cache: approximate"
        after = kept if self._dialog.on_swap == "keep" else "what was said is computed anew: exact"
        return f"✓ {what} in {seconds * 1e6:.1f} µs; {self._dialog.on_swap}: {after}"

    def _loaded(self) -> str:
        lines = [
            f"{'*' if name == self._swapping.active else ' '} {name}  {loaded.shown}  {loaded.source}"
            for name, loaded in self._swapping.adapters.items()
        ]
        return "\n".join([*lines, f"{'*' if self._swapping.active is None else ' '} none  the base alone"])

    def _answer(self, question: str) -> None:
        turn: dict[str, Any] = {"adapter": self._swapping.active, "question": question, "answer": ""}
        pieces = self._dialog.say(question, self._most)
        self.turns.append(turn)
        try:
            for piece in pieces:
                turn["answer"] += piece
                if self._is_shown:
                    click.echo(piece, nl=False)
        except KeyboardInterrupt:
            _say("\n  (cut short)")
        if self._is_shown:
            click.echo()


def _named(adapters: Sequence[str]) -> dict[str, str]:
    """Name -> source; without a name it is the last part of the source, without scheme and revision."""
    named: dict[str, str] = {}
    for adapter in adapters:
        name, given, source = adapter.partition("=")
        if not given:
            name, source = Path(adapter.removeprefix("hf:")).name.partition("@")[0], adapter
        if not name or not source or name == "none" or name in named:
            raise InvalidUsage(f"--adapter {adapter} gives no name of its own", hint="write --adapter NAME=SOURCE")
        named[name] = source
    return named


def _opened(session: Session, base: str, named: dict[str, str], wishes: dict[str, Any]) -> tuple["Swapping", "Dialog"]:
    try:
        import torch  # noqa: F401 (asked first, so that its absence has one message)
        from transformers.utils import logging
    except ModuleNotFoundError as error:
        raise InvalidConfiguration(
            f"`lorahub chat` runs the model, and {error.name} is not installed",
            hint="pip install 'lorahub-registry[train]'",
        ) from None
    from lorahub.hub.sources import is_of_a_model
    from lorahub.serving.models import load_tokenizer
    from lorahub.serving.session import Session as Swapping
    from lorahub.serving.session import folder_of, load_base

    quiet: Any = logging
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
    folders = {name: folder_of(source, session.hub) for name, source in named.items()}
    of_base = folder_of(base, session.hub, is_of_a_model).resolve()
    swapping = Swapping(load_base(of_base, device=wishes["device"]), on_swap=wishes["on_swap"])
    for name, folder in folders.items():
        swapping.load(name, folder)
    swapping.use(next(iter(named), None))
    return swapping, swapping.dialog(load_tokenizer(of_base), temperature=wishes["temperature"])


def _lines(active: Any) -> Iterator[str]:
    """What is typed, until the end of the input or Ctrl-C."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        _say(_HELP)
    while True:
        try:
            line = input(f"{active() or 'base'}> ") if is_terminal else sys.stdin.readline()
        except (EOFError, KeyboardInterrupt):
            _say("")
            return
        except UnicodeDecodeError as error:
            raise InvalidUsage(f"the input is no text in {error.encoding}", hint="write it as UTF-8") from None
        if not line and not is_terminal:
            return
        yield line.strip()


def _say(text: str) -> None:
    click.echo(text, err=True)
