"""`lorahub config`."""

import click

from lorahub.cli.completing import settings, values
from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command
from lorahub.hub import configuration


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def config() -> None:
    """Show and change settings."""


@command("list")
@click.option("--show-origin", is_flag=True, help="Say where each value came from.")
def list_settings(session: Session, *, show_origin: bool) -> Result:
    """List every setting with its value."""
    values = list(session.settings.values.values())
    rows = [
        [value.setting.name, value.text or "", *([value.origin] if show_origin else []), value.setting.help]
        for value in values
    ]
    header = ["setting", "value", *(["origin"] if show_origin else []), "meaning"]
    return Result(
        data={value.setting.name: {"value": value.text, "origin": value.origin} for value in values},
        human=table(header, rows),
        ids=[f"{value.setting.name}={value.text or ''}" for value in values],
        rows=[[value.setting.name, value.text, value.origin] for value in values],
    )


@command("get")
@click.argument("name", shell_complete=settings)
def get(session: Session, name: str) -> Result:
    """Print one value."""
    configuration.require_setting(name, origin="config")
    value = session.settings.values[name]
    text = value.text or ""
    return Result({"name": name, "value": value.text, "origin": value.origin}, text, ids=[text], rows=[[name, text]])


@command("set")
@click.argument("name", shell_complete=settings)
@click.argument("value", shell_complete=values)
def set_value(session: Session, name: str, value: str) -> Result:  # noqa: ARG001 (every command has one)
    """Keep a value in your configuration file."""
    path = configuration.set_value(name, value)
    return Result(
        {"name": name, "value": value, "file": str(path)}, f"✓ {name} = {value} ({path})", [name], [[name, value]]
    )


for each in (list_settings, get, set_value):
    config.add_command(each)
