"""The adapter that a run goes on with: where it lies, whether it fits, and by which name the new one remembers it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lorahub.adapters.adapter import Adapter
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.check import check
from lorahub.adapters.files import FolderFiles
from lorahub.adapters.findings import Verdict
from lorahub.adapters.reader import read_adapter
from lorahub.errors import AdapterDoesNotFit, EntryNotFound
from lorahub.hub.hub import Hub
from lorahub.hub.sources import is_of_an_adapter, local_place
from lorahub.training.base import sha256_of
from lorahub.training.methods.trained import WEIGHTS


@dataclass(frozen=True, slots=True)
class StartAdapter:
    """`parent` is its name and commit; the sha256 of its weights for a folder, which has no name that others know."""

    folder: Path
    parent: str

    def require_fit(self, base: BaseLayout) -> None:
        require_fit(read_adapter(FolderFiles(self.folder)), base)


def find_start(spec: str, hub: Callable[[], Hub]) -> StartAdapter:
    """Fetches what isn't here. Raises `EntryNotFound`, and what `Sources.fetch` does."""
    folder = local_place(spec)
    if folder is not None:
        digest = sha256_of(folder / WEIGHTS)
        if digest is None:
            raise EntryNotFound(f"there is no {folder / WEIGHTS}", hint="name the folder of an adapter, or a reference")
        return StartAdapter(folder, f"sha256:{digest}")
    with hub() as registry:
        fetched = registry.sources.fetch(spec, is_of_an_adapter)
    assert fetched.contents is not None  # it isn't local
    origin = "hf:" if spec.startswith("hf:") else ""
    return StartAdapter(fetched.folder, f"{origin}{fetched.contents.repository}@{fetched.contents.commit}")


def require_fit(adapter: Adapter, base: BaseLayout) -> None:
    """Raises `AdapterDoesNotFit` for what a check calls incompatible."""
    report = check(adapter, base)
    if report.verdict is Verdict.INCOMPATIBLE:
        worst = report.findings[0]
        raise AdapterDoesNotFit(worst.message, hint=worst.hint, findings=[found.as_json() for found in report.findings])
