"""`lorahub info`."""

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
    tags = [str(tag) for tag in model.get("tags") or ()]
    lines = [
        resolved(reference, revision),
        f"  by {revision.author}, {revision.created_at}: {revision.message}",
        f"  {len(revision.files)} files, {size_text(revision.size)}; {model.get('downloads', 0)} downloads",
    ]
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
    }
    return Result(
        data=data,
        human="\n".join(lines),
        ids=[f"sha256:{revision.digest}"],
        rows=[[key, value] for key, value in data.items() if not isinstance(value, list | dict)],
        notes=yank_notes(revision),
    )
