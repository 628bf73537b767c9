"""`lorahub.check` and `lorahub.merge`: what needs no registry, unless a name leads there."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lorahub.errors import InvalidRecipe
from lorahub.hub.checking import Checks
from lorahub.hub.hub import Hub
from lorahub.merging.recipe import MOST_BYTES, Recipe, parse_recipe


def check(
    adapter: str | Path,
    *bases: str | Path,
    level: str = "shapes",
    runtimes: Sequence[str] = (),
    hub: Callable[[], Hub] = Hub,
) -> Checks:
    """Whether an adapter fits: one result for each base, or for the base that it names.

    Each is a folder, `hf:org/name`, or a repository of the registry. `level` is how deep to look (metadata, shapes,
    drift, load), `runtimes` are those that must load it too. Raises what reading them raises.

    >>> import lorahub
    >>> [result] = lorahub.check("./out", "./llama")
    >>> result.verdict.value
    'fits'
    """
    with hub() as opened:
        return opened.check(str(adapter), *map(str, bases), level=level, runtimes=runtimes)


def merge(
    recipe: Recipe | str | Path,
    folder: str | Path,
    *,
    threads: int | None = None,
    device: str = "cpu",
    hub: Callable[[], Hub] = Hub,
) -> Path:
    """Folds adapters into a base, exactly, and writes the model into `folder`: as `Hub.merge`. `recipe` may be a file.

    Raises `InvalidRecipe`, and what `Hub.merge` does.

    >>> import lorahub
    >>> recipe = lorahub.Recipe("./llama", (lorahub.Ingredient("./out", weight=0.7),))
    >>> merged = lorahub.merge(recipe, "./merged")
    >>> (merged / "model.safetensors").is_file()
    True
    """
    with hub() as opened:
        return opened.merge(
            recipe if isinstance(recipe, Recipe) else _read(Path(recipe)), folder, threads=threads, device=device
        )


def _read(path: Path) -> Recipe:
    with path.open("rb") as file:
        text = file.read(MOST_BYTES + 1)
    try:
        return parse_recipe(text)
    except InvalidRecipe as error:
        raise InvalidRecipe(f"{path}: {error.message}", hint=error.hint) from None
