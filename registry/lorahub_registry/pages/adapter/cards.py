"""Model cards: CommonMark and tables become HTML that runs nothing and loads nothing from elsewhere.

Markdown's own HTML is text here; what the renderer makes is cleaned again by a second library that knows nothing of it.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from posixpath import normpath
from urllib.parse import quote, unquote, urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

MOST_LETTERS = 64 << 10
"""Of a card that is rendered; a longer one is shown as it was written."""
_PIXELS = (".png", ".jpg", ".jpeg", ".gif", ".webp")
_SCHEMES = {"http", "https", "mailto"}
_TAGS = set("p h2 h3 h4 h5 h6 ul ol li blockquote pre code em strong s hr br a img table thead tbody tr th td".split())
_ATTRIBUTES = {"a": {"href", "title"}, "img": {"src", "alt", "title"}, "ol": {"start"}}


@lru_cache(maxsize=256)
def render(text: str, home: str, revision: str) -> Markup | None:
    """The card of a repository whose pages are below `home`, kept for the next visitor.

    None where it is too long, or can't be read as Markdown.
    """
    if len(text) > MOST_LETTERS:
        return None
    markdown = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    markdown.validateLink = _is_allowed  # type: ignore[assignment, method-assign]  # its documented way
    try:
        tokens = markdown.parse(text)
        for token in _all(tokens):
            _adapt(token, home, revision)
        made = markdown.renderer.render(tokens, markdown.options, {})
    except (RecursionError, ValueError):
        return None
    return Markup(  # noqa: S704 (cleaned)
        nh3.clean(made, tags=_TAGS, attributes=_ATTRIBUTES, url_schemes=_SCHEMES, link_rel="nofollow noopener")
    )


def _is_allowed(address: str) -> bool:
    try:
        parts = urlsplit(address.strip())
    except ValueError:
        return False
    if not parts.scheme:
        return not parts.netloc and "\\" not in address and address.isprintable()
    return parts.scheme.lower() in _SCHEMES


def _all(tokens: Sequence[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from _all(token.children or ())


def _adapt(token: Token, home: str, revision: str) -> None:
    """Headings stand below the page's own; relative links are pages and files of the repository."""
    if token.type in ("heading_open", "heading_close"):
        token.tag = f"h{min(6, int(token.tag[1]) + 1)}"
    elif token.type == "link_open":
        token.attrSet("href", _within(str(token.attrGet("href") or ""), f"{home}/blob/{revision}"))
    elif token.type == "image":
        source = str(token.attrGet("src") or "")
        if urlsplit(source).scheme:
            _name_only(token, source)
        elif source.lower().endswith(_PIXELS):
            token.attrSet("src", _within(source, f"{home}/resolve/{revision}"))
        else:
            _link_instead(token, source, _within(source, f"{home}/blob/{revision}"))


def _name_only(token: Token, source: str) -> None:
    """An image of another place would tell that place who reads the card."""
    token.type, token.tag, token.nesting = "text", "", 0
    token.content = f"[image: {token.content or source}]"
    token.children = None


def _link_instead(token: Token, source: str, page: str) -> None:
    """An SVG can hold scripts; it is never served as what it is."""
    token.type, token.tag, token.nesting, token.children = "html_inline", "", 0, None
    token.content = Markup('<a href="{}">{}</a>').format(page, token.content or source)


def _within(address: str, place: str) -> str:
    if not address or address.startswith("#") or urlsplit(address).scheme:
        return address
    path, sharp, fragment = address.partition("#")
    inside = normpath("/" + unquote(path).lstrip("/"))
    return place + quote(inside) + sharp + fragment
