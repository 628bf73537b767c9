"""Pictures: stored numbers become inline SVG, one sentence on what they show, and the same numbers as a table."""

from lorahub_registry.pictures.charts import bars, curve, spectrum
from lorahub_registry.pictures.lineage import lineage
from lorahub_registry.pictures.maps import MapVerdict, difference_map, fit_matrix, norm_map, relative_map
from lorahub_registry.pictures.overlaps import SIDES, cosine_map, cosine_pairs, share_map, share_pairs
from lorahub_registry.pictures.picture import Picture

__all__ = [
    "SIDES",
    "MapVerdict",
    "Picture",
    "bars",
    "cosine_map",
    "cosine_pairs",
    "curve",
    "difference_map",
    "fit_matrix",
    "lineage",
    "norm_map",
    "relative_map",
    "share_map",
    "share_pairs",
    "spectrum",
]
