"""`lorahub verify MERGED --base BASE --adapter ADAPTER`: whether a checkpoint holds what was merged into it."""

from collections.abc import Sequence
from dataclasses import replace

from lorahub.cli.merge import recipe_from
from lorahub.cli.output import Result
from lorahub.cli.session import Session
from lorahub.hub.merging import Merger
from lorahub.merging.proof import Holds, TensorProof, dtype_of, prove

_WORDS = {
    Holds.NO_UPDATE: "holds no update: it is the base's",
    Holds.OTHER: "is neither the base's nor what the recipe makes of it",
    Holds.MISSING: "is missing",
    Holds.ANOTHER_SHAPE: "has another shape",
}
_MOST_SHOWN = 20


def verify_merge(session: Session, place: str, base: str | None, adapters: tuple[str, ...]) -> Result:
    """Raises what `lorahub merge` does for the same base and adapters."""
    with session.sources() as sources, Merger(sources) as merger:
        recipe = recipe_from(base, adapters, {})
        merged = merger.base_files(place, is_dry=False)
        dtype = dtype_of(merged)
        if dtype in _NAMES and dtype != dtype_of(merger.base_files(recipe.base, is_dry=False)):
            recipe = replace(recipe, dtype=_NAMES[dtype])
        plan = merger.plan(recipe)
        found = list(prove(plan, merged))
    wrong = [one for one in found if not one.is_proved]
    counts = {holds.value: sum(one.holds is holds for one in found) for holds in Holds}
    return Result(
        {
            "proved": not wrong,
            "tensors": counts,
            "updated": sum(one.is_updated for one in found),
            "wrong": [
                {"tensor": one.name, "holds": one.holds.value, "updated": one.is_updated, "share": one.share}
                for one in wrong
            ],
        },
        list(_lines(place, found, wrong)),
        ids=[one.name for one in wrong],
        rows=[[one.name, one.holds.value, one.share] for one in wrong],
        exit_code=1 if wrong else 0,
    )


_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def _lines(place: str, found: Sequence[TensorProof], wrong: Sequence[TensorProof]) -> list[str]:
    updated = [one for one in found if one.is_updated]
    exact = sum(one.holds is Holds.EXACT for one in found)
    if not wrong:
        how = "byte for byte" if exact == len(found) else f"{exact} byte for byte, the others within their rounding"
        return [f"✓ {place} is base and adapters: {len(found)} tensors, {len(updated)} of them updated, {how}"]
    lacking = sum(one.is_updated for one in wrong)
    lines = [
        f"✗ {place} is something else: {len(wrong)} of {len(found)} tensors, {lacking} of {len(updated)} updated ones"
    ]
    lines += [f"  {one.name} {_WORDS[one.holds]}{_share(one)}" for one in wrong[:_MOST_SHOWN]]
    if len(wrong) > _MOST_SHOWN:
        lines.append(f"  … and {len(wrong) - _MOST_SHOWN} more (--json has them all)")
    return lines


def _share(one: TensorProof) -> str:
    if one.holds is not Holds.OTHER or one.share is None:
        return ""
    return f"; {one.share:.2f} of the update is in it"
