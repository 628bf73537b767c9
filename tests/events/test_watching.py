"""`lorahub watch` and `hub.events`, against a registry that runs."""

import json

import lorahub
import wire
from cli.test_commands import Cli, cli
from registry_process import Registry

__all__ = ["cli"]


def test_events_are_watched_one_a_line(registry: Registry, cli: Cli, user: tuple[str, str]) -> None:
    name, token = user
    with lorahub.Hub(registry.url, token=token) as hub:
        here = hub.events.read().next
        with registry.client(token) as client:
            repo = wire.create_repo(client, f"{name}/watched")
        watched = hub.events.watch(here, name=repo)
        assert [next(watched).kind, next(watched).kind] == ["repository.created", "branch.moved"]
    ran = cli.run("watch", repo, "--after", str(here), "--count", "2", "--json")
    found = [json.loads(line)["result"] for line in ran.stdout.splitlines()]
    assert [one["kind"] for one in found] == ["repository.created", "branch.moved"], ran.stderr
    assert (found[0]["name"], found[0]["by"]) == (repo, name)
    shown = cli.run("watch", "--kind", "repository.*", "--after", str(here), "--count", "1").stdout
    assert f"repository.created  {repo}  by {name}  private False" in shown
    refused = cli.run("watch", "--kind", "alias.shaken", "--count", "1")
    assert (refused.returncode, "no kind of event is called 'alias.shaken'" in refused.stderr) == (2, True)
