"""How many parameters each method trains, in the form that `lorahub train` gives it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lorahub.errors import InvalidUsage
from lorahub.estimating.model import ModelShape


@dataclass(frozen=True, slots=True)
class MethodSettings:
    """`rank` of lora, and the width of a bottleneck; `tokens` of prefix and prompt."""

    rank: int = 16
    targets: tuple[str, ...] = ("all-linear",)
    tokens: int = 16


def trainable(model: ModelShape, method: str, settings: MethodSettings) -> int:
    """Raises `InvalidUsage` where the model has nothing for this method to train, or its width can't be told."""
    return METHODS[method](model, settings)


def lora(model: ModelShape, settings: MethodSettings) -> int:
    """Σ r·(out + in) over the targets (arXiv 2106.09685, section 4.1)."""
    return sum(settings.rank * (out + width) for out, width in model.targeted(settings.targets).values())


def bottleneck(width: int, rank: int) -> int:
    """Down and up with their biases: 2·d·r + r + d."""
    return 2 * width * rank + rank + width


def houlsby(model: ModelShape, settings: MethodSettings) -> int:
    """One bottleneck behind attention and one behind the MLP (arXiv 1902.00751)."""
    return 2 * model.layers * bottleneck(model.width, settings.rank)


def pfeiffer(model: ModelShape, settings: MethodSettings) -> int:
    """One bottleneck a layer, behind the MLP (arXiv 2005.00247)."""
    return model.layers * bottleneck(model.width, settings.rank)


def prefix(model: ModelShape, settings: MethodSettings) -> int:
    """A key and a value for each virtual token in each layer, as PEFT keeps them: twice the paper's L·d·n."""
    return 2 * model.layers * model.key_width * settings.tokens


def prompt(model: ModelShape, settings: MethodSettings) -> int:
    return model.width * settings.tokens


def bitfit(model: ModelShape, _: MethodSettings) -> int:
    """Every entry of every bias."""
    if not model.biases:
        raise InvalidUsage(f"{model.name} has no biases: bitfit would train nothing", hint="take another method")
    return model.biases


def ia3(model: ModelShape, _: MethodSettings) -> int:
    """A factor for each entry of keys and values, and of what goes into the MLP's last layer (arXiv 2205.05638)."""
    keys, values, down = (model.targeted([role]) for role in ("k", "v", "down"))
    return sum(out for out, _ in {**keys, **values}.values()) + sum(width for _, width in down.values())


def full(model: ModelShape, _: MethodSettings) -> int:
    return model.parameters


METHODS: Mapping[str, Callable[[ModelShape, MethodSettings], int]] = {
    "lora": lora,
    "houlsby": houlsby,
    "pfeiffer": pfeiffer,
    "prefix": prefix,
    "prompt": prompt,
    "bitfit": bitfit,
    "ia3": ia3,
    "full": full,
}
