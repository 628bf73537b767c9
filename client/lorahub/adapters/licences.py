"""Whether an adapter's licence grants what its base's licence withholds. No legal advice: a hint to look."""

_NON_COMMERCIAL = ("cc-by-nc", "fair-noncommercial", "apple-amlr", "mnpl", "flux-1-dev-non-commercial")
_SHARE_ALIKE = ("cc-by-sa", "gpl", "agpl", "lgpl", "cc-by-nc-sa", "odbl", "ms-rl", "eupl")
_PERMISSIVE = frozenset(
    "mit apache-2.0 bsd bsd-2-clause bsd-3-clause isc unlicense cc0-1.0 wtfpl zlib cc-by-4.0".split()
)


def conflict(base: str | None, adapter: str | None) -> str | None:
    """Why the two don't go together; None where they do, or one of them isn't known.

    >>> conflict("cc-by-nc-4.0", "mit")
    'cc-by-nc-4.0 forbids commercial use, mit allows it'
    >>> conflict("apache-2.0", "mit") is None
    True
    """
    if not base or not adapter or base == adapter or adapter not in _PERMISSIVE:
        return None
    if base.startswith(_NON_COMMERCIAL):
        return f"{base} forbids commercial use, {adapter} allows it"
    if base.startswith(_SHARE_ALIKE):
        return f"{base} asks for the same licence, {adapter} is another"
    return None
