"""Whether a base is the one that an adapter means: by digests, revision and name."""

from collections.abc import Iterable, Iterator

from lorahub.adapters.adapter import Adapter
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.findings import Evidence, Finding, finding


def same_weights(adapter: Adapter, base: BaseLayout) -> bool:
    """Whether the adapter records the digest of exactly these weights, or of the files that hold them."""
    claim = adapter.claim
    if claim.weights is not None and base.weights_digest is not None:
        return claim.weights == base.weights_digest
    recorded, known = set(claim.files.values()), set(base.files.values())
    return bool(recorded) and (recorded == known or (not claim.names_all_files and recorded <= known))


def identity(adapter: Adapter, base: BaseLayout) -> Iterator[Finding]:
    claim = adapter.claim
    if same_weights(adapter, base):
        return
    differs = [
        Evidence(what, recorded, known)
        for what, recorded, known in (
            ("layout", claim.layout, base.layout_digest),
            ("weights", claim.weights, base.weights_digest),
        )
        if recorded and known and recorded != known
    ]
    if differs:
        what = " and ".join(piece.name for piece in differs)
        yield finding("LH103", f"the recorded digest of the base's {what} is another one", differs)
    elif claim.layout == base.layout_digest and claim.layout:
        yield from _revision(adapter, base)
        return
    if claim.name and base.names and not _is_called(claim.name, base.names):
        called = ", ".join(sorted(base.names)[:5])
        evidence = [Evidence("base_model_name_or_path", claim.name[:200], called)]
        if not any(found.rule == "LH104" for found in adapter.findings):
            yield finding("LH101", f"the adapter names {claim.name[:200]}, the base is called {called}", evidence)
    elif not differs:
        yield from _revision(adapter, base)


def _revision(adapter: Adapter, base: BaseLayout) -> Iterator[Finding]:
    recorded, known = adapter.claim.revision, base.revision
    if recorded and known and not (known.startswith(recorded) or recorded.startswith(known)):
        evidence = [Evidence("revision", recorded[:80], known[:80])]
        yield finding("LH102", f"recorded is revision {recorded[:80]}, this one is {known[:80]}", evidence)


def _is_called(claimed: str, names: Iterable[str]) -> bool:
    def plain(name: str) -> str:
        return name.removeprefix("hf:").partition("@")[0].strip("/").lower()

    return plain(claimed) in {plain(name) for name in names}
