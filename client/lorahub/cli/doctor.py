"""`lorahub doctor`."""

import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import click

from lorahub.cli.output import Result
from lorahub.cli.session import Session, command
from lorahub.errors import AccessRefused, NotFound, Refusal, RegistryFailed, Unavailable
from lorahub.hub import configuration
from lorahub.hub.engines import judge_engine, read_engine
from lorahub.hub.hub import Hub
from lorahub.protocol.tokens import redact

MOST_SKEW_SECONDS = 60


@dataclass(frozen=True, slots=True)
class HealthCheck:
    name: str
    ok: bool
    text: str
    exit_code: int = 0


@command("doctor")
@click.option("--engine", metavar="URL", help="Also look at an inference server: its base, and its adapters.")
@click.option("--engine-base", metavar="BASE", help="What its base is called in the registry, if not as it says.")
def doctor(session: Session, *, engine: str | None, engine_base: str | None) -> Result:
    """Check configuration, registry, clock and token; print what a bug report needs, without secrets.

    Of an engine (vLLM, SGLang, llama-server) the adapters that it serves are held against what the registry says of
    them and of its base.
    """
    checks = [*_here(session), *_registry(session)]
    if engine is not None:
        checks += _engine(session, engine, engine_base)
    worst = next((check.exit_code for check in checks if not check.ok), 0)
    human = "\n".join(f"{'✓' if check.ok else '✗'} {check.name:12} {check.text}" for check in checks)
    return Result(
        data={"checks": [asdict(check) for check in checks]},
        human=human,
        ids=[check.name for check in checks if not check.ok],
        rows=[[check.name, "ok" if check.ok else "bad", check.text] for check in checks],
        exit_code=worst,
    )


def _engine(session: Session, url: str, base: str | None) -> Iterator[HealthCheck]:
    try:
        found = read_engine(url, timeout=session.settings.timeout)
    except (Refusal, RegistryFailed, Unavailable) as error:
        yield HealthCheck("engine", False, f"{error.message} ({error.hint})", exit_code=error.exit_code)
        return
    length = "" if found.max_length is None else f", {found.max_length} tokens at most"
    yield HealthCheck("engine", True, f"{url} serves {found.base}{length}, {len(found.adapters)} adapters")
    try:
        with session.hub() as hub:
            for judged in judge_engine(hub, found, base):
                yield HealthCheck(judged.name, judged.is_good, judged.said, exit_code=0 if judged.is_good else 1)
    except (Refusal, RegistryFailed, Unavailable) as error:
        yield HealthCheck("engine", False, f"{error.message} ({error.hint})", exit_code=error.exit_code)


def _here(session: Session) -> Iterator[HealthCheck]:
    from lorahub import __version__

    yield HealthCheck("lorahub", True, f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    settings = session.settings
    for name in ("endpoint", "hf_endpoint", "cache"):
        value = settings.values[name]
        yield HealthCheck(name, True, f"{value.text or settings.cache_folder} ({value.origin})")
    variables = [name for name in os.environ if name.startswith(("LORAHUB_", "HF_")) or name.endswith("_PROXY")]
    shown = [f"{name}={_shown(name)}" for name in sorted(variables)]
    yield HealthCheck("environment", True, ", ".join(shown) or "nothing of ours is set")
    yield _writable("home", str(configuration.home()))
    yield _writable("cache folder", str(settings.cache_folder))


def _shown(name: str) -> str:
    value = os.environ[name]
    return redact(value) if "TOKEN" in name or "SECRET" in name or "@" in value else value


def _writable(name: str, folder: str) -> HealthCheck:
    existing = folder
    while not os.path.exists(existing):  # noqa: PTH110 (walks up text)
        existing = os.path.dirname(existing) or "/"  # noqa: PTH120
    if os.access(existing, os.W_OK):
        return HealthCheck(name, True, folder)
    return HealthCheck(name, False, f"{folder} can't be written", exit_code=2)


def _registry(session: Session) -> Iterator[HealthCheck]:
    try:
        with session.hub() as hub:
            yield from _asked(hub)
    except (Refusal, RegistryFailed, Unavailable) as error:
        yield HealthCheck("registry", False, f"{error.message} ({error.hint})", exit_code=error.exit_code)


def _health(hub: Hub) -> HealthCheck:
    """One that is degraded takes and gives adapters: it is no failure of this command."""
    try:
        health = hub.health()
    except (NotFound, AccessRefused):
        return HealthCheck("health", True, "not told to everybody")
    said = "; ".join(f"{name}: {fault}" for name, fault in health.faults.items())
    text = f"{health.status}: {said}" if said else health.status
    return HealthCheck("health", health.status == "ok", text, exit_code=0 if health.is_up else Unavailable.exit_code)


def _clock(there: datetime) -> HealthCheck:
    skew = (datetime.now(UTC) - there).total_seconds()
    text = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the registry's"
    return HealthCheck("clock", abs(skew) < MOST_SKEW_SECONDS, text, exit_code=2)


def _asked(hub: Hub) -> Iterator[HealthCheck]:
    server = hub.server()
    yield HealthCheck("registry", True, f"{hub.endpoint}: lorahub {server.version}")
    yield _health(hub)
    yield _clock(server.time)
    if hub.credential is None:
        yield HealthCheck("token", True, "none: public repositories only; lorahub login")
        return
    identity = hub.whoami()
    yield HealthCheck("token", True, f"{redact(hub.credential.token)} of {identity.name}, from {hub.credential.origin}")
