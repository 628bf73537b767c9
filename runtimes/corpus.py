"""Makes the corpus: bases, adapters, and for each the numbers that PEFT computes. Run: python -m runtimes.corpus

`.runtimes/corpus` holds the files; `corpus.json`, which is committed, what a verdict needs of them: configurations and
headers.
"""

import json
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MADE = HERE.parent / ".runtimes" / "corpus"
HEADERS = HERE / "corpus.json"


def make(only: list[str]) -> None:
    """What isn't there yet; of `only` all anew."""
    import torch

    from runtimes import bases, cases, gguf_bases, images

    torch.set_num_threads(1)
    for name in [*bases.TEXT, *bases.PIPELINES]:
        place = MADE / "bases" / name
        if not place.exists():
            bases.write(name, place)
        file = MADE / "gguf" / f"{name}.gguf"
        if name in bases.TEXT and gguf_bases.is_known(place) and not file.exists():
            file.parent.mkdir(exist_ok=True)
            gguf_bases.write(place, file)
    for name, case in {**cases.CASES, **images.CASES}.items():
        place = MADE / "adapters" / name
        if name in only or not (place / "expected.npz").exists():
            shutil.rmtree(place, ignore_errors=True)
            (cases if isinstance(case, cases.Case) else images).write_with_answers(case, place)
    HEADERS.write_text(_text({**cases.CASES, **images.CASES}))


def _text(every: dict[str, Any]) -> str:
    """A line for each base and each adapter, so that changes can be read."""
    used = sorted({case.base for case in every.values()})
    bases = {name: _described(MADE / "bases" / name) for name in used}
    adapters = {
        name: {
            "base": case.base,
            "format": getattr(case, "format", "peft"),
            "prompt": list(getattr(case, "prompt", ())),
            "tokens": getattr(case, "tokens", 0),
            "files": _described(MADE / "adapters" / name),
        }
        for name, case in sorted(every.items())
    }
    parts = (f'"{key}": {{\n{_lines(value)}\n}}' for key, value in (("bases", bases), ("adapters", adapters)))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _lines(entries: dict[str, Any]) -> str:
    return ",\n".join(f"{json.dumps(name)}: {json.dumps(one, separators=(',', ':'))}" for name, one in entries.items())


def _described(folder: Path) -> dict[str, Any]:
    """The files of a folder: configurations whole, weights by their header and by what is a single number."""
    files: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".safetensors":
            files[name] = _header(path)
        elif path.name in ("config.json", "model_index.json", "adapter_config.json"):
            files[name] = json.loads(path.read_bytes())
    return files


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(size))
        numbers = {}
        for name, one in header.items():
            if one.get("shape") == []:
                file.seek(8 + size + one["data_offsets"][0])
                (numbers[name],) = struct.unpack("<f", file.read(4))
    return {"header": header, **({"numbers": numbers} if numbers else {})}


if __name__ == "__main__":
    make(sys.argv[1:])
