"""`lorahub admin …`: accounts, tokens, and what a namespace may use."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from lorahub.protocol.messages import message

from lorahub_registry.commands.registry import as_json_option, home_option, open_backend, show
from lorahub_registry.core.accounts import service as accounts
from lorahub_registry.core.accounts.permissions import OPERATOR
from lorahub_registry.core.quotas import service as quotas


@click.group()
def user() -> None:
    """Accounts of people."""


@user.command("add")
@click.argument("name")
@click.option("--fullname", default="", help="Shown on pages.")
@click.option("--admin", "is_admin", is_flag=True, help="An administrator of the whole registry.")
@home_option
@as_json_option
def add_user(name: str, fullname: str, home: Path | None, *, is_admin: bool, as_json: bool) -> None:
    """Add a user and print a token, shown this once."""
    backend = open_backend(home)
    account = accounts.add_user(backend, name, by=OPERATOR.name, is_admin=is_admin, fullname=fullname)
    token, _ = accounts.issue_token(backend, account.id, by=OPERATOR.name, name="first token", scope="admin")
    show({"user": account.name, "token": token}, f"added {account.name}   token: {token}", as_json=as_json)


@user.command("ls")
@home_option
@as_json_option
def list_users(home: Path | None, *, as_json: bool) -> None:
    """List users and organisations."""
    rows = [
        {
            "name": account.name,
            "kind": account.kind,
            "admin": account.is_admin,
            "disabled": account.disabled_at is not None,
            "createdAt": account.created_at.isoformat(),
        }
        for account in accounts.all_accounts(open_backend(home))
    ]
    lines = [f"{row['name']:32} {row['kind']:12} {'disabled' if row['disabled'] else ''}" for row in rows]
    show(rows, "\n".join(lines), as_json=as_json)


@user.command("disable")
@click.argument("name")
@click.option("--undo", is_flag=True, help="Let the user in again.")
@home_option
@as_json_option
def disable_user(name: str, home: Path | None, *, undo: bool, as_json: bool) -> None:
    """Stop all tokens of a user at once; repositories stay."""
    account = accounts.set_user_disabled(open_backend(home), name, by=OPERATOR.name, is_disabled=not undo)
    is_disabled = account.disabled_at is not None
    shown = f"{account.name} is {'disabled' if is_disabled else 'enabled'}"
    show({"user": account.name, "disabled": is_disabled}, shown, as_json=as_json)


@click.command("token")
@click.argument("user_name", metavar="USER")
@click.option("--name", default="made by the operator", show_default=True)
@click.option("--scope", type=click.Choice(["read", "write", "admin"]), default="write", show_default=True)
@click.option("--namespace", help="Good for this namespace only.")
@click.option("--days", type=click.IntRange(1, accounts.MAX_TOKEN_DAYS), help="Days until it expires.")
@home_option
@as_json_option
def make_token(
    user_name: str,
    name: str,
    scope: str,
    namespace: str | None,
    days: int | None,
    home: Path | None,
    *,
    as_json: bool,
) -> None:
    """Print a new token for USER, shown this once."""
    backend = open_backend(home)
    account = accounts.find_account(backend, user_name)
    lifetime = None if days is None else timedelta(days=days)
    token, _ = accounts.issue_token(
        backend, account.id, by=OPERATOR.name, name=name, scope=scope, namespace=namespace, lifetime=lifetime
    )
    show({"user": account.name, "token": token, "scope": scope}, token, as_json=as_json)


class _Amount(click.ParamType[int | None]):
    """A number, with k, M, G or T for thousands and so on; `none` is no limit, `default` the registry's."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value in ("none", "default"):
            return 0 if value == "none" else None
        match = re.fullmatch(r"(\d{1,15})([kMGT]?)B?", value)
        if match is None:
            self.fail(f"{value!r} is no amount: 250, 40GB, none or default", param, ctx)
        thousands: int = 1000 ** " kMGT".index(match[2] or " ")
        return int(match[1]) * thousands


@click.command()
@click.argument("namespace")
@click.option("--bytes", "byte_quota", type=_Amount(), help="Most bytes it may keep.")
@click.option("--repositories", "repository_quota", type=_Amount(), help="Most repositories it may have.")
@home_option
@as_json_option
def quota(namespace: str, home: Path | None, *, as_json: bool, **given: int | None) -> None:
    """Show, and set, what NAMESPACE uses and may use: 250, 40GB, none, or default for the registry's own limit."""
    backend = open_backend(home)
    context = click.get_current_context()
    wanted = {
        name: value
        for name, value in given.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    use = (
        quotas.set_quota(backend, namespace, by=OPERATOR.name, **wanted)
        if wanted
        else quotas.use_of(backend, namespace)
    )
    shown = [
        f"{use.namespace}",
        f"  bytes         {use.bytes.used} of {use.bytes.limit or 'any number'}, {use.reserved} of them in uploads",
        f"  repositories  {use.repositories.used} of {use.repositories.limit or 'any number'}",
    ]
    show(message.as_json(use.as_message()), "\n".join(shown), as_json=as_json)


@click.command("recount-quotas")
@home_option
@as_json_option
def recount_quotas(home: Path | None, *, as_json: bool) -> None:
    """Count anew what each namespace keeps, after an older lorahub wrote to this database."""
    count = quotas.recount(open_backend(home))
    show({"namespaces": count}, f"counted {count} namespaces", as_json=as_json)
