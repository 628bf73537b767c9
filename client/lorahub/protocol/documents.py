"""The one JSON document that a command prints, whatever came of it: the client's commands and a registry's own."""

from typing import Any

from lorahub.errors import LorahubError


def document_of(command: str, result: Any, *, exit_code: int = 0) -> dict[str, Any]:
    """What `command` (its words, with dots between) found or did; `ok` is that its exit status is 0.

    >>> document_of("org.ls", [])
    {'schema': 'lorahub.org.ls/v1', 'ok': True, 'exit_code': 0, 'result': [], 'error': None}
    """
    return _document(command, exit_code=exit_code, result=result, error=None)


def document_of_failure(command: str, error: LorahubError) -> dict[str, Any]:
    described = {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "request_id": error.request_id,
        "retryable": error.retryable,
        "facts": {key: value for key, value in error.facts.items() if key != "http_status"},
    }
    return _document(command, exit_code=error.exit_code, result=None, error=described)


def _document(command: str, *, exit_code: int, result: Any, error: Any) -> dict[str, Any]:
    schema = f"lorahub.{command}/v1"
    return {"schema": schema, "ok": exit_code == 0, "exit_code": exit_code, "result": result, "error": error}
