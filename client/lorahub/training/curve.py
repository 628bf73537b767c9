"""The loss as a picture: an SVG beside the adapter, a line of blocks in the terminal. Needs no torch."""

import math
from collections.abc import Sequence
from itertools import pairwise

from lorahub.training.history import TrainingStep, curve

_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 20, 36
_BLOCKS = "▁▂▃▄▅▆▇█"

_OPENING = (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
    'font-family="system-ui, sans-serif" font-size="12" fill="#495057">'
)

Point = tuple[float, float]


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """At most `width` blocks, each the mean of its share.

    >>> sparkline([4.0, 3.0, 2.0, 1.0])
    '█▆▃▁'
    """
    count = min(width, len(values))
    bounds = [len(values) * place // count for place in range(count + 1)] if count else []
    means = [sum(values[start:stop]) / (stop - start) for start, stop in pairwise(bounds)]
    if not means:
        return ""
    low, span = min(means), max(means) - min(means)
    return "".join(_BLOCKS[round((mean - low) / span * (len(_BLOCKS) - 1)) if span else 0] for mean in means)


def svg(steps: Sequence[TrainingStep], title: str) -> str:
    """Training loss as a line, evaluations as points and a line, axes with round numbers."""
    points = curve(steps)
    trained = [(float(step), loss) for step, loss, _ in points if step is not None and loss is not None]
    evaluated = [(float(step), loss) for step, _, loss in points if step is not None and loss is not None]
    if not trained:
        return ""
    frame = _Frame([*trained, *evaluated])
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#d9480f"/>' for x, y in map(frame.place, evaluated))
    return "\n".join(
        [
            _OPENING,
            f"<title>{_escaped(title)}</title>",
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
            *frame.axes(),
            f'<polyline fill="none" stroke="#1c7ed6" stroke-width="1.5" points="{frame.line(trained)}"/>',
            f'<polyline fill="none" stroke="#d9480f" stroke-width="1.5" points="{frame.line(evaluated)}"/>{dots}',
            f'<text x="{_WIDTH - _RIGHT}" y="{_TOP - 6}" text-anchor="end"><tspan fill="#1c7ed6">training</tspan>'
            + ('<tspan fill="#d9480f" dx="10">evaluation</tspan>' if evaluated else "")
            + "</text>",
            f'<text x="{_LEFT}" y="{_TOP - 6}">loss, nats a token</text>',
            f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}" text-anchor="end">step</text>',
            "</svg>\n",
        ]
    )


class _Frame:
    """From steps and losses to places in the picture."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.last = max(step for step, _ in points) or 1.0
        self.step = _round_step(max(loss for _, loss in points) - min(loss for _, loss in points))
        self.low = math.floor(min(loss for _, loss in points) / self.step) * self.step
        self.high = max(math.ceil(max(loss for _, loss in points) / self.step) * self.step, self.low + self.step)

    def place(self, point: Point) -> Point:
        step, loss = point
        x = _LEFT + step / self.last * (_WIDTH - _LEFT - _RIGHT)
        y = _TOP + (self.high - loss) / (self.high - self.low) * (_HEIGHT - _TOP - _BOTTOM)
        return x, y

    def line(self, points: Sequence[Point]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self.place, points))

    def axes(self) -> list[str]:
        """A line and a number at each round loss, a number at five steps."""
        losses = [self.low + self.step * count for count in range(round((self.high - self.low) / self.step) + 1)]
        drawn = []
        for loss in losses:
            _, y = self.place((0.0, loss))
            drawn.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#e9ecef"/>')
            drawn.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{loss:g}</text>')
        for share in range(5):
            step = round(self.last * share / 4)
            x, _ = self.place((step, self.low))
            drawn.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{step}</text>')
        return drawn


def _round_step(span: float) -> float:
    """A step of 1, 2 or 5 times a power of ten, of which four to nine make the span."""
    rough = max(span, 1e-3) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return round(next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough), 12)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
