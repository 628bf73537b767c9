"""Registering a 70B-shaped base over HTTP range requests, and checking a rank-16 all-linear adapter against it.

The base has the names and shapes of Llama 3 70B in 30 shards, 723 tensors and 141 GB; the files are sparse, so no disk
is needed, and served with ranges by a server that speaks the Hub's protocol. What is measured: bytes and requests to
know the base, CPU to check one adapter after imports, and beside it what a user would do otherwise: load the adapter
with PEFT onto the model's shape on torch's meta device, which needs no weights either, but all of torch.

    make bench
"""

import json
import struct
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

HIDDEN, LAYERS, VOCABULARY, INNER, KEYS = 8192, 80, 128_256, 28_672, 1024
SHARDS = 30
RANK = 16
MODULES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEYS, HIDDEN),
    "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
    "num_hidden_layers": LAYERS, "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": VOCABULARY,
    "max_position_embeddings": 8192, "tie_word_embeddings": False, "rms_norm_eps": 1e-5, "hidden_act": "silu",
}  # fmt: skip
ROUNDS = 7


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="lorahub-bench-") as folder:
        work = Path(folder)
        write_base(work / "base")
        write_adapter(work / "adapter")
        known = read_over_http(work / "base")
        ours = cpu_of("check", work)
        theirs = cpu_of("peft", work)
    print(f"| what | measured |\n| --- | --- |\n| the base | {known} |")
    print(f"| lorahub check, CPU after imports, best of {ROUNDS} | {ours * 1000:.1f} ms |")
    print(f"| PEFT on the meta device, CPU after imports | {theirs:.1f} s, {theirs / ours:.0f} × |")


def base_tensors() -> dict[str, tuple[int, ...]]:
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        tensors |= {f"{prefix}.{module}.weight": shape for module, shape in MODULES.items()}
        tensors |= {f"{prefix}.{norm}.weight": (HIDDEN,) for norm in ("input_layernorm", "post_attention_layernorm")}
    return tensors | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}


def write_base(folder: Path) -> None:
    folder.mkdir()
    names = list(base_tensors().items())
    placed = {}
    size = -(-len(names) // SHARDS)
    for number in range(SHARDS):
        file = f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"
        part = dict(names[number * size : (number + 1) * size])
        write_sparse(folder / file, part, "BF16", 2)
        placed.update(dict.fromkeys(part, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    (folder / "config.json").write_text(json.dumps(CONFIG))


def write_adapter(folder: Path) -> None:
    folder.mkdir()
    tensors: dict[str, tuple[int, ...]] = {}
    for layer in range(LAYERS):
        for module, (out, width) in MODULES.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors |= {f"{name}.lora_A.weight": (RANK, width), f"{name}.lora_B.weight": (out, RANK)}
    write_sparse(folder / "adapter_model.safetensors", tensors, "F32", 4)
    leaves = sorted(module.rpartition(".")[2] for module in MODULES)
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "acme/llama-70b", "r": RANK,
        "lora_alpha": 32, "target_modules": leaves, "bias": "none",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))


def write_sparse(path: Path, tensors: dict[str, tuple[int, ...]], dtype: str, width: int) -> None:
    header, offset = {}, 0
    for name, shape in tensors.items():
        elements = 1
        for size in shape:
            elements *= size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + elements * width]}
        offset += elements * width
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + offset)


# --- over HTTP --------------------------------------------------------------------------------------------------------


def read_over_http(folder: Path) -> str:
    from lorahub.adapters.base_model import read_base, weight_files
    from lorahub.hub.cache import Cache
    from lorahub.hub.contents import contents_of
    from lorahub.hub.remote_files import RemoteFiles
    from lorahub.hub.transport import Transport

    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with Transport(f"http://127.0.0.1:{server.server_port}", None) as hub, tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        answer = hub.json("GET", "/api/models/acme/llama-70b/revision/main", query={"blobs": "true"})
        contents = contents_of(answer, "acme/llama-70b")
        files = RemoteFiles(lambda: hub, Cache(Path(place), hub.endpoint), Path(place), contents)
        files.warm([path for _, path in weight_files(files)])
        base = read_base(files, name="acme/llama-70b")
        seconds = time.perf_counter() - started
    server.shutdown()
    server.server_close()
    assert len(base.tensors) == 723
    return (
        f"{len(base.tensors)} tensors, {base.bytes / 1e9:.0f} GB, {SHARDS} shards: {files.bytes_read / 1e6:.2f} MB "
        f"in {files.requests} requests, {seconds:.2f} s"
    )


def handler(folder: Path) -> type[BaseHTTPRequestHandler]:
    """The two calls of the Hub's protocol that reading a base takes."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if path.startswith("/api/models/"):
                siblings = [{"rfilename": file.name, "size": file.stat().st_size} for file in folder.iterdir()]
                self._answer(200, json.dumps({"sha": "0" * 40, "siblings": siblings}).encode())
                return
            start, _, stop = self.headers["Range"].removeprefix("bytes=").partition("-")
            with (folder / path.rpartition("/")[2]).open("rb") as file:
                file.seek(int(start))
                self._answer(206, file.read(int(stop) + 1 - int(start)))

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


# --- CPU --------------------------------------------------------------------------------------------------------------

OURS = """
import time
from pathlib import Path
from lorahub.adapters.base_model import read_base
from lorahub.adapters.check import check
from lorahub.adapters.files import FolderFiles
from lorahub.adapters.reader import read_adapter
base = read_base(FolderFiles(Path({work!r}) / "base"), name="acme/llama-70b")
base.layout_digest
found = []
for _ in range({rounds}):
    before = time.process_time()
    report = check(read_adapter(FolderFiles(Path({work!r}) / "adapter")), base)
    found.append(time.process_time() - before)
assert (report.verdict, report.matched) == ("fits", 560), report
print(min(found))
"""

THEIRS = """
import json, time, warnings
warnings.simplefilter("ignore")
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from safetensors import safe_open
config = json.load(open({work!r} + "/base/config.json"))
before = time.process_time()
with torch.device("meta"):
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**config)), LoraConfig.from_pretrained({work!r} + "/adapter"))
shapes = {{name: tuple(value.shape) for name, value in model.state_dict().items() if "lora_" in name}}
with safe_open({work!r} + "/adapter/adapter_model.safetensors", "pt") as file:
    held = {{name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}}
assert {{name.replace(".default", ""): shape for name, shape in shapes.items()}} == held
print(time.process_time() - before)
"""


def cpu_of(which: str, work: Path) -> float:
    program = (OURS if which == "check" else THEIRS).format(work=str(work), rounds=ROUNDS)
    result = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    return float(result.stdout.split()[-1])


if __name__ == "__main__":
    main()
