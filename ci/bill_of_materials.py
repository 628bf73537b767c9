"""Writes what a lock file names as a bill of materials (CycloneDX JSON): name, version, and the sha256 of every file.

    python ci/bill_of_materials.py LOCK TARGET

The same lock gives the same bytes. Run by `make lock`, with the tools of `locks/tools.txt`.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement

_PROJECT = Path(__file__).parents[1] / "pyproject.toml"
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def bill_of(lock: str) -> Bom:
    project = tomllib.loads(_PROJECT.read_text("utf-8"))["project"]
    ours = _component(project["name"], project["version"], ComponentType.APPLICATION)
    parts = list(_parts(lock))
    bom = Bom(components=parts)
    bom.metadata.component = ours
    bom.metadata.timestamp = bom.serial_number = None  # type: ignore[assignment]  # of this run, not of what it found
    bom.register_dependency(ours, parts)
    return bom


def _parts(lock: str) -> Iterator[Component]:
    """What is for some systems or Pythons only is optional."""
    for entry in lock.replace("\\\n", " ").splitlines():
        named = Requirement(entry.partition("--hash")[0])
        [pinned] = named.specifier
        hashes = [HashType(alg=HashAlgorithm.SHA_256, content=found) for found in _HASH.findall(entry)]
        scope = ComponentScope.OPTIONAL if named.marker else ComponentScope.REQUIRED
        yield _component(named.name, pinned.version, ComponentType.LIBRARY, scope=scope, hashes=hashes)


def _component(name: str, version: str, kind: ComponentType, **more: object) -> Component:
    address = PackageURL("pypi", None, name, version)
    return Component(name=name, version=version, type=kind, purl=address, bom_ref=str(address), **more)  # type: ignore[arg-type]


def main(lock: str, target: str) -> None:
    text = make_outputter(bill_of(Path(lock).read_text("utf-8")), OutputFormat.JSON, SchemaVersion.V1_6)
    written = text.output_as_string(indent=2)
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(written):
        sys.exit(f"{target} would be none: {fault}")
    Path(target).write_text(written + "\n", "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
