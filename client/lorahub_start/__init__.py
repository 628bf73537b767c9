"""The command `lorahub`, and what is found out before anything of the package `lorahub` is imported: that it is ours.

The distribution `lorahub` on the Python index is other people's code, of the paper LoraHub, and its import package has
our name. Installed beside us it overwrites files of ours; uninstalled, it takes them along (ADR 15).
"""

import sys
from importlib.machinery import PathFinder
from os import listdir
from os.path import abspath, dirname, join, realpath

_HERE = dirname(dirname(abspath(__file__)))
_OURS = join(_HERE, "lorahub", "__init__.py")
_CURE = "pip uninstall -y lorahub; pip install --force-reinstall --no-deps lorahub-registry"


def main() -> None:
    """The entry point of the command `lorahub`."""
    if trouble := collision():
        sys.stderr.write(f"✗ {trouble}\n  Hint: {_CURE}\n")
        sys.exit(2)
    from lorahub.cli.main import main as run

    run()


def require_ours() -> None:
    """Raises `ImportError` where the package `lorahub` isn't ours alone."""
    if trouble := collision():
        raise ImportError(f"{trouble}. To mend it: {_CURE}")


def collision() -> str | None:
    """What is wrong with the package `lorahub` of this environment. Lists one folder; imports nothing."""
    for name in listdir(_HERE):
        if name.startswith("lorahub-") and name.endswith((".dist-info", ".egg-info")):
            other = name.rpartition(".")[0]
            return f"{other} is other people's code, whose files have the names of lorahub-registry's: {_HERE}"
    spec = PathFinder.find_spec("lorahub")
    if spec is None or spec.origin is None:
        return f"a file of lorahub-registry is gone, as after another `lorahub` was uninstalled: {_OURS}"
    if realpath(spec.origin) != realpath(_OURS):
        return f"other people's package `lorahub` stands before the one of lorahub-registry: {spec.origin}"
    return None
