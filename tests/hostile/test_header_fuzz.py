"""A million broken headers in process, ten thousand over HTTP: none passes that the reference refuses."""

from collections import Counter
from collections.abc import Iterator

import pytest
import safetensors
from corpus.header_fuzz import fuzzed
from lorahub.adapters.safetensors_header import RULES, SafetensorsHeader, read_header
from lorahub.errors import InvalidSafetensors
from registry_process import Registry
from wire import commit, create_repo, head, inline

STRICTER = frozenset(
    {
        "file-too-short",
        "header-not-json-object",
        "header-padding",
        "json-duplicate-key",
        "json-forbidden-character",
        "json-not-finite",
        "json-number-too-large",
        "metadata-not-text",
        "name-empty",
        "name-forbidden-character",
        "name-not-normal",
        "name-path-like",
        "no-tensors",
        "sub-byte-misaligned",
        "tensor-empty",
        "tensor-fields",
        "too-many-dimensions",
        "dimension-too-large",
        "name-too-long",
    }
)
"""Where the reference reader accepts and we refuse: docs/format.md says why for each."""

BATCHES, BATCH = 40, 25_000


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, BATCHES))])
def test_a_million_headers_in_process(seed: int) -> None:
    stricter: Counter[str] = Counter()
    accepted = 0
    for raw in fuzzed(seed, BATCH):
        ours, rule = _ours(raw)
        theirs = _theirs(raw)
        if ours is None:
            assert rule in RULES, (rule, raw.hex())
            if theirs is not None:
                stricter[rule] += 1
            continue
        accepted += 1
        assert theirs is not None, f"the reference refuses what we accept: {raw.hex()}"
        held = raw[ours.data_start :]
        mine = {e.name: (e.dtype, list(e.shape), held[e.start : e.stop]) for e in ours.tensors}
        assert mine == theirs, raw.hex()
    assert accepted > 50, "the fuzzer breaks everything: it proves too little"
    assert set(stricter) <= STRICTER, stricter


def _ours(raw: bytes) -> tuple[SafetensorsHeader | None, str]:
    try:
        return read_header(lambda start, stop: raw[start:stop], size=len(raw)), ""
    except InvalidSafetensors as error:
        return None, str(error.facts["rule"])


def _theirs(raw: bytes) -> dict[str, tuple[str, list[int], bytes]] | None:
    try:
        found = safetensors.deserialize(raw)
    except safetensors.SafetensorError:
        return None
    return {name: (one["dtype"], list(one["shape"]), bytes(one["data"])) for name, one in found}


# --- over HTTP --------------------------------------------------------------------------------------------------------

FILES, AT_ONCE = 10_000, 250


def _refused(seed: int) -> Iterator[bytes]:
    """Different files that our reader refuses; empty ones are refused for other reasons."""
    seen: set[bytes] = set()
    while True:
        for raw in fuzzed(seed, 5000):
            if raw and raw not in seen and _ours(raw)[0] is None:
                seen.add(raw)
                yield raw
        seed += 1


@pytest.mark.parametrize("part", range(4))
def test_ten_thousand_files_over_http(registry: Registry, user: tuple[str, str], part: int) -> None:
    name, token = user
    files = _refused(1000 + 100 * part)
    with registry.client(token, timeout=600) as client:
        repo = create_repo(client, f"{name}/fuzz{part}")
        before = head(client, repo)
        for number in range(FILES // 4 // AT_ONCE):
            wanted = {f"{number}-{place}.safetensors": next(files) for place in range(AT_ONCE)}
            response = commit(client, repo, [inline(path, raw) for path, raw in wanted.items()])
            assert 400 <= response.status_code < 500, response.text
            findings = response.json()["facts"]["findings"]
            assert {finding["path"] for finding in findings} == wanted.keys()
            assert all(finding["message"] for finding in findings)
        assert head(client, repo) == before
