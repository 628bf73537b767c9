"""`lorahub login`, `logout` and `whoami`."""

import click

from lorahub.cli.output import Result
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidToken, InvalidUsage
from lorahub.hub import credentials
from lorahub.hub.showing import time_text
from lorahub.protocol.messages.accounts import Identity
from lorahub.protocol.tokens import is_well_formed


@command("login")
@click.argument("endpoint_", metavar="[URL]", required=False)
@click.option("--oidc", metavar="REPOSITORY", help="As the CI job that this runs in, which REPOSITORY trusts.")
def login(session: Session, endpoint_: str | None, oidc: str | None) -> Result:
    """Save a token for the registry at URL, after asking the registry whether it is good.

    The token is asked for, or read with --token-file. It is sent to this registry and to no other. With --oidc it is
    made for this job, for one repository and some minutes.
    """
    endpoint = (endpoint_ or session.settings.text("endpoint")).rstrip("/")
    credentials.host_of(endpoint)
    token = _token(session, endpoint) if oidc is None else _exchanged(session, endpoint, oidc)
    if token.startswith("lh_") and not is_well_formed(token):
        raise InvalidToken("this token has a typing error: its checksum is wrong", hint="copy it again, whole")
    from lorahub.hub.hub import Hub

    with Hub(endpoint, token=token, settings=session.settings) as hub:
        identity = hub.whoami()
    shown = identity.token
    path = credentials.save_token(endpoint, token)
    notes = []
    if endpoint != session.settings.text("endpoint").rstrip("/"):
        notes.append(f"  To use it by default: lorahub config set endpoint {endpoint}")
    return Result(
        data={**_identity(identity), "endpoint": endpoint, "file": str(path)},
        human=f"✓ Logged in to {endpoint} as {identity.name} (token {shown.display_name!r}, {shown.role})",
        ids=[identity.name],
        rows=[[identity.name, endpoint, shown.role]],
        notes=notes,
    )


def _exchanged(session: Session, endpoint: str, repository: str) -> str:
    from lorahub.hub.ci_identity import identity_token
    from lorahub.hub.hub import Hub

    with Hub(endpoint, settings=session.settings, anonymous=True) as hub:
        return hub.publishers.exchange(repository, identity_token(hub.publishers.audience())).token


def _token(session: Session, endpoint: str) -> str:
    given = session.flags.get("token_file")
    if given:
        return credentials.read_token_file(given)
    if not session.may_ask:
        raise InvalidUsage("nobody can be asked for the token here", hint="lorahub login URL --token-file FILE (or -)")
    return str(click.prompt(f"Token for {endpoint}", hide_input=True, err=True)).strip()


@command("logout")
@click.argument("endpoint_", metavar="[URL]", required=False)
def logout(session: Session, endpoint_: str | None) -> Result:
    """Forget the token saved for the registry at URL. The token itself stays good until it is revoked."""
    endpoint = endpoint_ or session.settings.text("endpoint")
    was_known = credentials.forget_token(endpoint)
    shown = f"✓ Forgot the token for {endpoint}" if was_known else f"No token is saved for {endpoint}"
    return Result({"endpoint": endpoint, "forgotten": was_known}, shown, ids=[endpoint], rows=[[endpoint, was_known]])


@command("whoami")
def whoami(session: Session) -> Result:
    """Show who the registry thinks you are, and where the token came from."""
    with session.hub() as hub:
        identity = hub.whoami()
        origin = hub.credential.origin if hub.credential else "-"
        endpoint = hub.endpoint
    token = identity.token
    lines = [
        f"{identity.name} on {endpoint}",
        f"  token {token.display_name!r}, scope {token.role}, from {origin}",
        f"  expires {time_text(token.expires_at) if token.expires_at else 'never'}",
        *[f"  {role} in {name}" for name, role in identity.organisations.items()],
    ]
    return Result(
        data={**_identity(identity), "endpoint": endpoint, "token_origin": origin},
        human="\n".join(lines),
        ids=[identity.name],
        rows=[[identity.name, endpoint, token.role, origin]],
    )


def _identity(identity: Identity) -> dict[str, object]:
    return {
        "user": identity.name,
        "organisations": identity.organisations,
        "token_name": identity.token.display_name,
        "scope": identity.token.role,
        "namespace": identity.token.namespace,
        "expires_at": identity.token.expires_at,
    }
