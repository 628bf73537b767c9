"""`lorahub explain`."""

from dataclasses import asdict

import click

from lorahub.adapters.rules import RULES
from lorahub.cli.completing import rules
from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidUsage


@command("explain")
@click.argument("rule", required=False, shell_complete=rules)
def explain(session: Session, rule: str | None) -> Result:  # noqa: ARG001 (offline)
    """Show cause and cure of RULE, such as LH202; without one, list them all."""
    if rule is None:
        rows = [[one.id, one.severity.value, one.title] for one in RULES.values()]
        return Result(
            [asdict(one) for one in RULES.values()],
            table(["rule", "severity", "says"], rows),
            ids=list(RULES),
            rows=rows,
        )
    known = RULES.get(rule.upper())
    if known is None:
        raise InvalidUsage(f"no rule is called {rule[:40]!r}", hint="lorahub explain lists them")
    lines = [f"{known.id} {known.severity.value}: {known.title}", "", f"  {known.cause}", ""]
    lines += [f"  Cure: {known.cure}", f"  Example: {known.example}"]
    return Result(asdict(known), "\n".join(lines), ids=[known.id], rows=[[known.id, known.severity.value, known.title]])
