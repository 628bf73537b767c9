"""Lines and bars: a spectrum, a training run, counts by day or by target."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from xml.etree.ElementTree import Element

from lorahub_registry.pictures.picture import Picture, canvas, drawn, figure, label, mark, shorten

_WIDTH, _HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 30


def spectrum(module: str, values: Sequence[float], effective_rank: float | None) -> Picture:
    """The singular values of one update, largest first."""
    top = values[0] if values else 0.0
    title = f"Singular values of {module}"
    finding = f"{len(values)} singular values, the largest {figure(top)}"
    finding += f"; the update uses about {figure(effective_rank)} directions." if effective_rank is not None else "."
    root = _axes(title, finding, 0.0, top)
    wide = _inner() / max(1, len(values))
    for index, value in enumerate(values):
        _bar(root, index, wide, value, top, f"σ{index + 1}: {figure(value)}")
    label(root, "1", _LEFT + wide / 2, _HEIGHT - 10, anchor="middle")
    if len(values) > 1:
        label(root, str(len(values)), _LEFT + wide * (len(values) - 0.5), _HEIGHT - 10, anchor="middle")
    if effective_rank is not None and values:
        x = _LEFT + wide * min(effective_rank, len(values))
        mark(
            root, "line", "limit", value=effective_rank, tip="effective rank", x1=x, x2=x, y1=_TOP, y2=_HEIGHT - _BOTTOM
        )
    rows = [[f"σ{index + 1}", figure(value)] for index, value in enumerate(values)]
    return Picture(title, finding, drawn(root), ["", "value"], rows)


def bars(title: str, counts: Mapping[str, float], *, what: str) -> Picture:
    """One bar for each name, in the order given."""
    top = max(counts.values(), default=0.0)
    most = max(counts, key=lambda name: counts[name]) if counts else "nothing"
    finding = f"{len(counts)} bars; the highest is {most} with {figure(top)} {what}."
    root = _axes(title, finding, 0.0, top)
    wide = _inner() / max(1, len(counts))
    every = max(1, -(-len(counts) * 70 // int(_inner())))
    for index, (name, count) in enumerate(counts.items()):
        _bar(root, index, wide, count, top, f"{name}: {figure(count)}")
        if index % every == 0:
            label(root, name[:12], _LEFT + wide * (index + 0.5), _HEIGHT - 10, anchor="middle")
    return Picture(title, finding, drawn(root), ["", what], [[name, figure(count)] for name, count in counts.items()])


def curve(points: Sequence[Mapping[str, float]], *, series: Sequence[str] = ("loss", "eval_loss")) -> Picture:
    """`points` hold `step` and some of the series."""
    lines = {name: [(point["step"], point[name]) for point in points if name in point] for name in series}
    lines = {name: line for name, line in lines.items() if line}
    title = "Training: " + " and ".join(name.replace("_", " ") for name in lines)
    finding = " ".join(_course(name.replace("_", " "), line) for name, line in lines.items()) or "No loss was logged."
    everything = [value for line in lines.values() for _, value in line]
    steps = [step for line in lines.values() for step, _ in line]
    low, high = min(everything, default=0.0), max(everything, default=1.0)
    first, last = min(steps, default=0.0), max(steps, default=1.0)
    root = _axes(title, finding, low, high)
    for number, (name, line) in enumerate(lines.items()):
        placed = [(_across(step, first, last), _up(value, low, high)) for step, value in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        mark(root, "polyline", f"line s{number}", points=path)
        for (step, value), (x, y) in zip(line, placed, strict=True):
            mark(
                root,
                "circle",
                f"dot s{number}",
                value=value,
                tip=f"{name} at step {step:g}: {figure(value)}",
                cx=x,
                cy=y,
                r=2,
            )
    label(root, f"step {first:g}", _LEFT, _HEIGHT - 10)
    label(root, f"{last:g}", _WIDTH - _RIGHT, _HEIGHT - 10, anchor="end")
    rows = [[f"{point['step']:g}", *(figure(point.get(name)) for name in lines)] for point in points]
    key = tuple((f"s{number}", name.replace("_", " ")) for number, name in enumerate(lines))
    return Picture(title, finding, drawn(root), ["Step", *lines], rows, key)


def _course(name: str, line: Sequence[tuple[float, float]]) -> str:
    (start, first), (end, last) = line[0], line[-1]
    step, best = min(line, key=lambda point: point[1])
    rises = sum(b > a for (_, a), (_, b) in pairwise(line))
    way = f"The {name} goes from {figure(first)} at step {start:g} to {figure(last)} at step {end:g}"
    return f"{way}; its lowest is {figure(best)} at step {step:g}, and it rises {rises} times."


# --- a frame with two axes --------------------------------------------------------------------------------------------


def _axes(title: str, finding: str, low: float, high: float) -> Element:
    root = canvas(shorten(title) if len(title) > 200 else title, finding, _WIDTH, _HEIGHT)
    mark(root, "line", "axis", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=_HEIGHT - _BOTTOM, y2=_HEIGHT - _BOTTOM)
    label(root, figure(high), _LEFT - 6, _TOP + 8, anchor="end")
    label(root, figure(low), _LEFT - 6, _HEIGHT - _BOTTOM, anchor="end")
    return root


def _inner() -> float:
    return float(_WIDTH - _LEFT - _RIGHT)


def _bar(root: Element, index: int, wide: float, value: float, top: float, tip: str) -> None:
    high = 0.0 if top == 0 else (_HEIGHT - _TOP - _BOTTOM) * max(0.0, value) / top
    gap = min(2.0, wide / 5)
    place = {"x": _LEFT + wide * index, "y": _HEIGHT - _BOTTOM - high, "width": min(wide - gap, 48.0), "height": high}
    mark(root, "rect", "bar", value=value, tip=tip, **place)


def _across(step: float, first: float, last: float) -> float:
    return _LEFT + (_inner() * (step - first) / (last - first) if last > first else _inner() / 2)


def _up(value: float, low: float, high: float) -> float:
    height = _HEIGHT - _TOP - _BOTTOM
    return _HEIGHT - _BOTTOM - (height * (value - low) / (high - low) if high > low else height / 2)
