"""The command line (being replaced)."""
import importlib, sys
from lorahub.errors import LorahubError

def main() -> None:
    name = sys.argv[1]
    command = getattr(importlib.import_module("lorahub_registry.commands"), name)
    try:
        command.main(sys.argv[2:], prog_name=f"lorahub {name}")
    except LorahubError as e:
        print(e.message, file=sys.stderr); sys.exit(e.exit_code)
