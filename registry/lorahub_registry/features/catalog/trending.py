"""How much a repository is read lately, as a number whose order never has to be computed anew.

Each read adds a weight that doubles every `HALF_LIFE`: sorting by the sum is sorting by reads that fade, at any time
(forward decay: Cormode et al., ICDE 2009). A double holds the weights until 2045.
"""

from datetime import UTC, datetime, timedelta

from lorahub_registry.infrastructure.database import now

HALF_LIFE = timedelta(days=7)
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def weight_of_a_read() -> float:
    return float(2 ** ((now() - _EPOCH) / HALF_LIFE))


def score(trending: float) -> float:
    """Recent reads, one of a half-life ago counting half."""
    return round(trending / weight_of_a_read(), 2)
