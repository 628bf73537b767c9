"""lorahub in a minute, on nothing but this machine: a tiny base, a LoRA trained on it, a registry,
push, three ways of pulling, a merge, a swap in mid-dialog, and a merged model that is stored nowhere.

`make demo` runs it. No network, no account, nothing left behind but what it prints.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.update(
    PYTHONWARNINGS="ignore",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
)

warnings.simplefilter("ignore")  # the libraries' deprecations are not this program's story

BIN = Path(sys.executable).parent
PROMPT = "the quick brown"
SENTENCE = "the quick brown fox jumps over the lazy dog. "


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="lorahub-demo-") as folder:
        work = Path(folder)
        os.environ["HF_HOME"] = str(work / "hf-home")
        os.environ["LORAHUB_HOME"] = str(work / "lorahub-home")
        step("Make a tiny Llama-shaped base with a byte-level tokenizer")
        make_base(work / "base")
        write_rows(work / "rows.jsonl")
        step("Train a LoRA on nine rows of text")
        trained = train_adapter(work / "base", work / "rows.jsonl", work / "adapter")
        step("Start a registry: SQLite and a folder")
        with registry(work / "registry") as (url, token):
            share(work, url, token, trained)
            look_around(url, token)
    step("Done: what was pulled is what was trained, three times over.")


def share(work: Path, url: str, token: str, trained: list[float]) -> None:
    step("Push base and adapter with lorahub")
    lorahub("login", url, "--token-file", "-", stdin=token)
    os.environ["LORAHUB_ENDPOINT"] = url
    lorahub("push", str(work / "base"), "owner/tiny-llama", "-m", "a base of 2 layers")
    lorahub("push", str(work / "adapter"), "owner/fox-lora", "--alias", "champion", "-m", "knows the fox")
    lorahub("push", str(work / "adapter"), "owner/fox-lora", "-m", "the same files again")

    step("Check: does it fit its base? Headers only, no weights are read")
    lorahub("base", "add", str(work / "base"), "owner/tiny-llama")
    lorahub("check", "owner/fox-lora@v1", "--base", "owner/tiny-llama", "--for", "vllm")
    step("Check it against the wrong base: a readable reason, and exit code 1")
    make_base(work / "wider", width=96)
    said = lorahub("check", str(work / "adapter"), "--base", str(work / "wider"), code=1)
    say(f"exit code {said}")

    step("Pull with lorahub, every byte verified")
    lorahub("pull", "owner/fox-lora@champion", str(work / "pulled"))
    compare("lorahub pull", logits(work / "base", work / "pulled"), trained)

    step("Pull with the stock huggingface_hub client: no setting but endpoint and token")
    from huggingface_hub import snapshot_download

    snapshot = snapshot_download("owner/fox-lora", revision="v1", endpoint=url, token=token)
    compare("snapshot_download", logits(work / "base", Path(snapshot)), trained)

    step("Load straight from the registry: AutoModel and PeftModel.from_pretrained with HF_ENDPOINT")
    remote = in_new_process(url, token, REMOTE)
    compare("from_pretrained", remote, trained)

    step("Merge on this machine: W' = W + s·BA in float64, rounded once")
    lorahub("merge", str(work / "base"), str(work / "adapter"), "-o", str(work / "merged"))

    step("Talk with the base, and swap the adapter in mid-dialog: the base's weights are never touched")
    swap_in_dialog(work)

    step("Load a merged revision: a whole model that is stored nowhere, computed while stock transformers reads it")
    compare("revision='merged/v1'", in_new_process(url, token, MERGED), trained)


def look_around(url: str, token: str) -> None:
    """Where somebody watches, the registry stays until he has seen enough."""
    step(f"Look at it in a browser: {url}/owner/fox-lora")
    if sys.stdin.isatty() and sys.stdout.isatty():
        say(f"log in with {token}")
        input("          Enter ends it ")


def swap_in_dialog(work: Path) -> None:
    from lorahub import Session
    from transformers import AutoTokenizer

    session = Session(work / "base")
    session.load("fox", work / "adapter")
    dialog = session.dialog(AutoTokenizer.from_pretrained(work / "base"))
    session.use("fox")
    say(f"with 'fox': {PROMPT!r} → {''.join(dialog.say(PROMPT, max_new_tokens=24))!r}")
    begun = time.perf_counter()
    session.use(None)
    say(f"swapped to the base alone in {(time.perf_counter() - begun) * 1e6:.0f} µs")
    say(f"base alone: {PROMPT!r} → {''.join(dialog.say(PROMPT, max_new_tokens=24))!r}")


def make_base(folder: Path, *, width: int = 64) -> None:
    """Two layers, weights from a fixed seed; 256 tokens, one for each byte."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=width, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, bos_token_id=0, eos_token_id=0, initializer_range=0.1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    say(f"{sum(f.stat().st_size for f in folder.iterdir()) / 1e6:.2f} MB, 2 layers, 256 tokens")


def write_rows(path: Path) -> None:
    """The sentence, begun at each of its words: rows of {"text": …}."""
    words = SENTENCE.split()
    turned = [" ".join(words[start:] + words[:start]) + " " for start in range(len(words))]
    path.write_text("".join(json.dumps({"text": text * 2}) + "\n" for text in turned))


def train_adapter(base: Path, rows: Path, folder: Path) -> list[float]:
    """The logits after PROMPT of the base with what was trained, by PEFT itself."""
    lorahub(
        "train", str(base), str(rows), "-o", str(folder), "--base-name", "owner/tiny-llama", "--rank", "8",
        "--targets", "q_proj,v_proj,down_proj", "--lr", "1e-2", "--steps", "100", "--batch-tokens", "512",
        "--eval-split", "0",
    )  # fmt: skip
    return logits(base, folder)


def logits(base: Path, adapter: Path) -> list[float]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    return last_logits(model, AutoTokenizer.from_pretrained(base))


def last_logits(model: object, tokenizer: object) -> list[float]:
    import torch

    with torch.no_grad():
        found = model.eval()(**tokenizer(PROMPT, return_tensors="pt")).logits  # type: ignore[attr-defined, operator]
    return list(found[0, -1].tolist())


REMOTE = """
import json, sys
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
sys.path.insert(0, {here!r})
from demo import last_logits
base = AutoModelForCausalLM.from_pretrained("owner/tiny-llama")
model = PeftModel.from_pretrained(base, "owner/fox-lora", revision="champion")
print(json.dumps(last_logits(model, AutoTokenizer.from_pretrained("owner/tiny-llama"))))
"""


MERGED = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
sys.path.insert(0, {here!r})
from demo import last_logits
model = AutoModelForCausalLM.from_pretrained("owner/fox-lora", revision="merged/v1")
print(json.dumps(last_logits(model, AutoTokenizer.from_pretrained("owner/fox-lora", revision="merged/v1"))))
"""


def in_new_process(url: str, token: str, program: str) -> list[float]:
    """HF_ENDPOINT is read when the libraries are imported, so a process of its own, as a user would have."""
    program = program.format(here=str(Path(__file__).parent))
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_TOKEN": token}
    result = subprocess.run([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, check=True)
    return [float(x) for x in json.loads(result.stdout.splitlines()[-1])]


def compare(how: str, found: list[float], trained: list[float]) -> None:
    difference = max(abs(a - b) for a, b in zip(found, trained, strict=True))
    say(f"✓ {how}: the logits are the trained ones (largest difference {difference:.1e})")
    if difference > 1e-5:
        raise SystemExit(f"✗ {how}: the logits differ from the trained ones by {difference}")


@contextmanager
def registry(home: Path) -> Iterator[tuple[str, str]]:
    """The registry's address and its admin's token."""
    command = [str(BIN / "lorahub"), "serve", "--home", str(home), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            said = json.loads(process.stdout.readline())
            say(f"listens at {said['url']}")
            yield said["url"], said["token"]
        finally:
            process.terminate()


def lorahub(*arguments: str, stdin: str | None = None, code: int = 0) -> int:
    """Raises `SystemExit` for another exit code than the story wants."""
    say(f"$ lorahub {' '.join(arguments)}")
    result = subprocess.run([str(BIN / "lorahub"), *arguments], input=stdin, text=True, check=False)
    if result.returncode != code:
        raise SystemExit(f"✗ lorahub {arguments[0]}: exit code {result.returncode}, expected {code}")
    return code


started = time.monotonic()


def step(text: str) -> None:
    print(f"\n[{time.monotonic() - started:5.1f} s] {text}", flush=True)


def say(text: str) -> None:
    print(f"          {text}", flush=True)


if __name__ == "__main__":
    main()
