"""The options of `lorahub merge` and `lorahub combine` that are made of the methods' own parameters."""

from collections.abc import Callable, Collection
from typing import Any

import click

from lorahub.merging.combinations import COMBINATIONS, PARAMETERS, methods_with

Decorated = Callable[..., Any]


def method_options(*, but: Collection[str] = ()) -> Callable[[Decorated], Decorated]:
    """`--method`, and its parameters but for those that the command has a meaning of its own for."""

    def decorate(function: Decorated) -> Decorated:
        for one in reversed(list(PARAMETERS.values())):
            if one.name not in but:
                told = f"{one.about.capitalize()}: {', '.join(methods_with(one))}."
                function = click.option(f"--{one.name}", type=one.kind, help=told)(function)
        choice = click.Choice(list(COMBINATIONS))
        return click.option("--method", type=choice, default="sum", help="How adapters are combined.")(function)

    return decorate
