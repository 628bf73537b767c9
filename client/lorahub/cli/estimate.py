"""`lorahub estimate`."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from textwrap import indent
from typing import Any

import click

from lorahub.adapters.strict_json import parse_json
from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidBaseModel, InvalidUsage
from lorahub.estimating.estimate import Estimate, estimate
from lorahub.estimating.known import KNOWN
from lorahub.estimating.memory import ACCOUNTINGS
from lorahub.estimating.methods import METHODS, MethodSettings
from lorahub.estimating.model import ModelShape, known_model, model_of_base, model_of_config
from lorahub.estimating.selfcheck import Compared, SelfCheck, selfcheck
from lorahub.hub.showing import size_text


@command("estimate")
@click.argument("model", required=False)
@click.option("--method", type=click.Choice([*METHODS, "all"]), default="lora", show_default=True, help="How to adapt.")
@click.option("--rank", type=click.IntRange(1, 1 << 20), default=16, show_default=True, help="Of lora and bottlenecks.")
@click.option("--targets", default="all-linear", show_default=True, help="all-linear, roles (q,k,v,o) or module names.")
@click.option(
    "--virtual-tokens", type=click.IntRange(1, 1 << 20), default=16, show_default=True, help="Of prefix and prompt."
)
@click.option("--accounting", type=click.Choice([*ACCOUNTINGS, "all"]), default="all", help="What counts as memory.")
@click.option("--selfcheck", "checks_itself", is_flag=True, help="Compute the LoRA paper's figures anew.")
def estimate_(session: Session, model: str | None, *, checks_itself: bool, method: str, **wishes: Any) -> Result:
    """Tell what adapting MODEL costs: parameters trained, bytes of the checkpoint, memory. Nothing is loaded.

    MODEL is a name such as gpt3-175b or llama-3-8b, a config.json, or a base: a folder, hf:org/name, a name of the
    registry. Memory is what stands from step to step; activations come on top.
    """
    if checks_itself:
        return _checked(selfcheck())
    if model is None:
        raise InvalidUsage("no model is named", hint=f"a base, a config.json, or one of: {', '.join(KNOWN)}")
    settings = MethodSettings(
        wishes["rank"], tuple(filter(None, wishes["targets"].split(","))), wishes["virtual_tokens"]
    )
    found = _find(session, model)
    accountings = list(ACCOUNTINGS) if wishes["accounting"] == "all" else [wishes["accounting"]]
    if method == "all":
        return _compared(found, _every_method(found, settings), accountings)
    return _one(found, estimate(found, method, settings), settings, accountings)


# --- the model --------------------------------------------------------------------------------------------------------


def _find(session: Session, spec: str) -> ModelShape:
    known = known_model(spec)
    if known is not None:
        return known
    from lorahub.hub.bases import Bases
    from lorahub.hub.sources import local_place

    place = local_place(spec)
    if place is not None:
        config = place / "config.json" if place.is_dir() else place
        has_weights = place.is_dir() and any(one.suffix in (".safetensors", ".gguf") for one in place.iterdir())
        if place.suffix == ".json" or (place.is_dir() and not has_weights):
            return model_of_config(spec, _config(config))
    elif not {"/", ":"} & set(spec):
        meant = get_close_matches(spec, KNOWN, n=3)
        hint = f"did you mean {', '.join(meant)}?" if meant else f"known are {', '.join(KNOWN)}."
        raise InvalidUsage(
            f"{spec} is no model that is known by name, and no folder", hint=f"{hint} A base is org/name"
        )
    with session.sources() as sources:
        return model_of_base(spec, Bases(sources).open(spec).base)


def _config(place: Path) -> dict[str, Any]:
    try:
        value = parse_json(place.read_bytes(), error=InvalidBaseModel)
    except OSError as error:
        raise InvalidUsage(f"can't read {place}: {error.strerror}", hint="name a folder with a config.json") from None
    if not isinstance(value, dict):
        raise InvalidBaseModel(f"{place} is not a JSON object", hint="name the config.json of a model")
    return dict(value)


def _every_method(model: ModelShape, settings: MethodSettings) -> list[tuple[str, Estimate | str]]:
    found: list[tuple[str, Estimate | str]] = []
    for method in METHODS:
        try:
            found.append((method, estimate(model, method, settings)))
        except InvalidUsage as fault:
            found.append((method, fault.message))
    return found


# --- shown ------------------------------------------------------------------------------------------------------------


def _one(model: ModelShape, made: Estimate, settings: MethodSettings, accountings: Sequence[str]) -> Result:
    facts = [
        ["trained", f"{made.trainable:,}", f"{made.share:.3%} of {made.parameters:,}; {1 / made.share:,.0f} × fewer"],
        ["checkpoint", size_text(made.checkpoint(16)), f"in 16 bits; {size_text(made.checkpoint(32))} in 32"],
    ]
    header = ["memory", "full", made.method, "less", ""]
    rows = [_memory_row(made, name) for name in accountings]
    human = f"{model.name}, {_described(made.method, settings)}\n\n{_aligned(facts)}\n\n"
    return Result(
        {"model": _facts(model), "settings": _as_json(settings), **_chosen(made, accountings)},
        human + table(header, rows) + "\n\nActivations come on top, about as many for every method.",
        ids=[str(made.trainable)],
        rows=[[made.method, made.trainable, made.checkpoint(16), *[made.memory[name][1] for name in accountings]]],
    )


def _memory_row(made: Estimate, name: str) -> list[str]:
    full, own = made.memory[name]
    return [name, size_text(full), size_text(own), f"{full / own:.2f}×", ACCOUNTINGS[name].says]


def _described(method: str, settings: MethodSettings) -> str:
    more = {
        "lora": f"rank {settings.rank} on {','.join(settings.targets)}",
        "houlsby": f"width {settings.rank}",
        "pfeiffer": f"width {settings.rank}",
        "prefix": f"{settings.tokens} tokens",
        "prompt": f"{settings.tokens} tokens",
    }
    return f"{method}, {more[method]}" if method in more else method


def _compared(model: ModelShape, made: Sequence[tuple[str, Estimate | str]], accountings: Sequence[str]) -> Result:
    accounting = accountings[0] if len(accountings) == 1 else "mixed"
    header = ["method", "trained", "share", "checkpoint", "memory", "less"]
    rows = [
        [method, "–", "", "", "", ""]
        if isinstance(one, str)
        else [method, f"{one.trainable:,}", f"{one.share:.3%}", size_text(one.checkpoint(16)), *_cells(one, accounting)]
        for method, one in made
    ]
    refused = [f"{one}\n" for _, one in made if isinstance(one, str)]
    says = f"Checkpoint in 16 bits. Memory: {ACCOUNTINGS[accounting].says}; activations come on top."
    return Result(
        {
            "model": _facts(model),
            "methods": [
                {"method": method, "refused": one} if isinstance(one, str) else _chosen(one, accountings)
                for method, one in made
            ],
        },
        f"{model.name}, {model.parameters:,} parameters\n\n{table(header, rows)}\n\n{''.join(refused)}{says}",
        ids=[method for method, one in made if not isinstance(one, str)],
        rows=[[method, "" if isinstance(one, str) else one.trainable] for method, one in made],
    )


def _cells(made: Estimate, accounting: str) -> list[str]:
    full, own = made.memory[accounting]
    return [size_text(own), f"{full / own:.2f}×"]


def _chosen(made: Estimate, accountings: Sequence[str]) -> dict[str, Any]:
    shown = made.as_json()
    return {**shown, "memory_bytes": {name: shown["memory_bytes"][name] for name in accountings}}


def _facts(model: ModelShape) -> dict[str, Any]:
    return {"name": model.name, "parameters": model.parameters, "biases": model.biases, "linears": len(model.linears)}


def _as_json(settings: MethodSettings) -> dict[str, Any]:
    return {"rank": settings.rank, "targets": list(settings.targets), "virtual_tokens": settings.tokens}


# --- the paper --------------------------------------------------------------------------------------------------------


def _checked(found: SelfCheck) -> Result:
    headlines = [[one.what, one.exact, one.printed, one.remark] for one in found.headlines]
    parts = [
        "LoRA: Low-Rank Adaptation of Large Language Models (arXiv 2106.09685), computed anew\n",
        table(["headline", "exact", "paper", ""], headlines),
        "",
        table(["row", "", "exact", "paper", "verdict"], [_row(row) for row in found.rows]),
        "\nWhere paper and arithmetic differ",
    ]
    for number, known in enumerate(found.discrepancies, 1):
        parts.append(f"\n{number}. {known.title}: {known.reason}")
        if known.rows:
            parts.append(indent(_aligned([_row(row, off=True) for row in known.rows]), "   "))
    right = sum(row.matches for row in found.rows)
    parts.append(f"\n{'✓' if found.is_right else '✗'} {right} of {len(found.rows)} rows come out as printed")
    return Result(
        found.as_json(),
        "\n".join(parts),
        ids=[f"{row.verdict} {row.what}" for row in found.rows],
        rows=[[row.where, row.what, row.exact, row.printed, row.verdict] for row in found.rows],
        exit_code=0 if found.is_right else 1,
    )


def _row(row: Compared, *, off: bool = False) -> list[str]:
    last = f"{row.off:+.2%}" if off else ("✓ " if row.matches else "✗ ") + row.verdict
    return [row.where, row.what, f"{row.exact:,}", row.printed, last]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    return table(rows[0], rows[1:])
