"""How adapters are stored: one module for each format, and a row for each here.

To add a format: a module with `is_…` and `read_…`, which makes an `Adapter` of an `Opened`, and a row in its place.
Nothing behind the reader knows a format by its name; what it asks about one stands in its row, or in the `Adapter`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from lorahub.adapters.adapter import Adapter
from lorahub.adapters.formats.adapterhub import is_adapterhub, read_adapterhub
from lorahub.adapters.formats.diffusers import is_diffusers, read_diffusers
from lorahub.adapters.formats.gguf import is_gguf_adapter, read_gguf_adapter
from lorahub.adapters.formats.kohya import is_kohya, read_kohya
from lorahub.adapters.formats.mlx import is_mlx, read_mlx
from lorahub.adapters.formats.opened import Opened
from lorahub.adapters.formats.own import is_own, read_own
from lorahub.adapters.formats.peft import is_peft, read_peft
from lorahub.adapters.formats.plain import is_loralib, is_torchtune, read_loralib, read_torchtune


@dataclass(frozen=True, slots=True)
class Format:
    """`read` is given what `recognises` was true of."""

    name: str
    recognises: Callable[[Opened], bool]
    read: Callable[[Opened], Adapter]
    is_convertible: bool = False
    """Whether conversions start from it."""
    is_image: bool = False
    """Whether it is for image models only."""
    has_spellings: bool = False
    """Whether there are several, so that a file in this format may still be converted to it."""
    stands_beside: bool = False
    """Whether what it holds stands between the base's modules or beside them, and is no update to a weight."""
    reorders_rows: bool = False
    """Whether it keeps the rows of q and k in another order than transformers."""


FORMATS: tuple[Format, ...] = (
    Format("gguf", is_gguf_adapter, read_gguf_adapter, is_convertible=True, reorders_rows=True),
    Format("mlx", is_mlx, read_mlx, is_convertible=True),
    Format("adapterhub", is_adapterhub, read_adapterhub),
    Format("lorahub", is_own, read_own, stands_beside=True),
    Format("peft", is_peft, read_peft, is_convertible=True),
    Format("kohya", is_kohya, read_kohya, is_convertible=True, is_image=True),
    Format("diffusers", is_diffusers, read_diffusers, is_convertible=True, is_image=True, has_spellings=True),
    Format("torchtune", is_torchtune, read_torchtune, reorders_rows=True),
    Format("loralib", is_loralib, read_loralib),
)
"""In the order in which they are tried: what an adapter_config.json says counts before the names of tensors."""

SOURCES = frozenset(one.name for one in FORMATS if one.is_convertible)
IMAGE_FORMATS = frozenset(one.name for one in FORMATS if one.is_image)

_BY_NAME = {one.name: one for one in FORMATS}


def format_of(adapter: Adapter) -> Format | None:
    """None of one that no format is recognised in."""
    return _BY_NAME.get(adapter.format)
