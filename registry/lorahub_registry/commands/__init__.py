"""`lorahub serve`, `lorahub worker` and `lorahub admin …`.

The client's command line reaches them by name, so that it never imports the registry.
"""

import click

from lorahub_registry.commands import circulation, copies, people, records, upkeep, upstreams
from lorahub_registry.commands.serving import asgi, serve, worker

__all__ = ["admin", "asgi", "serve", "worker"]


@click.group()
def admin() -> None:
    """Look after a registry on its own machine."""


for command in (
    people.user,
    people.make_token,
    people.quota,
    people.recount_quotas,
    records.audit,
    records.jobs_group,
    upkeep.gc,
    upkeep.fsck,
    upkeep.scrub,
    upkeep.doctor,
    upkeep.reindex,
    upkeep.migrate,
    circulation.quarantine,
    circulation.unquarantine,
    circulation.quarantined,
    circulation.block_hash,
    circulation.unblock_hash,
    circulation.blocked,
    upstreams.upstream,
    copies.backup,
    copies.list_backups,
    copies.restore,
):
    admin.add_command(command)
