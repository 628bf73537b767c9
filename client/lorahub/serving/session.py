"""One base, many adapters in memory, and which of them acts: `use` one, `mix` them by row, `blend` them into one."""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self, get_args

import torch
from torch import nn

from lorahub.adapters.files import FolderFiles
from lorahub.errors import AlreadyExists, EntryNotFound, InvalidConfiguration, InvalidUsage, LimitExceeded
from lorahub.hub.hub import Hub
from lorahub.hub.sources import Wanted, is_of_a_model, is_of_an_adapter, local_place
from lorahub.serving.dialog import Dialog
from lorahub.serving.fronts import Entrance
from lorahub.serving.slots import Active, FactorPair, Live, ModuleSlot, State
from lorahub.serving.targets import LoadedAdapter, Targets

OnSwap = Literal["reprefill", "keep"]


class Session:
    """A base model whose adapters change in place; its own weights are never written.

    >>> from lorahub import Session
    >>> with Session("./llama") as session:
    ...     loaded = session.load("sql", "./out")
    ...     session.use("sql")
    ...     session.active
    'sql'

    `base` is a model of transformers, or where one is: a folder, `hf:org/name`, a repository of the registry. `dtype`
    is that of a base that is read here, and of the factors; without it they have their weight's. `max_rank` bounds what
    may be loaded. `on_swap` is the policy of dialogs: `reprefill` computes the cache anew, `keep` goes on with the old
    adapter's. Factors live where the model is when they are loaded. A session belongs to one thread.
    """

    def __init__(
        self,
        base: nn.Module | str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        on_swap: OnSwap = "reprefill",
        max_rank: int | None = None,
    ) -> None:
        """Raises `BaseNotFound`, `InvalidBaseModel`, `InvalidUsage`; `InvalidConfiguration` without transformers."""
        if on_swap not in get_args(OnSwap):
            raise InvalidUsage(f"no policy is called {on_swap!r}", hint="reprefill is exact, keep is fast")
        dtype = _dtype(dtype)
        self.model: Any = base if isinstance(base, nn.Module) else load_base(base, dtype)
        self.on_swap = on_swap
        self.max_rank = max_rank
        self._live = Live()
        self._targets = Targets(self.model, dtype)
        self._adapters: dict[str, LoadedAdapter] = {}
        self._states: dict[str | None, State] = {None: self._live.state}
        self._slots: dict[str, ModuleSlot] = {}
        self._entrance: Entrance | None = None
        self._stack: tuple[tuple[str, ...], Mapping[str, FactorPair]] = ((), {})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def adapters(self) -> Mapping[str, LoadedAdapter]:
        """What is loaded, by name."""
        return MappingProxyType(self._adapters)

    @property
    def active(self) -> Active:
        """The adapter that acts, a name or None for each row of a mix, or None for the base."""
        return self._live.state.active

    @property
    def state(self) -> State:
        """What the slots read; the same object whenever the same adapter acts."""
        return self._live.state

    # --- loading ------------------------------------------------------------------------------------------------------

    def load(self, name: str, source: str | Path) -> LoadedAdapter:
        """Reads an adapter, without using it yet: a folder, `namespace/name@revision` of the registry, `hf:org/name`.

        Raises `NotConvertible` for what can't act here, `AdapterDoesNotFit`, `AlreadyExists`, `LimitExceeded`; the
        session is as before then.
        """
        self._refuse_taken(name)
        return self._keep(name, self._targets.read(FolderFiles(folder_of(source, Hub)), str(source)))

    def blend(self, name: str, weights: Mapping[str, float]) -> LoadedAdapter:
        """A weighted sum of loaded adapters as one adapter, exactly: Σ wᵢ·Bᵢ·Aᵢ is one pair of the sum of the ranks.

        Raises `InvalidUsage` for an adapter that isn't plain LoRA.
        """
        self._refuse_taken(name)
        if not weights:
            raise InvalidUsage("a blend of nothing", hint='name adapters: {"a": 0.5, "b": -0.2}')
        parts = [(self._plain(part).pairs, weight) for part, weight in weights.items()]
        modules = dict.fromkeys(module for pairs, _ in parts for module in pairs)
        summed = {
            module: _concatenated([(pairs[module], weight) for pairs, weight in parts if module in pairs])
            for module in modules
        }
        source = " + ".join(f"{weight:g}·{part}" for part, weight in weights.items())
        return self._keep(name, LoadedAdapter(source, self._targets.resident(summed)))

    def unload(self, name: str) -> None:
        """Raises `InvalidUsage` for an adapter that acts: the output would change unasked."""
        self._loaded(name)
        if name == self.active or (isinstance(self.active, tuple) and name in self.active):
            raise InvalidUsage(f"{name} is active", hint="use another adapter, or None, before")
        del self._adapters[name], self._states[name]
        self._stack = ((), {})
        self._fit_slots()

    def close(self) -> None:
        """The model is as it was before the session."""
        self.use(None)
        for name in list(self._adapters):
            self.unload(name)

    # --- swapping -----------------------------------------------------------------------------------------------------

    def use(self, name: str | None) -> None:
        """From the next forward on this adapter, or the base alone. One assignment, whatever the adapter's size."""
        if name is not None:
            self._loaded(name)
        self._live.state = self._states[name]

    def using(self, name: str | None) -> AbstractContextManager[None]:
        """`use` now; at the end of the block, what acted before."""
        before = self.active
        self.use(name)
        return self._until(before)

    def mix(self, rows: Sequence[str | None]) -> AbstractContextManager[None]:
        """An adapter for each row of the batch, None for the base; from now on, or for the block of a `with`.

        Raises `InvalidUsage` for an adapter that isn't plain LoRA.
        """
        before = self.active
        self._mix(tuple(rows))
        return self._until(before)

    def dialog(self, tokenizer: object = None, *, on_swap: OnSwap | None = None, temperature: float = 0.0) -> Dialog:
        """A conversation; without a tokenizer it takes and gives token ids."""
        return Dialog(self, tokenizer, on_swap=on_swap or self.on_swap, temperature=temperature)

    @contextmanager
    def _until(self, before: Active) -> Iterator[None]:
        try:
            yield
        finally:
            if isinstance(before, tuple):
                self._mix(before)
            else:
                self.use(before)

    def _mix(self, rows: tuple[str | None, ...]) -> None:
        names = tuple(sorted({name for name in rows if name is not None}))
        adapters = [self._plain(name).pairs for name in names]
        if self._stack[0] != names:
            self._stack = (names, _stacked(adapters))
        pairs = self._stack[1]
        device = next((pair.a.device for pair in pairs.values()), None)
        numbers = [len(names) if name is None else names.index(name) for name in rows]
        self._live.state = State(rows, pairs, torch.tensor(numbers, device=device))

    # --- bookkeeping --------------------------------------------------------------------------------------------------

    def _keep(self, name: str, loaded: LoadedAdapter) -> LoadedAdapter:
        if self.max_rank is not None and loaded.rank > self.max_rank:
            raise LimitExceeded(
                f"{name} has rank {loaded.rank}, this session takes {self.max_rank}", hint="raise max_rank"
            )
        self._fit_slots(loaded)
        self._adapters[name] = loaded
        self._states[name] = State(name, loaded.pairs, effects=loaded.effects, front=loaded.front)
        return loaded

    def _fit_slots(self, *more: LoadedAdapter) -> None:
        """Slots before exactly the modules that some adapter targets, an entrance where one has a front."""
        adapters = (*self._adapters.values(), *more)
        wanted = {module for loaded in adapters for module in loaded.modules}
        new = {module: self.model.get_submodule(module) for module in wanted - self._slots.keys()}
        for module in new.values():
            ModuleSlot.refuse_taken(module)
        for name in self._slots.keys() - wanted:
            self._slots.pop(name).remove()
        self._slots |= {name: ModuleSlot(name, module, self._live) for name, module in new.items()}
        has_front = any(loaded.front is not None for loaded in adapters)
        if has_front and self._entrance is None:
            self._entrance = Entrance(self.model, self._live)
        elif not has_front and self._entrance is not None:
            self._entrance.remove()
            self._entrance = None

    def _loaded(self, name: str) -> LoadedAdapter:
        if name not in self._adapters:
            near = difflib.get_close_matches(name, self._adapters, n=1)
            known = ", ".join(self._adapters) or "none yet"
            raise InvalidUsage(
                f"no adapter is loaded as {name!r}", hint=f"did you mean {near[0]}?" if near else f"loaded: {known}"
            )
        return self._adapters[name]

    def _plain(self, name: str) -> LoadedAdapter:
        loaded = self._loaded(name)
        if loaded.effects or loaded.front is not None:
            raise InvalidUsage(
                f"{name} is {loaded.method}, not plain LoRA: it has the whole batch to itself", hint="use it alone"
            )
        return loaded

    def _refuse_taken(self, name: str) -> None:
        if name in self._adapters:
            raise AlreadyExists(f"an adapter is loaded as {name!r} already", hint="unload it, or choose another name")


def load_base(
    base: str | Path, dtype: torch.dtype | None = None, device: str | None = None, hub: Callable[[], Hub] = Hub
) -> Any:
    """A causal language model, ready to be asked; its weights and tokenizer are in `folder_of(base, hub)`.

    Raises `BaseNotFound`, `InvalidBaseModel`, `InvalidUsage`, `InvalidConfiguration`, `LimitExceeded`, and what
    fetching it raises.
    """
    try:
        from lorahub.serving.models import load_config, load_model, require_continuing
    except ModuleNotFoundError as error:
        raise InvalidConfiguration(
            f"models are loaded by transformers, and {error.name} is not installed",
            hint="pip install 'lorahub-registry[train]'",
        ) from None
    folder = folder_of(base, hub, is_of_a_model).resolve()  # a path that nobody takes for a name
    load_config(folder)
    model, _ = load_model(folder, **({} if dtype is None else {"dtype": dtype}))
    model = model.eval() if device is None else _moved(model.eval(), device)
    require_continuing(folder, model)
    return model


def _moved(model: Any, device: str) -> Any:
    try:
        if torch.device(device).type == "meta":
            raise InvalidUsage("nothing is computed on meta, which holds shapes alone", hint="try --device cpu")
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        first = str(error).strip().partition("\n")[0]
        raise InvalidUsage(f"the model can't go to {device}: {first}", hint="try --device cpu") from error


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """By torch's name of it: `bfloat16`."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not isinstance(found, torch.dtype):
        raise InvalidUsage(f"torch has no dtype {dtype!r}", hint="float32, bfloat16 or float16")
    return found


def folder_of(source: str | Path, hub: Callable[[], Hub], wanted: Wanted = is_of_an_adapter) -> Path:
    """Where the files of an adapter or a base are. Raises `EntryNotFound`, and what `Sources.fetch` does."""
    place = local_place(source)
    if place is None:
        with hub() as registry:
            return registry.sources.fetch(source, wanted).folder
    if not place.exists():
        raise EntryNotFound(f"there is no {source}", hint="name a folder with adapter_config.json")
    return place


def _concatenated(parts: Sequence[tuple[FactorPair, float]]) -> FactorPair:
    """Ranks side by side, the weights in `b`; as float64, so that they are rounded once."""
    first = parts[0][0]
    a = torch.cat([pair.a.double() for pair, _ in parts], dim=1 if first.is_embedding else 0)
    b = torch.cat([pair.b.double() * weight for pair, weight in parts])
    return FactorPair(a, b, first.is_embedding)


def _stacked(adapters: Sequence[Mapping[str, FactorPair]]) -> dict[str, FactorPair]:
    """Every module of any adapter, (adapters + 1, …): zeros where an adapter leaves it alone, and last for the base."""
    stacks: dict[str, FactorPair] = {}
    for module in dict.fromkeys(module for pairs in adapters for module in pairs):
        own = [pairs.get(module) for pairs in adapters]
        rank = max(pair.rank for pair in own if pair is not None)
        some = next(pair for pair in own if pair is not None)
        a = some.a.new_zeros(len(own) + 1, *((some.a.shape[0], rank) if some.is_embedding else (rank, some.a.shape[1])))
        b = some.b.new_zeros(len(own) + 1, rank, some.b.shape[1])
        for number, pair in enumerate(own):
            if pair is not None:
                (a[number, :, : pair.rank] if pair.is_embedding else a[number, : pair.rank]).copy_(pair.a)
                b[number, : pair.rank] = pair.b
        stacks[module] = FactorPair(a, b, some.is_embedding)
    return stacks
