"""Conditional requests (RFC 9110 section 13) for content that has an entity tag and no date.

A name may lead back to older content, so no date tells whether a client's copy is still the one. None is sent, and as
the RFC has it, `If-Modified-Since` and `If-Unmodified-Since` are ignored, and no date in `If-Range` holds.
"""

import re

from lorahub.errors import PreconditionFailed
from starlette.datastructures import Headers

_ELEMENT = re.compile(r'(?:[^,"]|"[^"]*"|")+')  # a comma may stand in a tag
_TAG = re.compile(r'\s*(?P<weak>W/)?(?P<quote>"?)(?P<opaque>[^"\s]*)(?P=quote)\s*')
"""Also without its quotes: so the Hub's clients show it, and people send what they see."""
_NOT_FOR_A_STORAGE = ("if-match", "if-modified-since", "if-unmodified-since", "if-range")


def is_unchanged(headers: Headers, etag: str) -> bool:
    """Whether the client has the content with this tag already, so that a 304 says it all.

    Raises `PreconditionFailed` where the client wants other content or none.
    """
    if "if-match" in headers and not _names(headers, "if-match", etag, is_strict=True):
        raise PreconditionFailed(
            f"the ETag of what is here is {etag}, and If-Match names another",
            hint="it has changed since: get it from its beginning",
            etag=etag,
        )
    return _names(headers, "if-none-match", etag, is_strict=False)


def may_continue(headers: Headers, etag: str) -> bool:
    """Whether a range is of the very content that the client has the rest of: `If-Range`."""
    part_of = headers.get("if-range")
    return part_of is None or _is_same(part_of, etag, is_strict=True)


def is_ours_to_judge(headers: Headers) -> bool:
    """Whether a storage that has tags and dates of its own, or doesn't know `If-Range`, might answer otherwise.

    `If-None-Match` isn't among them: what has the storage's own tag is the same content.
    """
    return any(name in headers for name in _NOT_FOR_A_STORAGE)


def _names(headers: Headers, name: str, etag: str, *, is_strict: bool) -> bool:
    """Whether a list, which may come in several lines, has this tag or stands for any."""
    listed = (one for line in headers.getlist(name) for one in _ELEMENT.findall(line))
    return any(one.strip() == "*" or _is_same(one, etag, is_strict=is_strict) for one in listed)


def _is_same(sent: str, etag: str, *, is_strict: bool) -> bool:
    """By the strong comparison, or by the weak one (section 8.8.3.2)."""
    one, other = _TAG.fullmatch(sent), _TAG.fullmatch(etag)
    if one is None or other is None or one["opaque"] != other["opaque"]:
        return False
    return not (is_strict and (one["weak"] or other["weak"]))
