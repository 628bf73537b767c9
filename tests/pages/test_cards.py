"""Model cards are rendered, and whatever somebody wrote in one stays harmless."""

from html.parser import HTMLParser

import pytest
from lorahub_registry.pages.adapter.cards import MOST_LETTERS, render
from pages.payloads import PAYLOADS

SCHEMES = ["javascript", "JaVaScRiPt", "vbscript", "data", "file", "blob", "java\tscript", "&#106;avascript", "ftp"]
LINKS = [form.format(f"{scheme}:window.hurt=1") for scheme in SCHEMES for form in (
    "[x]({0})", "[x](<{0}>)", "![x]({0})", "<{0}>", "[x][r]\n\n[r]: {0}", "[x]({0} 'title')")]  # fmt: skip


class Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def elements(card: str) -> list[tuple[str, dict[str, str | None]]]:
    made = render(card, "/o/n", "v1")
    assert made is not None
    return Elements(made).found


@pytest.mark.parametrize(
    "wrap", ["{}", "# {}", "> {}", "- {}", "a {} b", "| a |\n|---|\n| {} |", "[{}](x)", "![{}](x)"]
)
def test_no_payload_becomes_an_element_that_runs(wrap: str) -> None:
    for text in [*PAYLOADS, *LINKS]:
        for tag, attributes in elements(wrap.format(text)):
            assert tag not in ("script", "iframe", "object", "svg", "math", "style", "form", "input", "base", "meta")
            assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcdoc")]
            for address in filter(None, (attributes.get("href"), attributes.get("src"))):
                assert address.startswith(("/o/n/", "http://", "https://", "mailto:", "#")), text
            assert tag != "img" or str(attributes["src"]).startswith("/o/n/resolve/v1/")


def test_a_card_is_commonmark_with_tables_below_the_pages_heading() -> None:
    found = render("# Title\n\nSome *text*, `code`.\n\n| a | b |\n|--|:-:|\n| 1 | 2 |\n", "/o/n", "v1")
    assert found is not None
    assert "<h2>Title</h2>" in found
    assert "<em>text</em>" in found
    assert "<td>2</td>" in found


def test_links_stay_in_the_repository_or_say_that_they_leave() -> None:
    found = elements(
        "[a](notes/x.md#y) [b](https://example.org/) ![c](../../pic.png) [d](#here) ![e](https://e.org/i.png)"
    )
    links = [attributes for tag, attributes in found if tag == "a"]
    assert [one["href"] for one in links] == ["/o/n/blob/v1/notes/x.md#y", "https://example.org/", "#here"]
    assert {one["rel"] for one in links} == {"nofollow noopener"}
    assert [attributes["src"] for tag, attributes in found if tag == "img"] == ["/o/n/resolve/v1/pic.png"]


def test_what_is_too_long_or_too_deep_is_not_rendered_or_flat() -> None:
    assert render("x" * (MOST_LETTERS + 1), "/o/n", "v1") is None
    render("> " * 5000 + "x", "/o/n", "v1")
    render("[" * 20000, "/o/n", "v1")
