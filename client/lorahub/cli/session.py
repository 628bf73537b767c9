"""What every command shares: the global options, and the session made of them.

A command is a function of a session that returns a `Result`; `command` turns it into click's.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import click

from lorahub.cli.output import Output, Result
from lorahub.errors import InvalidUsage

if TYPE_CHECKING:
    from lorahub.hub.configuration import Configuration
    from lorahub.hub.hub import Hub
    from lorahub.hub.progress import Progress
    from lorahub.hub.sources import Sources
    from lorahub.hub.transport import Transport

GLOBAL_OPTIONS = (
    click.Option(["--endpoint"], metavar="URL", help="Address of the registry."),
    click.Option(["--token-file"], metavar="FILE", help="Read the token from FILE, or from standard input with -."),
    click.Option(["--format"], type=click.Choice(["human", "json", "quiet", "agent"]), help="What is printed."),
    click.Option(["--json"], is_flag=True, help="The same as --format json."),
    click.Option(["-q", "--quiet"], is_flag=True, help="One id or path a line."),
    click.Option(["--progress"], type=click.Choice(["auto", "bar", "plain", "json", "none"]), help="How to show it."),
    click.Option(["--color"], type=click.Choice(["auto", "always", "never"]), help="Colour."),
    click.Option(["--timeout"], type=float, metavar="SECONDS", help="How long to wait for an answer."),
    click.Option(["--insecure"], is_flag=True, help="Send the token over http:// to another machine."),
    click.Option(["--offline"], is_flag=True, help="Ask no network; use what was read before."),
    click.Option(["--no-input"], is_flag=True, help="Never ask."),
)

_NAMES = frozenset(option.name for option in GLOBAL_OPTIONS)


class Session:
    """One run of one command."""

    def __init__(self, command: str, flags: dict[str, Any]) -> None:
        self.command = command
        self.flags = flags

    @cached_property
    def settings(self) -> "Configuration":
        from lorahub.hub import configuration

        texts = {name: self.flags.get(name) for name in ("endpoint", "progress", "color")}
        timeout = self.flags.get("timeout")
        return configuration.load(
            {
                **texts,
                "format": self.chosen_format,
                "timeout": None if timeout is None else str(timeout),
                "offline": "true" if self.flags.get("offline") else None,
                "insecure": "true" if self.flags.get("insecure") else None,
            }
        )

    @property
    def chosen_format(self) -> str | None:
        if self.flags.get("json"):
            return "json"
        return "quiet" if self.flags.get("quiet") else self.flags.get("format")

    @cached_property
    def output(self) -> Output:
        return Output(self.command, format=self.settings.text("format"), color=self.settings.text("color"))

    def hub(self, endpoint: str | None = None) -> "Hub":
        """The registry of this run, as its user. Raises `InvalidConfiguration`, `UnsafeEndpoint`."""
        from lorahub.hub.hub import Hub

        return Hub(
            endpoint,
            token_file=self.flags.get("token_file"),
            settings=self.settings,
            progress=self.progress(),
            note=self.output.note,
        )

    @contextmanager
    def sources(self) -> "Iterator[Sources]":
        """What bases and adapters are called. The registry is connected to when a name leads there."""
        from lorahub.hub.sources import Sources

        with ExitStack() as opened:

            @cache
            def hub() -> "Hub":
                return opened.enter_context(self.hub())

            connecting = threading.Lock()

            def connect() -> "Transport":
                with connecting:
                    return hub().transport

            endpoint = self.settings.text("endpoint")
            sources = Sources(self.settings, endpoint, connect, progress=self.progress(), note=self.output.note)
            yield opened.enter_context(sources)

    def progress(self) -> "Progress":
        from lorahub.hub.progress import shown

        mode = self.settings.text("progress")
        return shown("none" if mode == "auto" and self.output.format == "quiet" else mode, off_terminal="plain")

    @property
    def may_ask(self) -> bool:
        return not self.flags.get("no_input") and sys.stdin.isatty() and sys.stderr.isatty()

    def confirm(self, question: str, *, yes: bool) -> None:
        """Raises `InvalidUsage` without --yes where nobody can be asked, `click.Abort` for a no."""
        if yes:
            return
        if not self.may_ask:
            raise InvalidUsage(f"this would ask: {question}", hint="add --yes to say so beforehand")
        click.confirm(question, abort=True, err=True)


class GlobalOptionsLast(click.Command):
    """Whose help has the options that every command takes under a heading of their own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_options(self, ctx, formatter)


def write_options(of: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    options = [parameter for parameter in of.get_params(ctx) if isinstance(parameter, click.Option)]
    records = [(option.name in _NAMES, option.get_help_record(ctx)) for option in options]
    for title, is_global in (("Options", False), ("Global options", True)):
        if rows := [record for of_all, record in records if record is not None and of_all is is_global]:
            with formatter.section(title):
                formatter.write_dl(rows)


def command(name: str) -> Callable[[Callable[..., Result]], click.Command]:
    """Makes a click command of a function `(session, …) -> Result`; global options may stand before and after it."""

    def make(act: Callable[..., Result]) -> click.Command:
        def run(**parameters: Any) -> int:
            context = click.get_current_context()
            own = {name: parameters.pop(name) for name in _NAMES}
            flags = {**_flags_of(context.parent), **{name: value for name, value in own.items() if value}}
            session = Session(_path_of(context), flags)
            return session.output.success(act(session, **parameters))

        return GlobalOptionsLast(
            name,
            callback=run,
            params=[*getattr(act, "__click_params__", [])[::-1], *GLOBAL_OPTIONS],
            help=act.__doc__,
            context_settings={"help_option_names": ["-h", "--help"]},
        )

    return make


def _flags_of(context: click.Context | None) -> dict[str, Any]:
    """Given before the command's name."""
    flags: dict[str, Any] = {}
    while context is not None:
        if isinstance(context.obj, dict):
            flags = {**{key: value for key, value in context.obj.items() if value}, **flags}
        context = context.parent
    return flags


def _path_of(context: click.Context) -> str:
    return ".".join(context.command_path.split()[1:])
