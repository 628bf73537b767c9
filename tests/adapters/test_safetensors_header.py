"""Every attack is refused under its rule, and what we accept the reference reader reads alike."""

import json
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from builders import lora_weights, safetensors_bytes
from corpus.safetensors_attacks import attacks
from hypothesis import given, settings
from hypothesis import strategies as st
from lorahub.adapters.safetensors_header import DTYPE_BITS, RULES, SafetensorsHeader, read_header
from lorahub.adapters.strict_json import JSON_RULES
from lorahub.errors import InvalidSafetensors
from safetensors import SafetensorError, deserialize

ATTACKS = attacks()


def read(content: bytes) -> SafetensorsHeader:
    return read_header(lambda start, stop: content[start:stop], size=len(content))


def test_there_are_two_hundred_attacks_with_names_of_their_own() -> None:
    assert len(ATTACKS) >= 200
    assert len({name for name, _, _ in ATTACKS}) == len(ATTACKS)


@pytest.mark.parametrize(("content", "rule"), [a[1:] for a in ATTACKS], ids=[a[0] for a in ATTACKS])
def test_every_attack_is_refused_under_its_rule(content: bytes, rule: str) -> None:
    with pytest.raises(InvalidSafetensors) as refused:
        read(content)
    assert refused.value.facts["rule"] in RULES
    assert rule in ("", refused.value.facts["rule"])
    assert refused.value.hint


def test_every_rule_is_provoked_by_an_attack_and_documented() -> None:
    provoked = set()
    for _, content, _ in ATTACKS:
        with pytest.raises(InvalidSafetensors) as refused:
            read(content)
        provoked.add(refused.value.facts["rule"])
    page = (Path(__file__).parents[2] / "docs/format.md").read_text()
    elsewhere = {"file-truncated", "json-too-large"}  # a source that gives less than it has; a caller's own bound
    for rule in RULES:
        assert f"`{rule}`" in page
        assert rule in provoked | elsewhere, f"no attack provokes {rule}"
    assert set(JSON_RULES) <= set(RULES)


def test_a_source_that_gives_less_than_it_has_is_refused() -> None:
    content = lora_weights()
    with pytest.raises(InvalidSafetensors) as refused:
        read_header(lambda start, stop: content[start : min(stop, 20)], size=len(content))
    assert refused.value.facts["rule"] == "file-truncated"


def test_a_header_is_read_without_its_data() -> None:
    content = lora_weights(layers=8, width=512)
    asked: list[tuple[int, int]] = []

    def read_range(start: int, stop: int) -> bytes:
        asked.append((start, stop))
        return content[start:stop]

    header = read_header(read_range, size=len(content))
    assert len(header.tensors) == 16
    assert max(stop for _, stop in asked) == header.data_start


def test_a_claimed_length_is_compared_before_anything_is_read() -> None:
    asked: list[tuple[int, int]] = []

    def read_range(start: int, stop: int) -> bytes:
        asked.append((start, stop))
        return struct.pack("<Q", 1 << 62)

    with pytest.raises(InvalidSafetensors):
        read_header(read_range, size=1 << 40)
    assert asked == [(0, 8)]


def reference(content: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """As the reference reader sees it. Raises `SafetensorError`."""
    return {name: (e["dtype"], tuple(e["shape"]), bytes(e["data"])) for name, e in deserialize(content)}


def assert_read_alike(content: bytes) -> bool:
    """Whether we accept it; then the reference reader must, with the same tensors."""
    try:
        header = read(content)
    except InvalidSafetensors:
        return False
    theirs = reference(content)
    ours = {
        tensor.name: (tensor.shape, content[header.data_start + tensor.start : header.data_start + tensor.stop])
        for tensor in header.tensors
    }
    assert ours == {name: (shape, data) for name, (_, shape, data) in theirs.items()}
    return True


@given(
    st.dictionaries(
        st.text("abc._0", min_size=1, max_size=8).filter(lambda n: ".." not in n),
        st.lists(st.integers(1, 4), max_size=3),
        min_size=1,
        max_size=6,
    ),
    st.dictionaries(st.text("xyz", min_size=1, max_size=4), st.text(max_size=8).filter(lambda t: "\0" not in t)),
)
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read_alike_by_both(shapes: dict[str, list[int]], metadata: dict[str, str]) -> None:
    metadata = {k: v for k, v in metadata.items() if not any("\ud800" <= c <= "\udfff" for c in v)}
    content = safetensors_bytes({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, metadata)
    assert assert_read_alike(content)


def test_mutated_files_are_refused_or_read_alike() -> None:
    """20,000 mutations of a real file; nothing but our own refusal comes out, and what we accept is read alike."""
    chance = random.Random(7)
    seed = lora_weights(rank=2, width=4, layers=1)
    header_end = 8 + struct.unpack("<Q", seed[:8])[0]
    accepted = 0
    for _ in range(20_000):
        mutant = bytearray(seed)
        for _ in range(chance.randint(1, 3)):
            position = chance.randrange(header_end)
            match chance.randrange(3):
                case 0:
                    mutant[position] = chance.randrange(256)
                case 1:
                    del mutant[position]
                case _:
                    mutant.insert(position, chance.choice(b'{}[]",:0123456789eE.-+ \\u'))
        accepted += assert_read_alike(bytes(mutant))
    assert accepted > 100, "hardly any mutation was harmless: the test proves little"


def test_what_only_the_reference_accepts_has_a_named_rule() -> None:
    stricter = set()
    for _, content, _ in ATTACKS:
        try:
            reference(content)
        except (SafetensorError, ValueError, OverflowError):
            continue
        with pytest.raises(InvalidSafetensors) as refused:
            read(content)
        stricter.add(refused.value.facts["rule"])
    assert {"json-duplicate-key", "name-empty", "name-forbidden-character", "tensor-empty", "tensor-fields"} <= stricter


@pytest.mark.parametrize("dtype", [dtype for dtype, bits in DTYPE_BITS.items() if bits % 8 == 0])
def test_every_dtype_of_the_format_is_read(dtype: str) -> None:
    size = 6 * DTYPE_BITS[dtype] // 8
    header = json.dumps({"w": {"dtype": dtype, "shape": [2, 3], "data_offsets": [0, size]}}).encode()
    content = struct.pack("<Q", len(header)) + header + bytes(size)
    assert read(content).tensors[0].elements == 6
    assert assert_read_alike(content)
