"""Whether what an adapter asks of a weight is the shape that the weight has."""

from dataclasses import replace

from lorahub.adapters.adapter import Kind, Part, PartKind, Shape, Update
from lorahub.adapters.names.weight import Weight

VOCABULARY = frozenset("embed_tokens lm_head wte word_embeddings embed_in embed_out shared tok_embeddings".split())
SHAPES_AGREE = frozenset({None, "LH211"})
"""What comparing shapes says where they agree: nothing, or that only the flag is wrong."""


def as_stacked(piece: Update | Part, weight: Weight) -> Update | Part:
    """An update of a parameter that holds the only expert there is: it has the shape of any layer."""
    if isinstance(piece, Update) and piece.kind is Kind.LINEAR and (1, *piece.shape) == weight.shape:
        return replace(piece, shape=(1, *piece.shape))
    return piece


def asked_shape(piece: Update | Part) -> Shape:
    if isinstance(piece, Update) and piece.transposed and piece.kind is Kind.LINEAR and len(piece.shape) == 2:
        return piece.shape[::-1]
    return piece.shape


def compare_shapes(piece: Update | Part, weight: Weight) -> str | None:
    """The rule that the pair breaks, if any."""
    asked, there = asked_shape(piece), weight.shape
    if _agrees(asked, there):
        return _beyond_vocabulary(piece, there)
    if isinstance(piece, Update):
        if len(asked) == 3 and len(there) == 3 and _agrees((asked[0], asked[2], asked[1]), there):
            return None  # experts stored (experts, in, out); PEFT reads it off the shape
        if len(asked) == 2 and len(there) == 2 and piece.kind is Kind.LINEAR and _agrees(asked[::-1], there):
            return "LH211"
    if piece.leaf in VOCABULARY and len(asked) == len(there) == 2 and _agrees(asked[1:], there[1:]):
        return "LH204"
    return "LH202"


def _agrees(asked: Shape, there: tuple[int, ...]) -> bool:
    if len(asked) == len(there):
        return all(want is None or want == size for want, size in zip(asked, there, strict=True))
    if len(asked) != 2 or len(there) < 2:
        return len(asked) == 1 and asked[0] is None
    rest = 1
    for size in there[1:]:
        rest *= size
    return asked[0] in (None, there[0]) and asked[1] in (None, rest)  # a convolution, flattened


def _beyond_vocabulary(piece: Update | Part, there: tuple[int, ...]) -> str | None:
    is_rows = isinstance(piece, Part) and piece.kind is PartKind.TOKEN_ROWS
    return "LH204" if is_rows and piece.indices and max(piece.indices) >= there[0] else None  # type: ignore[union-attr]
