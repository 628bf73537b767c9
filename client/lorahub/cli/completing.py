"""What a shell completes beside commands and options, from what this machine knows: a key press asks no network."""

from collections.abc import Iterable, Mapping

import click
from click.shell_completion import CompletionItem

from lorahub.errors import Refusal


def stored(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """References that were read before: repositories, and behind an @ the names of their revisions."""
    scheme = "hf:" if incomplete.startswith("hf:") else ""
    known = _known(scheme)
    repository, at, _revision = incomplete.removeprefix(scheme).partition("@")
    names = (f"{repository}@{name}" for name in known.get(repository, ())) if at else known
    return _items((f"{scheme}{name}" for name in names), incomplete)


def placed(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """A path, or what is stored."""
    return [CompletionItem(incomplete, type="file"), *stored(context, parameter, incomplete)]


def rules(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from lorahub.adapters.rules import RULES

    return _items(RULES, incomplete.upper())


def settings(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from lorahub.protocol.client_settings import SETTINGS

    shown = [CompletionItem(name, help=setting.help) for name, setting in SETTINGS.items()]
    return [item for item in shown if item.value.startswith(incomplete)]


def values(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What the setting that was named before may be."""
    from lorahub.protocol.client_settings import SETTINGS

    setting = SETTINGS.get(str(context.params.get("name")))
    return [] if setting is None else _items(setting.choices, incomplete)


def _known(scheme: str) -> Mapping[str, list[str]]:
    """Repository → names of revisions; nothing where the settings can't be read."""
    from lorahub.hub import configuration
    from lorahub.hub.cache import Cache

    try:
        chosen = configuration.load()
    except Refusal:
        return {}
    return Cache(chosen.cache_folder, chosen.text("hf_endpoint" if scheme else "endpoint")).known()


def _items(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
