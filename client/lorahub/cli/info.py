"""`lorahub info`."""

from collections.abc import Mapping
from typing import Any

import click

from lorahub.cli.output import Result, size_text
from lorahub.cli.pull import resolved, revision_data, yank_notes
from lorahub.cli.session import Session, command


@command("info")
@click.argument("reference")
def info(session: Session, reference: str) -> Result:
    """Show what REFERENCE stands for: version, digest, files, tags."""
    with session.hub() as hub:
        revision = hub.revision(reference)
        model = hub.model(reference)
        checked = hub.checked(reference)
    tags = [str(tag) for tag in model.get("tags") or ()]
    lines = [
        resolved(reference, revision),
        f"  by {revision.author}, {revision.created_at}: {revision.message}",
        f"  {len(revision.files)} files, {size_text(revision.size)}; {model.get('downloads', 0)} downloads",
    ]
    if checked is not None:
        lines += [_verdict(checked), *_training(checked)]
    if revision.aliases:
        lines.append(f"  aliases: {', '.join(revision.aliases)}")
    if tags:
        lines.append(f"  tags: {', '.join(tags)}")
    data = {
        **revision_data(revision),
        "tags": tags,
        "downloads": model.get("downloads"),
        "private": model.get("private"),
        "card": model.get("cardData"),
        "check": checked,
    }
    return Result(
        data=data,
        human="\n".join(lines),
        ids=[f"sha256:{revision.digest}"],
        rows=[[key, value] for key, value in data.items() if not isinstance(value, list | dict)],
        notes=yank_notes(revision),
    )


def _training(checked: Mapping[str, Any]) -> list[str]:
    """What its maker states: `trained on 198 rows in 60 steps, loss 5.5486 → 5.3395`."""
    record = checked["facts"].get("training") or {}
    run, rows = record.get("run") or {}, ((record.get("data") or {}).get("train") or {}).get("rows")
    losses = run.get("loss") or {}
    parts = [
        None if rows is None else f"trained on {rows} rows",
        None if run.get("steps") is None else f"in {run['steps']} steps",
        None if losses.get("last") is None else f"loss {losses.get('first')} → {losses['last']}",
    ]
    said = ", ".join(part for part in parts if part)
    return [f"  {said}, as its maker states"] if said else []


def _verdict(checked: Mapping[str, Any]) -> str:
    """What it is, and whether it fits: `lora, rank 16, on q_proj, v_proj; fits acme/llama-7b`."""
    facts = checked["facts"]
    ranks = ", ".join(map(str, facts["ranks"]))
    what = ", ".join(
        filter(None, [facts["method"], f"rank {ranks}" if ranks else "", f"on {', '.join(facts['targets'][:8])}"])
    )
    rules = ", ".join(found["rule"] for found in checked["findings"])
    base = checked["base"] or "an unknown base"
    said = {"compatible": f"made for {base}", "fits": f"fits {base}", "incompatible": f"does not fit {base}"}
    return f"  {what}; {said.get(checked['verdict'], f'undecided for {base}')}" + (f" ({rules})" if rules else "")
