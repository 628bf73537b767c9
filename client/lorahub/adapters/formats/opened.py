"""What a format is recognised by and read from: the file that holds the weights, and the configuration beside it."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from lorahub.adapters.adapter_config import AdapterConfig, parse_adapter_config
from lorahub.adapters.files import Files, header_of, read_whole
from lorahub.adapters.limits import LIMITS
from lorahub.adapters.safetensors_header import SafetensorsHeader, TensorEntry
from lorahub.errors import InvalidAdapterConfig, InvalidSafetensors

CONFIG = "adapter_config.json"
_MOST_ALPHAS = 16_384


@dataclass(frozen=True)
class Opened:
    """`path` is the weights' file. `header` is None of a GGUF file, which has one of its own; `config` where there is
    no adapter_config.json, or none that counts.
    """

    files: Files
    path: str
    header: SafetensorsHeader | None = None
    config: AdapterConfig | None = None

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        return () if self.header is None else self.header.tensors

    @property
    def metadata(self) -> Mapping[str, str]:
        return {} if self.header is None else self.header.metadata

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.entries)

    def alphas(self) -> dict[str, float]:
        """The value of each `<module>.alpha`, a few bytes each: the header alone doesn't have them."""
        found: dict[str, float] = {}
        start = 0 if self.header is None else self.header.data_start
        for entry in self.entries[: 4 * _MOST_ALPHAS]:
            if entry.name.endswith(".alpha") and entry.elements == 1 and len(found) < _MOST_ALPHAS:
                value = _number(entry.dtype, self.files.read(self.path, start + entry.start, start + entry.stop))
                if value is not None:
                    found[entry.name.removesuffix(".alpha")] = value
        return found


def open_weights(files: Files, path: str) -> Opened:
    """Raises `InvalidSafetensors` and `InvalidAdapterConfig`."""
    if path.endswith(".gguf"):
        return Opened(files, path)
    header = header_of(files, path, allow_empty=True)
    if not header.tensors:
        raise InvalidSafetensors("the file holds no tensor", hint="gather the weights before saving", rule="no-tensors")
    return Opened(files, path, header, _config(files))


def _config(files: Files) -> AdapterConfig | None:
    raw = read_whole(files, CONFIG, limit=LIMITS.config_bytes + 1)
    if raw is None:
        return None
    if len(raw) > LIMITS.config_bytes:
        raise InvalidAdapterConfig(f"{CONFIG} has more than {LIMITS.config_bytes} bytes")
    return parse_adapter_config(raw)


def _number(dtype: str, raw: bytes) -> float | None:
    if dtype == "BF16":
        return float(struct.unpack("<f", b"\0\0" + raw)[0])
    code = {"F32": "<f", "F16": "<e", "F64": "<d", "I64": "<q", "I32": "<i"}.get(dtype)
    return None if code is None else float(struct.unpack(code, raw)[0])
