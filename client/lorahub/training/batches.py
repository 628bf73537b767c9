"""Samples as tensors: packed into rows that don't see each other, in an order that a seed and a step determine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lorahub.training.packing import group, pack
from lorahub.training.tokens import Samples

IGNORED = -100


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """`ids` and `labels` (rows, tokens) int64; a label is the token itself, or -100 where nothing is learnt.

    `positions` (rows, tokens) begin anew with each sample, or are None where each row is one sample. There is no
    attention mask on purpose: beside one, models of transformers don't look at positions, and samples see each other.
    """

    ids: Tensor
    labels: Tensor
    positions: Tensor | None
    tokens: int
    """Without padding."""
    supervised: int
    lines: tuple[int | str, ...]

    def to(self, device: torch.device) -> "TokenBatch":
        positions = None if self.positions is None else self.positions.to(device, non_blocking=True)
        ids, labels = (tensor.to(device, non_blocking=True) for tensor in (self.ids, self.labels))
        return replace(self, ids=ids, labels=labels, positions=positions)

    def in_one_row(self) -> "TokenBatch":
        """The same samples end to end; only where positions tell them apart."""
        if self.positions is None:
            return self
        ids, labels, positions = (tensor.view(1, -1) for tensor in (self.ids, self.labels, self.positions))
        return replace(self, ids=ids, labels=labels, positions=positions)


class Batches:
    """All samples in batches of at most `room` tokens, padding included; a batch is made when it is asked for."""

    def __init__(self, samples: Samples, *, max_len: int, room: int, is_packed: bool, seed: int = 0) -> None:
        self._samples = samples
        self._seed = seed
        order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed)).tolist()
        known = samples.lengths
        lengths = [known[number] for number in order]
        rows = pack(lengths, max_len) if is_packed else [[number] for number in range(len(order))]
        self._rows = [[order[number] for number in row] for row in rows]
        self._plan = group([sum(lengths[number] for number in row) for row in rows], room)
        self._orders: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[TokenBatch]:
        return map(self.batch, range(len(self)))

    def at(self, number: int) -> TokenBatch:
        """The batch that is the `number`th of a run, from 0: each epoch has an order of its own."""
        epoch, place = divmod(number, len(self))
        if epoch not in self._orders:
            generator = torch.Generator().manual_seed((self._seed + 1 + epoch) % 2**63)
            self._orders = {epoch: torch.randperm(len(self), generator=generator).tolist()}
        return self.batch(self._orders[epoch][place])

    def batch(self, number: int) -> TokenBatch:
        rows = [self._rows[row] for row in self._plan[number]]
        width = max(sum(self._length(sample) for sample in row) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        labels = torch.full_like(ids, IGNORED)
        positions = torch.empty_like(ids)
        for place, row in enumerate(rows):
            self._fill(row, ids[place], labels[place], positions[place])
        samples = [sample for row in rows for sample in row]
        return TokenBatch(
            ids,
            labels,
            positions if len(samples) > len(rows) else None,
            sum(self._length(sample) for sample in samples),
            int((labels != IGNORED).sum()),
            tuple(self._samples.place(sample) for sample in samples),
        )

    def _length(self, sample: int) -> int:
        start, stop = self._samples.bounds(sample)
        return stop - start

    def _fill(self, row: Sequence[int], ids: Tensor, labels: Tensor, positions: Tensor) -> None:
        """What is left of the row belongs to its last sample, behind everything that is learnt of it."""
        place = 0
        for sample in row:
            start, stop = self._samples.bounds(sample)
            own = torch.tensor(self._samples.ids[start:stop], dtype=torch.int64)
            learnt = torch.tensor(self._samples.supervised[start:stop], dtype=torch.bool)
            after = place + len(own)
            ids[place:after] = own
            labels[place:after] = own.masked_fill(~learnt, IGNORED)
            positions[place:] = torch.arange(len(positions) - place)
            place = after
