"""What a form has done, said once on the page that its browser is led to: a cookie carries which sentence it is.

The sentences are ours; whoever writes the cookie can choose one and a name, no more.
"""

import re
from collections.abc import Mapping
from urllib.parse import quote, unquote

from fastapi import Response

COOKIE = "lorahub_done"
SECONDS = 30
SENTENCES: Mapping[str, str] = {
    "published": "Published as {}.",
    "card": "The card is saved.",
    "alias": "The alias {} leads there now.",
    "yanked": "{} is yanked: it is served only when it is named exactly.",
    "unyanked": "{} is served as before.",
    "saved": "Saved.",
    "moved": "It is called {} now; the old name leads here.",
    "deleted": "{} is deleted.",
    "asked": "Your request for access is with its owners.",
    "granted": "{} may read the files now.",
    "rejected": "The request of {} is rejected.",
    "revoked": "The token is revoked.",
    "member": "{} is a member.",
    "removed": "{} is no member any more.",
    "organisation": "The organisation {} is made.",
    "disabled": "{} is disabled.",
    "enabled": "{} may log in again.",
    "told": "A worker sends it; reload the page to see what comes back.",
    "queued": "The job is queued again.",
    "cancelled": "The merge is cancelled.",
    "quarantined": "{} is in quarantine.",
    "released": "{} is out of quarantine.",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@-]{0,200}")


def put(response: Response, done: str, name: str, *, path: str, is_secure: bool) -> None:
    assert done in SENTENCES
    value = quote(f"{done} {name}", safe="")
    response.set_cookie(COOKIE, value, SECONDS, path=path, secure=is_secure, httponly=True, samesite="lax")


def taken(cookies: Mapping[str, str]) -> str | None:
    """The sentence; None where there is none that could be."""
    done, _, name = unquote(cookies.get(COOKIE, "")).partition(" ")
    text = SENTENCES.get(done)
    if text is None or ("{}" in text and not _NAME.fullmatch(name)):
        return None
    return text.format(name)
