"""Writes the part of docs/coverage.md about image and video models, as the sweep found it.

make coverage
"""

import sys

import diffusers
from sweep import images
from sweep.outcome import Found, measure, plain, write


def document(found: list[Found]) -> str:
    return f"{_summary(found)}\n{_table(found)}\n### What wasn't compared, and why\n\n{_reasons(found)}"


def _summary(found: list[Found]) -> str:
    wrong = sum(bool(one["fault"]) for one in found)
    classes = {one["model"] for one in found}
    return (
        f"diffusers {diffusers.__version__}: {len(classes)} of its {len(images.classes())} transformers and UNets that "
        f"load LoRA, {len(found)} files; {wrong} with a fault.\n"
    )


def _table(found: list[Found]) -> str:
    """A column for each spelling of diffusers' names; the authors' and its converters' are many, and one each."""
    columns = ["diffusers' names", "authors' names", "single file as base", "diffusers' converters of adapters"]
    rows = []
    for model in sorted({one["model"] for one in found}):
        own = [one for one in found if one["model"] == model]
        cells = (_cell([one for one in own if _column(one["recipe"]) == column]) for column in columns)
        rows.append(f"| `{model}` | {' | '.join(cells)} |\n")
    return f"| class | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}\n" + "".join(rows)


def _column(spelling: str) -> str:
    if spelling.startswith("diffusers: "):
        return "diffusers' converters of adapters"
    if spelling.endswith("on a single file"):
        return "single file as base"
    return "authors' names" if spelling.startswith(("authors'", "XLabs'")) else "diffusers' names"


def _cell(outcomes: list[Found]) -> str:
    """In how many spellings how many modules were found; what isn't is below the table."""
    if not outcomes:
        return "–"
    if any(one["fault"] for one in outcomes):
        return "**wrong**"
    done = [one for one in outcomes if not one["hole"]]
    return f"{len(done)} of {len(outcomes)}, {max(one['modules'] for one in done)}" if done else "not compared"


def _reasons(found: list[Found]) -> str:
    rows = [
        f"| `{one['model']}` | {one['recipe']} | {plain(why)} |\n"
        for one in found
        if (why := one["fault"] or one["hole"])
    ]
    return "| class | spelling | why |\n| --- | --- | --- |\n" + "".join(rows)


if __name__ == "__main__":
    groups = ([name] for name in images.classes())
    write("tests/sweep/image_coverage.py", sys.argv[1:], lambda: measure("sweep.images", groups), document)
