"""`lorahub admin …`: jobs, and the log of changes."""

import json
from datetime import UTC, datetime
from pathlib import Path

import click
from lorahub.protocol.messages import message

from lorahub_registry.commands.registry import as_json_option, home_option, open_backend, show
from lorahub_registry.core.accounts.permissions import OPERATOR
from lorahub_registry.core.audit.service import all_events
from lorahub_registry.operations.seals import service as seals


@click.group("jobs", invoke_without_command=True)
@click.pass_context
@home_option
@as_json_option
def jobs_group(context: click.Context, home: Path | None, *, as_json: bool) -> None:
    """List workers, and jobs that are not over or failed with a fault."""
    if context.invoked_subcommand is None:
        from lorahub_registry.operations.jobs import service as jobs

        overview = jobs.overview(open_backend(home))
        show(overview.as_json(), str(overview), as_json=as_json)


@jobs_group.command("requeue")
@click.argument("job", metavar="ID")
@home_option
@as_json_option
def requeue_job(job: str, home: Path | None, *, as_json: bool) -> None:
    """Let a job that failed or hangs be tried anew. ID is one that `admin jobs` lists, or a merge's."""
    from lorahub_registry.operations.jobs import service as jobs

    requeued = jobs.requeue(open_backend(home), job, by=OPERATOR.name)
    show({"job": requeued}, f"{requeued} is queued again", as_json=as_json)


@click.group()
def audit() -> None:
    """The log of changes: who did what, and when."""


_TIME = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"])


@audit.command("export")
@click.option("--since", type=_TIME, help="From this time on (UTC).")
@click.option("--until", type=_TIME, help="Before this time (UTC).")
@home_option
def export_audit(since: datetime | None, until: datetime | None, home: Path | None) -> None:
    """Print every event as a line of JSON, oldest first."""
    for event in all_events(open_backend(home), since=_in_utc(since), until=_in_utc(until)):
        click.echo(json.dumps(message.as_json(event.as_message())))


@audit.command("verify")
@click.option("--seal", "noted", multiple=True, metavar="DIGEST", help="One that was noted elsewhere.")
@home_option
@as_json_option
def verify_audit(noted: tuple[str, ...], home: Path | None, *, as_json: bool) -> None:
    """Prove that no event was changed, added or taken away since it was sealed. Exit status 7 where one was."""
    found = seals.verify(open_backend(home), noted)
    show(found.as_json(), str(found), as_json=as_json, exit_code=7 if found.problems else 0)


@audit.command("forget")
@click.option("--before", type=_TIME, required=True, help="Events that are older (UTC) go, as far as whole seals do.")
@home_option
@as_json_option
def forget_audit(before: datetime, home: Path | None, *, as_json: bool) -> None:
    """Delete old events. That they are gone, and who had them deleted, is an event itself, sealed like the rest."""
    forgotten = seals.forget(open_backend(home), before.replace(tzinfo=UTC), by=OPERATOR.name)
    until = None if forgotten is None else forgotten.last_event_id
    shown = "no sealed event is older" if until is None else f"the events up to {until} are gone"
    show({"lastEvent": until}, shown, as_json=as_json)


def _in_utc(time: datetime | None) -> datetime | None:
    return None if time is None else time.replace(tzinfo=UTC)
