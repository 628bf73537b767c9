"""A badge: two words side by side, an image of its own for pages of others, so its colours are in it."""

from xml.etree.ElementTree import Element, SubElement, tostring

from lorahub_registry.pictures.picture import clean

_COLOURS = {"good": "#1a7f37", "bad": "#cf222e", "unknown": "#6e7781"}
_HEIGHT = 20
_LETTER = 6.6
_PADDING = 6.0
_MOST_LETTERS = 60


def badge(what: str, said: str, kind: str) -> bytes:
    """`kind` is good, bad or unknown."""
    words = [clean(text)[:_MOST_LETTERS] for text in (what, said)]
    left, right = (round(_LETTER * len(text) + 2 * _PADDING) for text in words)
    root = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img"})
    root.set("width", str(left + right))
    root.set("height", str(_HEIGHT))
    SubElement(root, "title").text = f"{words[0]}: {words[1]}"
    for start, width, colour in ((0, left, "#24292f"), (left, right, _COLOURS[kind])):
        place = {"x": str(start), "width": str(width), "height": str(_HEIGHT), "fill": colour}
        SubElement(root, "rect", place)
    for middle, text in ((left / 2, words[0]), (left + right / 2, words[1])):
        place = {"x": f"{middle:g}", "y": "14", "fill": "#ffffff", "text-anchor": "middle", "font-size": "11"}
        SubElement(root, "text", {**place, "font-family": "Verdana,DejaVu Sans,sans-serif"}).text = text
    return tostring(root)
