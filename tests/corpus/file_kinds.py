"""Files of every kind, made by the libraries that write them, by name: by-products of trainers, pickles, all else."""

import bz2
import collections
import functools
import gzip
import io
import json
import lzma
import os
import pickle  # noqa: TID251 (written here, and never loaded)
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from corpus import golden

BY_PRODUCTS = tuple(
    "training_args.bin optimizer.pt optimizer.bin optimizer_1.bin scheduler.pt scheduler.bin scaler.pt rng_state.pth "
    "rng_state_0.pth random_states_0.pkl custom_checkpoint_0.pkl sampler.bin dl_state_dict.bin "
    "rank0-of-8-optimizer.pt bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt mp_rank_00_model_states.pt "
    "pytorch_model_fsdp.bin __0_0.distcp .metadata recipe_state.pt Training_Args.BIN".split()
)

PICKLED_NAMES = tuple(
    "adapter_model.bin pytorch_model.bin pytorch_model-00001-of-00002.bin pytorch_model.fp16.bin "
    "diffusion_pytorch_model.bin diffusion_pytorch_model.fp16.bin pytorch_lora_weights.bin learned_embeds.bin "
    "model.ckpt adapter_0.pt consolidated.00.pth data.pkl data.pickle model.joblib ADAPTER_MODEL.BIN".split()
)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/pwned",)


class Plain:
    def __init__(self) -> None:
        self.x = 1


@functools.cache
def pickles() -> Mapping[str, bytes]:
    """By what they are. None is ever loaded."""
    values = {
        "code": Evil(),
        "a dict": {"a": [1, 2]},
        "an object": Plain(),
        "an array": np.arange(4),
        "an ordered dict": collections.OrderedDict(a=1),
    }
    made = {
        f"{name}, protocol {number}": pickle.dumps(value, number)
        for number in range(6)
        for name, value in values.items()
    }
    made |= {f"{name}, without its mark": pickle.dumps(values[name], 4)[2:] for name in ("code", "an object")}
    called = b"cos\nsystem\n(S'true'\ntR"
    made |= {
        "code before rubbish": called + b" and no more",
        "code in an instance": b"(S'true'\nios\nsystem\n.",
        "code in an object": b"(cos\nsystem\nS'true'\no.",
        "code behind a long text": b"S'" + b"a" * 300_000 + b"'\n0" + called,
        "code behind many values": b"N0" * 30_000 + called,
        "more values than anybody looks at": b"N0" * 60_000 + called,
        "code behind bytes": b"X" + (1 << 20).to_bytes(4, "little") + b"a" * (1 << 20) + b"0" + called,
        "mark of protocol 0": b"\x80\0" + called,
    }
    return made


@functools.cache
def archives_of_pickles() -> Mapping[str, bytes]:
    objects = io.BytesIO()
    np.save(objects, np.array([None, {}], dtype=object), allow_pickle=True)
    fields = io.BytesIO()
    np.save(fields, np.array([(1, None)], dtype=[("a", "i4"), ("b", "O")]), allow_pickle=True)
    whole = pickle.dumps({"a": Evil()})
    padding = noise(40_000)
    return {
        "PyTorch": golden.file("saved.pt"),
        "PyTorch before 1.6": golden.file("saved-before-1.6.pt"),
        "NumPy objects": objects.getvalue(),
        "NumPy fields": fields.getvalue(),
        "npz": npz(plain=np.arange(3), sly=np.array([None], dtype=object)),
        "ZIP, behind a hundred others": zipped({**{f"{n}.txt": b"x" for n in range(100)}, "deep/data.pkl": whole}),
        "ZIP, by the names of too many": zipped({f"{n}.pkl": b"x" for n in range(100)}),
        "ZIP, by its member's content": zipped({"notes.txt": padding, "weights": whole}),
        "ZIP, stored": zipped({"a": padding, "weights": whole}, method=zipfile.ZIP_STORED),
        "ZIP of PyTorch": zipped({"training_args.bin": golden.file("saved.pt")}),
        "tar": tarred({"a.txt": padding, "weights": whole}),
        "tar that begins with a pickle": tarred({"cos\nsystem\n(S'true'\ntR.": b"x"}),
        "tar.gz": gzip.compress(tarred({"weights": whole})),
        "gzip": gzip.compress(whole),
        "gzip of PyTorch": gzip.compress(golden.file("saved.pt")),
        "zlib": zlib.compress(whole),
        "bzip2": bz2.compress(whole + noise(900_000)),
        "xz": lzma.compress(whole),
        "lzma": lzma.compress(whole, format=lzma.FORMAT_ALONE),
        "ZIP with two ends": two_faced_zip(),
        "ZIP, cut off": zipped({"a": padding})[:-30],
        "ZIP whose list is elsewhere": b"PK\3\4" + b"\0" * 40 + zipped({"a": b"x"}),
    }


@functools.cache
def ordinary() -> Mapping[str, bytes]:
    """Path → content."""
    array = io.BytesIO()
    np.save(array, np.arange(5.0))
    fields = io.BytesIO()
    np.save(fields, np.array([(1, 2)], dtype=[("Offset", "i4"), ("b", "<f4")]))
    text = "".join(f"line {number}\n" for number in range(1000)).encode()
    return {
        "lfs.bin": b"a text, whatever its name says",
        "raw.bin": bytes(range(256)) * 200,
        "index.bin": np.arange(1000, dtype=np.int32).tobytes(),
        "pytorch_model.bin.index.json": b'{"weight_map": {}}',
        "array.npy": array.getvalue(),
        "fields.npy": fields.getvalue(),
        "arrays.npz": npz(a=np.arange(3), b=np.ones((2, 2))),
        "notes.zip": zipped({f"n/{number}.txt": text for number in range(100)}),
        "empty.zip": zipped({}),
        "wheel.whl": zipped({"paths.pth": b"import site", **{f"{n}.py": b"" for n in range(100)}}),
        "samples.tar": tarred({"a.txt": text}),
        "samples.tar.gz": gzip.compress(tarred({"a.txt": text})),
        "corpus.txt.gz": gzip.compress(text),
        "corpus.bz2": bz2.compress(text),
        "corpus.xz": lzma.compress(text),
        "model.keras": zipped({"config.json": b"{}", "model.weights.h5": b"\x89HDF\r\n\x1a\n"}),
        "weights.h5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "model.onnx": b"\x08\x08\x12\x07pytorch" + bytes(100),
        "saved_model/saved_model.pb": b"\x08\x01\x12\x04" + bytes(100),
        "tool": b"\x7fELF\x02" + bytes(100),
        "sound.wav": b"RIFF\x24\0\0\0WAVEfmt " + bytes(100),
        "sound.mp3": b"ID3\x04" + bytes(100),
        "picture.png": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        "page.html": b"<!doctype html><script>alert(1)</script>",
        "notebook.ipynb": json.dumps({"cells": [], "nbformat": 4}).encode(),
        "requirements.txt": b"cython\nnumpy\ncupy\nscipy\nbitsandbytes\nRequests\ntorch\n",
        "words.txt": b"Vertex\nValue\nVoid\n.\n",
        "tags.conll": b"I 1\nN 2\n.\n",
        "formula.txt": b"x^2 + y^2 = z^2\n",
        "runs/events.out.tfevents.1.host": bytes(64),
        "trainer_state.json": b"{}",
        "zero_to_fp32.py": b"import torch\n",
        "translations/pt": b"uma frase\n",
        "translations/.pt": b"uma frase\n",
    }


def noise(size: int) -> bytes:
    """Nothing that can be packed."""
    return np.random.default_rng(size).bytes(size)


def npz(**arrays: np.ndarray) -> bytes:
    made = io.BytesIO()
    np.savez_compressed(made, **arrays)
    return made.getvalue()


def zipped(members: Mapping[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return made.getvalue()


def two_faced_zip() -> bytes:
    """One program finds the first list of members, another the second."""
    honest = zipped({"a.txt": b"x"})
    sly = zipped({"data.pkl": pickle.dumps(Evil())})
    end = bytearray(sly[-22:])
    end[20:22] = len(honest).to_bytes(2, "little")
    return sly[:-22] + bytes(end) + honest


def tarred(members: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def written(folder: Path, files: Mapping[str, bytes]) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder
