"""`lorahub`: the table of commands, and the one place where a failure becomes a message and an exit status.

A command is imported when it is called: `lorahub --help` knows them all by their lines below.
"""

import difflib
import errno
import importlib
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence

import click

from lorahub.errors import Bug, DiskFull, Interrupted, InvalidConfiguration, InvalidUsage, LorahubError

GROUPS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Publish and fetch": {
        "push": ("lorahub.cli.push:push", "Publish a folder as a new version."),
        "pull": ("lorahub.cli.pull:pull", "Fetch a revision, every byte verified, and print where it is."),
        "info": ("lorahub.cli.info:info", "Show what a reference stands for."),
        "ls": ("lorahub.cli.ls:ls", "List the versions of a repository, or the files of a revision."),
        "search": ("lorahub.cli.search:search", "Find repositories."),
        "alias": ("lorahub.cli.alias:alias", "Make, move, remove and list names for versions."),
        "yank": ("lorahub.cli.yank:yank", "Withdraw a version; it stays for who names it exactly."),
        "rm": ("lorahub.cli.rm:rm", "Delete a repository; its name is never given out again."),
        "repo": ("lorahub.cli.repo:repo", "Make, list, rename, hide and delete repositories."),
        "org": ("lorahub.cli.org:org", "Make organisations, and say who belongs to them."),
    },
    "Check": {
        "check": ("lorahub.cli.check:check", "Prove whether adapters fit a base model."),
        "explain": ("lorahub.cli.explain:explain", "Show cause and cure of a rule."),
        "identify": ("lorahub.cli.identify:identify", "Find out what files are, by their bytes."),
        "base": ("lorahub.cli.base:base", "Register base models, and show what is known of them."),
        "policy": ("lorahub.cli.policy:policy", "Choose what happens to adapters that don't fit."),
        "ci": ("lorahub.cli.ci:ci", "Help jobs of a CI to report."),
        "lock": ("lorahub.cli.lock:lock", "Write down which files references stand for."),
        "verify": ("lorahub.cli.lock:verify", "Compare a lock file with the registry."),
    },
    "Train, merge, convert": {
        "train": ("lorahub.cli.train:train", "Train an adapter on a file of examples."),
        "eval": ("lorahub.cli.eval:eval_", "Measure an adapter on rows, beside its base and merged into it."),
        "chat": ("lorahub.cli.chat:chat", "Talk with a base, and switch adapters in mid-dialog."),
        "estimate": ("lorahub.cli.estimate:estimate_", "Tell what adapting a model costs, before it is loaded."),
        "merge": ("lorahub.cli.merge:merge", "Fold adapters into their base, exactly."),
        "merge-job": ("lorahub.cli.merge:merge_job", "Show, await or cancel a merge on the registry."),
        "combine": ("lorahub.cli.combine:combine", "Make one LoRA of several."),
        "extract": ("lorahub.cli.combine:extract", "Make a LoRA of what fine-tuning changed."),
        "convert": ("lorahub.cli.convert:convert", "Write an adapter in another format, exactly."),
        "import": ("lorahub.cli.import_:import_", "Bring an adapter from the Hub, or a pickle into safetensors."),
    },
    "Between machines": {
        "watch": ("lorahub.cli.watch:watch", "Say what happens in the registry, as it happens."),
        "webhook": ("lorahub.cli.webhook:webhook", "Let the registry tell addresses what happens."),
        "trust": ("lorahub.cli.trust:trust", "Let CI jobs publish without a secret."),
        "mirror": ("lorahub.cli.mirror:mirror", "Let the registry follow repositories of another hub."),
        "export": ("lorahub.cli.bundle:export", "Write repositories into a file for a registry without a network."),
        "import-bundle": ("lorahub.cli.bundle:import_bundle", "Bring what export wrote into a registry."),
        "retention": ("lorahub.cli.retention:retention", "Choose how many versions a repository keeps."),
    },
    "Yourself": {
        "login": ("lorahub.cli.login:login", "Save a token for a registry."),
        "logout": ("lorahub.cli.login:logout", "Forget the token of a registry."),
        "whoami": ("lorahub.cli.login:whoami", "Show who the registry thinks you are."),
        "cache": ("lorahub.cli.cache:cache", "List and clear pulled files."),
        "schema": ("lorahub.cli.schema:schema", "Print what editors complete your files by."),
        "config": ("lorahub.cli.config:config", "Show and change settings."),
        "doctor": ("lorahub.cli.doctor:doctor", "Find out what is wrong, for you and for bug reports."),
        "completion": ("lorahub.cli.completion:completion", "Complete commands in your shell."),
    },
    "A registry of your own": {
        "serve": ("lorahub_registry.commands:serve", "Run a registry on this machine."),
        "worker": ("lorahub_registry.commands:worker", "Run background jobs of a registry."),
        "admin": ("lorahub_registry.commands:admin", "Look after a registry on its own machine."),
    },
}
"""Heading -> commands -> (where the command is, what it does)."""
COMMANDS = {name: row for commands in GROUPS.values() for name, row in commands.items()}
_LONGEST = max(map(len, COMMANDS))


class LazyGroup(click.Group):
    """Commands by name; their modules are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if not module.startswith("lorahub_registry"):
                raise
            raise InvalidConfiguration(
                f"`lorahub {cmd_name}` needs the server, and {error.name} is not installed",
                hint="pip install 'lorahub-registry[server]'",
            ) from None
        from lorahub.cli.examples import show_examples

        return show_examples(command, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=3)
            raise InvalidUsage(
                f"no command is called {args[0]!r}",
                hint=f"did you mean: {', '.join(near)}?" if near else "lorahub --help lists them",
            )
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from lorahub.cli.session import write_options

        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{_LONGEST}}", line) for name, (_, line) in commands.items()])
        write_options(self, ctx, formatter)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(None, "--version", package_name="lorahub-registry", message="lorahub %(version)s")
@click.pass_context
def cli(ctx: click.Context, /, **flags: object) -> None:
    """Push, pull and look after LoRA adapters. A reference is namespace/name[@version].

    `lorahub COMMAND --help` has options and examples.
    """
    ctx.obj = flags


def leaves(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by all words of its name."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from leaves(inner, f"{path} {name}")
    else:
        yield path, command


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of the command `lorahub`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that this terminal can't show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    _add_global_options()
    try:
        status = cli.main(given, prog_name="lorahub", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as exit_:
        status = exit_.exit_code
    except click.exceptions.NoArgsIsHelpError as help_:
        click.echo(help_.format_message())
        status = 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader is gone: nothing more to say
        status = 0
    except (KeyboardInterrupt, click.Abort):
        _report(given, Interrupted("interrupted; what has arrived is kept, run it again to go on"))
        os._exit(Interrupted.exit_code)  # transfers in other threads would hold a normal exit until they are over
    except Exception as error:  # noqa: BLE001 (the last place: whatever it was, the user gets a sentence)
        status = _report(given, _known(error))
    sys.exit(status if isinstance(status, int) else 0)


def _add_global_options() -> None:
    from lorahub.cli.session import GLOBAL_OPTIONS

    known = {option.name for option in cli.params}
    cli.params.extend(option for option in GLOBAL_OPTIONS if option.name not in known)


def _known(error: Exception) -> LorahubError:
    if isinstance(error, LorahubError):
        return error
    if isinstance(error, click.UsageError):
        context = error.ctx.command_path if error.ctx else "lorahub"
        return InvalidUsage(error.format_message(), hint=f"{context} --help")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFull(f"no space left: {error.filename or ''}".rstrip(": "), hint="free space, then run it again")
    if isinstance(error, OSError):
        return InvalidUsage(f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
    if _is_debugging():
        raise error
    return Bug(
        f"lorahub failed: {type(error).__name__}: {error}",
        hint="this is a bug; report it with the output of: lorahub doctor (LORAHUB_DEBUG=1 shows the traceback)",
    )


def _is_debugging() -> bool:
    return os.environ.get("LORAHUB_DEBUG", "").lower() in ("1", "true", "yes")


def _report(arguments: Sequence[str], error: LorahubError) -> int:
    from lorahub.cli.output import Output

    if _is_debugging() and error.__cause__ is not None:
        import traceback

        traceback.print_exception(error)
    return Output.for_failure(arguments).failure(error)


if __name__ == "__main__":
    main()
