"""Writes the twins of chat templates that mark their answers: TRL's, by the templates that they stand for.

TRL isn't imported, only its files are read (`make clients` puts it beside the environment): Apache-2.0.
Run: make chat-templates
"""

import json
import sys
from pathlib import Path

from lorahub.training.templates import digest_of

ROOT = Path(__file__).parents[1]
TRL = ROOT / ".venv" / "clients" / "trl"
TWINS = ROOT / "client" / "lorahub" / "training" / "twins.json"
ENDING = "_training.jinja"


def twins(folder: Path) -> list[dict[str, str]]:
    found = []
    for path in sorted(folder.glob(f"*{ENDING}")):
        name = path.name.removesuffix(ENDING)
        original = (folder / f"{name}.jinja").read_text("utf-8")
        found.append({"name": name, "of": digest_of(original), "template": path.read_text("utf-8")})
    return found


def main() -> int:
    (version,) = (path.name.removeprefix("trl-").removesuffix(".dist-info") for path in TRL.glob("trl-*.dist-info"))
    told = {
        "source": f"trl {version}, https://github.com/huggingface/trl",
        "licence": "Apache-2.0",
        "twins": twins(TRL / "trl" / "chat_templates"),
    }
    TWINS.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
