"""The notes of a release: what CHANGELOG.md says of its version, which has a date by then.

python ci/release_notes.py 0.2.0 > notes.md
"""

import re
import sys
from pathlib import Path

_HEADING = re.compile(r"^## (?P<version>\S+)(?: \((?P<date>\d{4}-\d{2}-\d{2})\))?$", re.MULTILINE)


def notes(changelog: str, version: str) -> str:
    r"""What stands between the version's heading and the next.

    Raises `ValueError` where the version isn't there, or has no date.

    >>> notes("# Changelog\n\n## Unreleased\n\n## 0.2.0 (2026-12-01)\n\n- New.\n\n## 0.1.0 (2026-01-01)\n", "0.2.0")
    '- New.\n'
    """
    headings = list(_HEADING.finditer(changelog))
    for heading, following in zip(headings, [*headings[1:], None], strict=True):
        if heading["version"] == version:
            text = changelog[heading.end() : following.start() if following else len(changelog)].strip()
            if not heading["date"] or not text:
                raise ValueError(f"CHANGELOG.md: {version} needs a date, as in `## {version} (2026-12-01)`, and a text")
            return text + "\n"
    raise ValueError(f"CHANGELOG.md has no heading `## {version} (date)`: `Unreleased` becomes one before the tag")


if __name__ == "__main__":
    try:
        sys.stdout.write(notes(Path(__file__).parents[1].joinpath("CHANGELOG.md").read_text("utf-8"), sys.argv[1]))
    except ValueError as error:
        sys.exit(str(error))
