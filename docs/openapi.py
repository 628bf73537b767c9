"""Writes openapi.json, the description of the API that a registry answers with; a test compares the two.

Run: make tables
"""

import json
import tempfile
from pathlib import Path

from lorahub_registry.app import create_app
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.settings import Settings

PLACE = Path(__file__).with_name("openapi.json")


def document() -> str:
    """As it should be."""
    with tempfile.TemporaryDirectory() as home:
        backend = Backend.open(Settings(registry_home=Path(home)))
        try:
            described = create_app(backend).openapi()
        finally:
            backend.database.close()
    return json.dumps(described, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    PLACE.write_text(document())
