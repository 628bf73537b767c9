"""Every bound on untrusted input, each with its unit and reason. docs/format.md repeats them; a test compares."""

from dataclasses import dataclass, field
from typing import Any


def _bound(value: int, *, unit: str, reason: str) -> Any:
    return field(default=value, metadata={"unit": unit, "reason": reason})


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds. None of them is a setting: two registries accept the same files."""

    header_bytes: int = _bound(
        8 << 20,
        unit="bytes",
        reason="65,536 tensors with long names fit; reading a full one takes 0.2 GB, the format's 100 MB takes 2 GB",
    )
    tensors: int = _bound(
        65_536, unit="tensors a file", reason="the largest mixtures of experts have about 60,000 a model"
    )
    dimensions: int = _bound(8, unit="dimensions a tensor", reason="weights have at most 5; numpy stops at 64")
    dimension: int = _bound(1 << 31, unit="elements a dimension", reason="the largest vocabularies have 2^18 rows")
    metadata_keys: int = _bound(4_096, unit="keys", reason="the most talkative trainer writes about 100")
    name_bytes: int = _bound(
        512, unit="bytes of UTF-8", reason="the longest names in use have about 150; an index row holds it"
    )
    config_bytes: int = _bound(1 << 20, unit="bytes", reason="a list of every module of a large model has about 100 KB")
    rank: int = _bound(65_536, unit="rank", reason="larger than the smaller side of every weight in use")
    lora_alpha: int = _bound(
        1_000_000, unit="absolute value", reason="alpha divided by the rank scales the update; 1e308 overflows it"
    )
    index_bytes: int = _bound(
        16 << 20, unit="bytes", reason="model.safetensors.index.json names every tensor of a model, 100 bytes each"
    )
    base_tensors: int = _bound(
        262_144, unit="tensors a base model", reason="several files of a mixture of experts together"
    )
    card_bytes: int = _bound(
        64 << 10, unit="bytes", reason="the beginning of README.md in which the metadata block is looked for"
    )
    front_matter_bytes: int = _bound(
        32 << 10, unit="bytes", reason="YAML is slow to parse: 1 MB of keys takes 9 s in pure Python"
    )
    yaml_depth: int = _bound(32, unit="levels", reason="model-index, the deepest known block, has 8")
    json_depth: int = _bound(
        64, unit="levels", reason="less than every JSON parser's recursion limit, serde's 128 included"
    )
    integer_bits: int = _bound(64, unit="bits, signed", reason="what SQL, numpy and other languages' parsers hold")
    number_characters: int = _bound(
        64, unit="characters", reason="no double needs more than 25; Python's int is quadratic in them"
    )


LIMITS = Limits()
