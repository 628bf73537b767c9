"""Inference servers, as they say what they serve: held against what a registry knows of it.

vLLM and SGLang list adapters among their models (`GET /v1/models`, with the base as `parent`), llama-server apart
(`GET /lora-adapters`, by the path of each file).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lorahub.errors import InvalidReference, NotFound, RegistryFailed
from lorahub.hub.hub import Hub
from lorahub.hub.transport import Transport
from lorahub.protocol.references import Reference


@dataclass(frozen=True, slots=True)
class EngineState:
    """`adapters` are names as requests call them. `max_length`: of a prompt and its answer, in tokens."""

    base: str
    adapters: tuple[str, ...]
    max_length: int | None


@dataclass(frozen=True, slots=True)
class EngineFinding:
    name: str
    is_good: bool
    said: str


def read_engine(url: str, *, timeout: float = 60) -> EngineState:
    """Raises `RegistryUnreachable`, and `RegistryFailed` for what is no such server."""
    with Transport(url.rstrip("/").removesuffix("/v1"), None, timeout=timeout) as asked:
        listed: Any = asked.json("GET", "/v1/models")
        models = listed.get("data") if isinstance(listed, Mapping) else None
        if not isinstance(models, list) or not all(isinstance(one, Mapping) for one in models):
            raise RegistryFailed(f"{url} lists no models at /v1/models", hint="is it vLLM, SGLang or llama-server?")
        bases = [one for one in models if not one.get("parent")]
        if not bases:
            raise RegistryFailed(f"{url} says of no model that it is a base")
        adapters = [str(one.get("id")) for one in models if one.get("parent")]
        adapters += _of_llama_server(asked)
    length = bases[0].get("max_model_len")
    return EngineState(str(bases[0].get("id")), tuple(adapters), length if isinstance(length, int) else None)


def _of_llama_server(asked: Transport) -> list[str]:
    try:
        found: Any = asked.json("GET", "/lora-adapters")
    except NotFound:
        return []
    return [str(one.get("path")) for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def judge_engine(hub: Hub, engine: EngineState, base: str | None) -> Iterator[EngineFinding]:
    """Its base first, then each adapter, against the base as the registry knows it."""
    called = base or engine.base
    known = hub.bases.find(called)
    if known is None:
        said = f"no base is called {called} in the registry; say what it is called: --engine-base"
        yield EngineFinding("its base", False, said)
        return
    yield EngineFinding(
        "its base", True, f"{called}: {known.parameters:,} parameters, layout {known.layout_digest[:12]}"
    )
    for name in engine.adapters:
        yield _adapter(hub, name, called)


def _adapter(hub: Hub, name: str, base: str) -> EngineFinding:
    try:
        reference = Reference.parse(name)
    except InvalidReference:
        return EngineFinding(name, True, "no name of a repository: nothing is known of it")
    try:
        [checked] = hub.check_all([str(reference)], [base]).checks
    except NotFound as error:
        return EngineFinding(name, False, error.message)
    is_good = checked.verdict in ("compatible", "fits")
    worst = next((found for found in checked.findings if found.severity == "error"), None)
    why = f": {worst.rule} {worst.message}" if worst is not None else ""
    return EngineFinding(name, is_good, f"{checked.verdict} with {base}{why}, at {checked.commit[:12]}")
