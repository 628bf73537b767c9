"""Merges of one adapter into one base, as `lorahub merge` plans them."""

from collections.abc import Mapping

from lorahub.adapters.files import BytesFiles, Files
from lorahub.errors import Refusal
from lorahub.merging.plan import Ingredients, MergePlan
from lorahub.merging.recipe import Ingredient, Recipe


def planned(base: Files, adapter: Files) -> MergePlan:
    """Raises what a merge refuses."""
    return MergePlan(Recipe("base", (Ingredient("adapter"),)), Ingredients(base, [adapter], {}))


def is_merged(base: Files, adapter: Mapping[str, bytes]) -> bool:
    try:
        planned(base, BytesFiles(adapter))
    except Refusal:
        return False
    return True
