"""Writes docs/coverage.md: what is read, as the sweep found it.

    make coverage
    python -m sweep.coverage FILE…        (of outcomes that `python -m sweep.trial` has printed)

Each class is tried in a process of its own, so that what one does to its libraries doesn't reach another.
"""

import sys

import peft
import transformers
from sweep import tiny
from sweep.outcome import Found, measure, plain, write
from sweep.trial import RECIPES

_AT_ONCE = 40  # classes of one process, which takes seconds to begin


def document(found: list[Found]) -> str:
    return f"{_summary(found)}\n{_families(found)}\n### What wasn't tried, and what is wrong\n\n{_reasons(found)}"


def _summary(found: list[Found]) -> str:
    classes = {one["model"] for one in found}
    tried = {one["model"] for one in found if not one["hole"]}
    wrong = {one["model"] for one in found if one["fault"]}
    made_by = f"transformers {transformers.__version__}, PEFT {peft.__version__}"
    return (
        f"{made_by}: {len(classes)} of its {len(tiny.classes())} classes with the head of a causal or\n"
        f"conditional language model, of an encoder or of speech. {len(tried)} were compared; {len(classes - tried)}\n"
        f"can't be made tiny, aren't taken by PEFT or are undecided; {len(wrong)} with a fault.\n"
    )


def _families(found: list[Found]) -> str:
    kinds = tiny.classes()
    head = f"| family | classes | {' | '.join(RECIPES)} |\n| --- | ---: |{' ---: |' * len(RECIPES)}\n"
    rows = []
    for kind in sorted(set(kinds.values())):
        own = [one for one in found if kinds[one["model"]] == kind]
        if not own:
            continue
        cells = " | ".join(_cell([one for one in own if one["recipe"] == recipe]) for recipe in RECIPES)
        rows.append(f"| `{kind}` | {len({one['model'] for one in own})} | {cells} |\n")
    return head + "".join(rows)


def _reasons(found: list[Found]) -> str:
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in found:
        if why := one["fault"] or one["hole"]:
            reasons.setdefault((one["model"], why), []).append(one["recipe"])
    rows = (f"| `{model}` | {', '.join(recipes)} | {plain(why)} |\n" for (model, why), recipes in reasons.items())
    return "| class | adapter | why |\n| --- | --- | --- |\n" + "".join(rows)


def _cell(outcomes: list[Found]) -> str:
    """Modules that were found; what isn't is below the table."""
    if not outcomes:
        return "–"
    if any(one["fault"] for one in outcomes):
        return "**wrong**"
    modules = sum(one["modules"] for one in outcomes if not one["hole"])
    return str(modules) if modules else "not tried"


def _groups() -> list[list[str]]:
    names = list(tiny.classes())
    return [names[start : start + _AT_ONCE] for start in range(0, len(names), _AT_ONCE)]


if __name__ == "__main__":
    write("tests/sweep/coverage.py", sys.argv[1:], lambda: measure("sweep.trial", _groups()), document)
