"""The two families of errors are never caught together: a fault is no answer (client/lorahub/errors.py)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from lorahub.errors import Fault, Refusal, all_errors

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("client/lorahub/**/*.py"), *ROOT.glob("registry/lorahub_registry/**/*.py")])

LAST_RESORTS = {
    "registry/lorahub_registry/infrastructure/web/problems.py": "every answer of the web",
    "registry/lorahub_registry/features/merges/service.py": "a merge job settles, or is tried again",
    "registry/lorahub_registry/features/mirrors/service.py": "a mirror tries again, each time later",
    "registry/lorahub_registry/core/upstreams/transfers.py": "a transfer says why it ended, and is tried again",
}
"""Where everything ends, and so where both families are. The CLI's own, cli/main.py, looks at any `Exception`."""


def catchers_of_both(source: str) -> Iterator[int]:
    """Lines on which one handler takes refusals and faults."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ExceptHandler(type=ast.expr() as caught):
                names = names_in(caught)
            case ast.Call(func=ast.Name(id="suppress") | ast.Attribute(attr="exception_handler")):
                names = names_in(*node.args)
            case _:
                continue
        if "LorahubError" in names or {"Refusal", "Fault"} <= names:
            yield node.lineno


def names_in(*expressions: ast.expr) -> set[str]:
    nodes = [node for expression in expressions for node in ast.walk(expression)]
    return {node.id for node in nodes if isinstance(node, ast.Name)} | {
        node.attr for node in nodes if isinstance(node, ast.Attribute)
    }


def test_both_families_are_caught_where_everything_ends_only() -> None:
    found = {str(path.relative_to(ROOT)) for path in SOURCES if list(catchers_of_both(path.read_text()))}
    assert found == set(LAST_RESORTS)


@pytest.mark.parametrize(
    "planted",
    [
        "try:\n    pass\nexcept LorahubError:\n    pass",
        "try:\n    pass\nexcept (ValueError, LorahubError) as error:\n    pass",
        "try:\n    pass\nexcept (Refusal, Fault):\n    pass",
        "try:\n    pass\nexcept errors.LorahubError:\n    pass",
        "with suppress(LorahubError):\n    pass",
    ],
)
def test_a_planted_one_is_found(planted: str) -> None:
    assert list(catchers_of_both(planted))


@pytest.mark.parametrize("error", list(all_errors()), ids=lambda error: error.__name__)
def test_every_error_is_a_refusal_or_a_fault(error: type[Exception]) -> None:
    assert issubclass(error, Refusal) != issubclass(error, Fault)
