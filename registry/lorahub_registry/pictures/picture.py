"""What every picture is made of. Elements are built, never pasted together: whatever a text holds, it stays text.

Colours are classes, so that a strict policy allows them and each theme has its own. Every mark carries the number that
it stands for as `data-value`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

Value = str | float | int | None
MOST_LETTERS = 44
"""The longest that a label may be."""


@dataclass(frozen=True, slots=True)
class Picture:
    """`svg` is inline markup; `head` and `rows` say the same numbers as a table. A row's first cell names it."""

    title: str
    finding: str
    svg: Markup
    head: Sequence[str]
    rows: Sequence[Sequence[Value]]
    key: Sequence[tuple[str, str]] = field(default=())
    """Classes of the scale with what they stand for, in order."""


def canvas(title: str, finding: str, width: float, height: float) -> Element:
    """An image for assistive technology: its title names it, its description is the finding."""
    root = Element("svg", {"class": "picture", "role": "img", "viewBox": f"0 0 {width:g} {height:g}"})
    root.set("width", f"{width:g}")
    root.set("height", f"{height:g}")
    SubElement(root, "title").text = clean(title)
    SubElement(root, "desc").text = clean(finding)
    return root


def mark(
    parent: Element, tag: str, kind: str, *, value: Value = None, tip: str = "", **attributes: float | str
) -> Element:
    """A shape of class `kind`. `tip` is shown under the pointer."""
    made = SubElement(parent, tag, {"class": kind})
    for name, number in attributes.items():
        made.set(name.replace("_", "-"), number if isinstance(number, str) else f"{number:.6g}")
    if value is not None:
        made.set("data-value", repr(value) if isinstance(value, float) else clean(str(value)))
    if tip:
        SubElement(made, "title").text = clean(tip)
    return made


def label(parent: Element, text: str, x: float, y: float, *, anchor: str = "start", kind: str = "label") -> Element:
    made = mark(parent, "text", kind, x=x, y=y, text_anchor=anchor)
    made.text = shorten(text)
    return made


def shorten(text: str) -> str:
    """The end of a long name tells more than its beginning."""
    text = clean(text)
    return text if len(text) <= MOST_LETTERS else "…" + text[-MOST_LETTERS + 1 :]


def clean(text: str) -> str:
    """Without what XML can't hold."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def drawn(root: Element) -> Markup:
    return Markup(tostring(root, encoding="unicode"))  # noqa: S704 (built by ElementTree, which escapes)


def figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
