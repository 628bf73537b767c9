"""Readers of merged revisions who want little and would cost much: a byte here and there, or everything, slowly."""

import hashlib
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import pytest
import wire
from builders import safetensors_bytes
from pace import pace
from registry_process import Client, Registry

WIDTH, RANK = 2048, 256
FACTORS = 2 * WIDTH * RANK * 8
"""Bytes of an adapter's, as float64."""
CACHE = 2 * FACTORS
RECIPES = 12
READERS = 60
MEGABYTE = 1 << 20
WEIGHT = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """With a base of one wide tensor, an adapter of a large rank, and recipes of it."""
    settings = {"LORAHUB_MERGED_CACHE_BYTES": str(CACHE)}
    running = Registry(tmp_path_factory.mktemp("costly"), settings).start()
    with running.client() as client:
        _publish(client, "owner/base", _base())
        _publish(client, "owner/wide", _adapter())
        for number in range(RECIPES):
            for method, options in (("sum", {}), ("ties", {"density": 0.5})):
                adapters = [{"source": "owner/wide", "weight": 1 + number / 64}]
                recipe = {"base": "owner/base", "adapters": adapters, "method": method, **options}
                _publish(client, f"owner/{method}{number}", {"lorahub-merge.yaml": json.dumps(recipe).encode()})
    yield running
    running.stop()
    running.assert_sound()


def _publish(client: Client, repo: str, files: dict[str, bytes]) -> None:
    wire.create_repo(client, repo)
    large = [content for path, content in files.items() if path.endswith(".safetensors")]
    for content in large:
        wire.upload(client, repo, content)
    lines = [wire.uploaded(path, one) if one in large else wire.inline(path, one) for path, one in files.items()]
    wire.require(wire.commit(client, repo, lines))


def _numbers(*shape: int) -> np.ndarray:
    return (0.02 * np.random.default_rng(len(shape)).standard_normal(shape)).astype(np.float32)


def _base() -> dict[str, bytes]:
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH}
    weights = safetensors_bytes({f"{WEIGHT}.weight": _numbers(WIDTH, WIDTH)}, {"format": "pt"})
    return {"config.json": json.dumps(config).encode(), "model.safetensors": weights}


def _adapter() -> dict[str, bytes]:
    name = f"base_model.model.{WEIGHT}"
    tensors = {f"{name}.lora_A.weight": _numbers(RANK, WIDTH), f"{name}.lora_B.weight": _numbers(WIDTH, RANK)}
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "owner/base",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": ["q_proj"],
    }
    return {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": safetensors_bytes(tensors),
    }


def _last_byte(registry: Registry, repo: str) -> int:
    """The answer's status; of a tensor's last block."""
    with registry.client() as client:
        address = f"/{repo}/resolve/merged/model.safetensors"
        return client.get(address, headers={"Range": "bytes=-1"}).status_code


def _cpu(registry: Registry) -> float:
    assert registry.process is not None
    times = psutil.Process(registry.process.pid).cpu_times()
    return float(times.user + times.system)


def test_a_byte_of_a_whole_tensor_costs_what_a_refusal_does(registry: Registry) -> None:
    _last_byte(registry, "owner/ties0")
    memory, cpu = registry.rss_bytes(), _cpu(registry)
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda n: _last_byte(registry, f"owner/ties{n % RECIPES}"), range(64)))
    assert set(answers) == {503}
    assert (_cpu(registry) - cpu) / len(answers) / pace() < 0.1
    assert registry.rss_bytes() - memory < 64 * MEGABYTE


def test_kept_factors_are_counted(registry: Registry) -> None:
    """A byte of each of twelve revisions; three times the cache, if their factors were kept outside of it."""
    memory = registry.rss_bytes()
    for number in range(RECIPES):
        assert _last_byte(registry, f"owner/sum{number}") == 206
    assert registry.rss_bytes() - memory <= CACHE + 64 * MEGABYTE
    assert RECIPES * FACTORS > CACHE + 64 * MEGABYTE // 2, "nothing was proven"


def test_a_byte_of_each_at_once_stays_within_the_budget(registry: Registry) -> None:
    memory = registry.rss_bytes()
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda n: _last_byte(registry, f"owner/sum{n % RECIPES}"), range(4 * RECIPES)))
    assert set(answers) == {206}
    assert registry.rss_bytes() - memory <= CACHE + 4 * 64 * MEGABYTE


def test_readers_that_read_slowly_hold_nobody_up(registry: Registry) -> None:
    memory = registry.rss_bytes()
    readers = [_open(registry, f"/owner/sum{number % 2}/resolve/merged/model.safetensors") for number in range(READERS)]
    try:
        heads = [reader.recv(1000) for reader in readers]
        assert all(head.startswith(b"HTTP/1.1 200") for head in heads)
        with registry.client() as client:
            for _ in range(20):
                assert client.get("/livez").status_code == 200
                assert client.get("/api/models?limit=1").status_code == 200
        assert registry.rss_bytes() - memory <= CACHE + READERS * 4 * MEGABYTE
        bodies = [_rest(reader, head) for reader, head in list(zip(readers, heads, strict=True))[:6]]
    finally:
        for reader in readers:
            reader.close()
    with registry.client() as client:
        wholes = [client.get(f"/owner/sum{number}/resolve/merged/model.safetensors").content for number in range(2)]
    assert [_sha256(body) for body in bodies] == 3 * [_sha256(whole) for whole in wholes]
    assert wholes[0] != wholes[1]


def _open(registry: Registry, path: str) -> socket.socket:
    """A connection that has asked, with as little room for the answer as the system gives."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(120)
    connection.connect(("127.0.0.1", registry.port))
    asked = (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {registry.token}\r\nConnection: close\r\n\r\n"
    )
    connection.sendall(asked.encode())
    return connection


def _rest(connection: socket.socket, begun: bytes) -> bytes:
    """The body."""
    pieces: list[Any] = [begun]
    while piece := connection.recv(1 << 20):
        pieces.append(piece)
    return b"".join(pieces).partition(b"\r\n\r\n")[2]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
