"""What the process says of itself, on standard error: lines of text, or of JSON for machines.

No secret gets there. Nothing logs a header, a query or a signed address; other people's libraries are held at warnings,
whatever level is asked for, because they log all three. What still looks like a credential is blotted out of each
line, tracebacks too.
"""

import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from lorahub_registry.infrastructure.web.request_id import current_request_id

Format = Literal["text", "json"]

OWN = ("lorahub", "uvicorn")
"""Loggers that follow the chosen level."""

_SECRETS = (
    (re.compile(r"\blh_\w+"), "lh_…"),  # tokens
    (re.compile(r"\beyJ[\w-]+(\.[\w-]*)+"), "…"),  # signed values and JWTs
    (re.compile(r"/lfs/[^/\s'\"]+"), "/lfs/…"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s'\"]+"), r"\1 …"),
    (re.compile(r"(?i)\b(x-amz-[a-z-]+|signature|awsaccesskeyid|password|secret)=[^&\s'\"]+"), r"\1=…"),
    (re.compile(r"://[^/\s'\"@]+@"), "://…@"),
)


def blot(text: str) -> str:
    """`text` without what looks like a credential."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def configure(form: Format, level: str | None) -> None:
    """`level` None is warnings for people, who see a terminal, and one line for each request for machines."""
    chosen = (level or ("info" if form == "json" else "warning")).upper()
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if form == "json" else _Text())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in OWN:
        logging.getLogger(name).setLevel(chosen)


def facts_of(record: logging.LogRecord) -> Mapping[str, Any]:
    """What a line says beside its message: `logger.info(…, extra={"facts": {…}})`."""
    facts: Mapping[str, Any] = getattr(record, "facts", {})
    return facts


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        request_id = current_request_id.get()
        shown = {**facts_of(record), **({"request": request_id} if request_id else {})}
        facts = "".join(f" {name}={value}" for name, value in shown.items() if value is not None)
        return blot(super().format(record) + facts)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": blot(record.getMessage()),
            "request": current_request_id.get(),
            **{name: blot(value) if isinstance(value, str) else value for name, value in facts_of(record).items()},
        }
        if record.exc_info:
            line["exception"] = blot(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)
