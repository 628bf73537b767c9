"""What only the weights themselves show: NaN and infinity, and updates that are zero. One pass over the adapter."""

from collections.abc import Collection, Iterator, Mapping

from lorahub.adapters.adapter import BESIDE, Adapter
from lorahub.adapters.files import Files, header_of
from lorahub.adapters.findings import Evidence, Finding, finding
from lorahub.adapters.finite_scan import FiniteScan

_PIECE_BYTES = 1 << 20
_PRODUCTS = frozenset({"lora", "adalora", "loha", "lokr", "hira"})


def scan_weights(files: Files, adapter: Adapter) -> list[Finding]:
    """LH302 and LH303 for the adapter in these files. Raises `InvalidSafetensors` for a malformed file."""
    path = adapter.weights_file
    if path is None or not path.endswith(".safetensors"):
        return []
    header = header_of(files, path, allow_empty=True)
    scan = FiniteScan(header)
    end = header.data_start + header.data_bytes
    for start in range(header.data_start, end, _PIECE_BYTES):
        scan.feed(files.read(path, start, min(start + _PIECE_BYTES, end)))
    return list(weight_findings(adapter, nonfinite=scan.nonfinite(), zero=scan.zero()))


def weight_findings(adapter: Adapter, *, nonfinite: Mapping[str, int], zero: Collection[str]) -> Iterator[Finding]:
    """`nonfinite`: tensor -> how many elements; `zero`: the tensors that are zero throughout."""
    if nonfinite:
        evidence = [Evidence(name, f"{count} NaN or infinite", "finite") for name, count in nonfinite.items()]
        yield finding(
            "LH302", f"NaN or infinite elements in {len(evidence)} tensors, first {evidence[0].name}", evidence
        )
    still = list(_still(adapter, frozenset(zero)))
    if still:
        many = f"{len(still)} of {len(adapter.updates)} updates are zero"
        yield finding("LH303", f"{many}, first {still[0].name}", still)


def _still(adapter: Adapter, zero: frozenset[str]) -> Iterator[Evidence]:
    """A product is zero if one of its factors is."""
    for update in adapter.updates:
        if update.method in _PRODUCTS:
            factors = [entry.name for role, entry in update.tensors.items() if role not in BESIDE]
            empty = [name for name in factors if name in zero]
            if empty:
                yield Evidence(update.module, f"{empty[0]} is zero")
