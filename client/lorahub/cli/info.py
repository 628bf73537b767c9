"""`lorahub info`."""

from typing import Any

import click

from lorahub.cli.output import Result
from lorahub.cli.pull import resolved, revision_data, yank_notes
from lorahub.cli.session import Session, command
from lorahub.hub.showing import size_text, time_text
from lorahub.hub.signing import FILE as SIGNATURE
from lorahub.protocol.messages.checks import CheckedRevision, StatedTraining
from lorahub.protocol.messages.message import as_json, parse
from lorahub.protocol.messages.signatures import StatedSignature


@command("info")
@click.argument("reference")
def info(session: Session, reference: str) -> Result:
    """Show what REFERENCE stands for: version, digest, files, tags."""
    with session.hub() as hub:
        revision = hub.revision(reference)
        model = hub.model(reference)
        checked = hub.checked(reference)
        signature = hub.signature(reference) if any(file.path == SIGNATURE for file in revision.files) else None
    tags = list(model.tags or ())
    lines = [
        resolved(reference, revision),
        f"  by {revision.author}, {time_text(revision.created_at)}: {revision.message}",
        f"  {len(revision.files)} files, {size_text(revision.size)}; {model.downloads or 0} downloads",
    ]
    if checked is not None:
        lines += [_verdict(checked), *_training(checked)]
    if signature is not None:
        lines.append(_signed(signature))
    if revision.origin:
        lines.append(f"  mirrored from {revision.origin}")
    if revision.aliases:
        lines.append(f"  aliases: {', '.join(revision.aliases)}")
    if tags:
        lines.append(f"  tags: {', '.join(tags)}")
    data = {
        **revision_data(revision),
        "tags": tags,
        "downloads": model.downloads,
        "private": model.private,
        "card": model.card_data,
        "check": as_json(checked),
        "signature": as_json(signature),
    }
    return Result(
        data=data,
        human="\n".join(lines),
        ids=[f"sha256:{revision.digest}"],
        rows=[[key, value] for key, value in data.items() if not isinstance(value, list | dict)],
        notes=yank_notes(revision),
    )


def _signed(signature: StatedSignature) -> str:
    """What the signature says of itself; the hint is how to prove it."""
    if signature.fault:
        return f"  {SIGNATURE} is no signature: {signature.fault}"
    key = f"key {signature.key[:16]}…" if signature.key else "a key that it doesn't name"
    if not signature.covers_files:
        return f"  signed by {key}, but for other files: {', '.join(signature.differing[:3])}"
    return f"  signed by {key}, for exactly these files; prove it with lorahub verify --key"


def _training(checked: CheckedRevision) -> list[str]:
    """What its maker states: `trained on 198 rows in 60 steps, loss 5.5486 → 5.3395`."""
    if checked.facts.training is None:
        return []
    record = parse(StatedTraining, checked.facts.training, "a training's record")
    run, data = record.run, record.data
    rows = data.train.rows if data and data.train else None
    steps, losses = (run.steps, run.loss) if run else (None, None)
    parts = [
        None if rows is None else f"trained on {rows} rows",
        None if steps is None else f"in {steps} steps",
        None if losses is None or losses.last is None else f"loss {_rounded(losses.first)} → {_rounded(losses.last)}",
    ]
    said = ", ".join(part for part in parts if part)
    return [f"  {said}, as its maker states"] if said else []


def _rounded(loss: Any) -> str:
    """As `train` shows it, where its maker wrote a number."""
    return f"{loss:.4f}" if isinstance(loss, float) else str(loss)


def _verdict(checked: CheckedRevision) -> str:
    """What it is, and whether it fits: `lora, rank 16, on q_proj, v_proj; fits acme/llama-7b`."""
    facts = checked.facts
    ranks = ", ".join(map(str, facts.ranks))
    what = ", ".join(
        filter(None, [facts.method, f"rank {ranks}" if ranks else "", f"on {', '.join(facts.targets[:8])}"])
    )
    rules = ", ".join(found.rule for found in checked.findings)
    base = checked.base or "an unknown base"
    said = {"compatible": f"made for {base}", "fits": f"fits {base}", "incompatible": f"does not fit {base}"}
    return f"  {what}; {said.get(checked.verdict, f'undecided for {base}')}" + (f" ({rules})" if rules else "")
