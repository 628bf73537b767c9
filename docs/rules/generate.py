"""Writes the pages of docs/rules from the table of rules; a test compares the two. Run: make tables"""

from pathlib import Path

from lorahub.adapters.rules import RULES, Rule

FOLDER = Path(__file__).parent

CHAPTERS = {
    "1": "Which base it is",
    "2": "Whether it fits",
    "3": "What the files are",
    "4": "Who can load it",
    "5": "Terms and locks",
}


def page(rule: Rule) -> str:
    return (
        f"# {rule.id}: {rule.title}\n\n"
        f"Severity: **{rule.severity.value}**\n\n"
        f"## Cause\n\n{rule.cause}\n\n"
        f"## Cure\n\n{rule.cure[:1].upper()}{rule.cure[1:]}.\n\n"
        f"## Example\n\n    {rule.example}\n"
    )


def index() -> str:
    lines = [
        "# Rules of the checker",
        "",
        "An *error* means that the adapter doesn't work on this base, a *warning* that it may not do what was meant,",
        "a *note* is good to know. Set one aside in `lorahub.toml`, with a reason and an expiry date;",
        "`base` and `runtime` narrow it down, and `*` stands for anything:",
        "",
        "```toml",
        "[[check.ignore]]",
        'adapter = "acme/sql"',
        'rule = "LH402"',
        'runtime = "vllm"',
        'reason = "served with PEFT only"',
        "until = 2027-01-01",
        "```",
    ]
    for digit, title in CHAPTERS.items():
        lines += ["", f"## LH{digit}xx: {title}", "", "| rule | severity | says |", "| --- | --- | --- |"]
        lines += [
            f"| [{rule.id}]({rule.id}.md) | {rule.severity.value} | {rule.title} |"
            for rule in RULES.values()
            if rule.id[2] == digit
        ]
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    return {f"{rule.id}.md": page(rule) for rule in RULES.values()} | {"README.md": index()}


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
