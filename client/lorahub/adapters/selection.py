"""Which modules a configuration asks for: those that are trained, and those that are kept whole beside them."""

from itertools import pairwise

from lorahub.adapters.patterns import Names, is_saved, layer_index

MOST_SAVED = 256
"""Each name is tried on each module; real adapters have two."""


class Selection:
    """As PEFT selects. `targets`, `excluded`: names, of which a module has to end in one, or an expression.

    `layers` limits names to these layers, whose numbers stand behind one of `layer_parents`, if there are any; `saved`
    are names of modules that are kept whole, `parameters` ends of the full names of bare parameters.
    """

    def __init__(
        self,
        targets: tuple[str, ...] | str | None,
        *,
        excluded: tuple[str, ...] | str = (),
        layers: frozenset[int] | None = None,
        layer_parents: tuple[str, ...] = (),
        saved: tuple[str, ...] = (),
        parameters: tuple[str, ...] = (),
    ) -> None:
        self.targets = targets
        self.saved = saved
        self._parameters = Names(parameters)
        self._targets = Names(targets or ())
        self._excluded = Names(excluded)
        self._layers = layers
        self._layer_parents = layer_parents

    def covers(self, module: str) -> bool | None:
        """Whether a layer is made for the module; None where the configuration doesn't say."""
        if self.targets is None or self.targets == "all-linear":
            return None
        if self._excluded.match(module):
            return False
        covered = self._targets.match(module)
        if covered and self._layers is not None and not isinstance(self.targets, str):
            return self._layer_of(module) in self._layers
        return covered

    def wraps(self, parameter: str) -> bool:
        """Whether the bare parameter of this full name is trained."""
        return bool(self._parameters.match(parameter))

    def saves(self, module: str) -> bool:
        """Every module whose name ends in one of `saved`, with all that is in it."""
        return is_saved(self.saved[:MOST_SAVED], module)

    def _layer_of(self, module: str) -> int | None:
        for before, number in pairwise(module.split(".")):
            if before in self._layer_parents and number.isdecimal():
                return int(number)
        return layer_index(module)
