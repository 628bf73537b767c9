"""What an answer says that is older than it should be."""


def age_headers(seconds: int | None) -> dict[str, str]:
    """`Age` for programs (RFC 9111), and what clients of the Hub show to people. None: it is of now."""
    if seconds is None:
        return {}
    said = f"upstream; the upstream can't be asked: this is what it said {seconds} seconds ago"
    return {"Age": str(seconds), "X-HF-Warning": said}
