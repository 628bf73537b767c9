"""Writes schemas/, the JSON Schemas of the files that people write, as `lorahub schema` prints them; a test compares.

Run: make tables
"""

from pathlib import Path

from lorahub.cli.schema import SCHEMAS, text_of

FOLDER = Path(__file__).with_name("schemas")


def documents() -> dict[str, str]:
    """File's name → what it should hold."""
    return {f"{name}.json": text_of(name) for name in SCHEMAS}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in documents().items():
        (FOLDER / name).write_text(text)
