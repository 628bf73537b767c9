"""Samples into rows without padding, rows into batches. Best fit, longest first: about a thousandth is left over."""

from collections.abc import Sequence


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Numbers of samples, row by row; the lengths of a row sum to at most `room`.

    >>> pack([3, 5, 2, 4], 7)
    [[1, 2], [3, 0]]
    """
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(room + 1)]
    rooms = 0  # bit n: some row has room for exactly n more
    for sample in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        length = lengths[sample]
        fitting = rooms >> length
        if fitting:
            free = length + (fitting & -fitting).bit_length() - 1
            row = by_room[free].pop()
            if not by_room[free]:
                rooms &= ~(1 << free)
        else:
            free, row = room, len(rows)
            rows.append([])
        rows[row].append(sample)
        by_room[free - length].append(row)
        rooms |= 1 << (free - length)
    return rows


def group(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Numbers of rows, batch by batch: rows of like length, so that (rows · the longest) is at most `room`.

    A row that is longer than `room` is a batch of its own.
    """
    batches: list[list[int]] = []
    longest = 0
    for row in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if not batches or (len(batches[-1]) + 1) * longest > room:
            batches.append([])
            longest = lengths[row]
        batches[-1].append(row)
    return batches
