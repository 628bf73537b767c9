"""How an adapter is used in each runtime, ready to be copied: names filled in, the revision pinned, the right options.

Pure. Whether a runtime takes the adapter is the check's verdict; one that doesn't keeps its place, with the reason.
"""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lorahub.adapters.runtimes import RUNTIMES, Runtime, reserved_rank

_USUAL_RANK = 16
_UNCHECKED = "nobody checked whether this runtime takes it"
_NO_BASE = "the adapter names no base"
_PIPELINE = "AutoPipelineForText2Image"
_CLASSES = {
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """An adapter at a version. `verdicts` are the runtimes' as `RuntimeVerdict.as_json` gives them."""

    repository: str
    revision: str
    url: str
    base: str | None = None
    base_revision: str | None = None
    task: str | None = None
    rank: int = 0
    """The largest."""
    weights_file: str | None = None
    triggers: Sequence[str] = ()
    is_mergeable: bool = False
    is_base_here: bool = False
    """Whether the base is read from this registry too."""
    verdicts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        return f"{self.repository}@{self.revision}"

    @property
    def short_name(self) -> str:
        return self.repository.rpartition("/")[2]

    @property
    def is_of_images(self) -> bool:
        """Whether the one runtime that has no other models was found to have its kind."""
        verdict = self.verdicts.get("diffusers")
        rules = {reason["rule"] for reason in verdict["reasons"]} if verdict is not None else {"LH406"}
        return "LH406" not in rules


@dataclass(frozen=True, slots=True)
class Snippet:
    """`reasons` say what to mind, or why it can't be used."""

    key: str
    label: str
    language: str
    text: str
    loads: str = "yes"
    reasons: tuple[str, ...] = ()

    @property
    def is_usable(self) -> bool:
        return self.loads in ("yes", "with", "unknown")

    def as_json(self) -> dict[str, Any]:
        return {
            "runtime": self.key,
            "label": self.label,
            "language": self.language,
            "text": self.text,
            "loads": self.loads,
            "usable": self.is_usable,
            "reasons": list(self.reasons),
        }


@dataclass(frozen=True, slots=True)
class Way:
    """How an adapter is used in a runtime. `key` and `label` are the runtime's own where there is one way only."""

    write: Callable[[Subject], str]
    language: str = "shell"
    key: str | None = None
    label: str | None = None
    needs_base: bool = True
    """Whether the base is named in it."""


def snippets(subject: Subject) -> list[Snippet]:
    """All of them, in the order in which they are shown."""
    return [_own(subject), _hub(subject), _merged(subject), *_of_runtimes(subject)]


def _of_runtimes(subject: Subject) -> Iterator[Snippet]:
    for runtime in RUNTIMES.values():
        for way in _WAYS[runtime.name]:
            yield _made(subject, runtime, way)


def _made(subject: Subject, runtime: Runtime, way: Way) -> Snippet:
    verdict = subject.verdicts.get(runtime.name)
    snippet = Snippet(way.key or runtime.name, way.label or runtime.label, way.language, way.write(subject))
    if way.needs_base and subject.base is None:
        return replace(snippet, loads="no", reasons=(_NO_BASE,))
    if verdict is None:
        return replace(snippet, loads="unknown", reasons=(_UNCHECKED,))
    is_cured = verdict["loads"] == "wrong" and bool(verdict["needs"])  # the snippet itself pulls it for the runtime
    return replace(
        snippet,
        loads="with" if is_cured else verdict["loads"],
        reasons=tuple(reason["message"] for reason in verdict["reasons"]),
    )


# --- the registry's own -----------------------------------------------------------------------------------------------


def _own(subject: Subject) -> Snippet:
    text = f"lorahub pull {_word(subject.reference)} {_folder(subject)} --endpoint {_word(subject.url)}"
    return Snippet("lorahub", "lorahub", "shell", text)


def _hub(subject: Subject) -> Snippet:
    """A token is always named: without one, `hf` sends the Hub's to whatever address it is given."""
    text = (
        f"{_environment(subject)} \\\n"
        f"hf download {_word(subject.repository)} --revision {_word(subject.revision)} --local-dir {_folder(subject)}"
    )
    return Snippet("hf", "hf", "shell", text)


def _merged(subject: Subject) -> Snippet:
    library, kind = ("diffusers", _PIPELINE) if subject.is_of_images else ("transformers", _class(subject))
    name, revision = json.dumps(subject.repository), json.dumps(f"merged/{subject.revision}")
    text = (
        f"# {_environment(subject)}\n"
        f"from {library} import {kind}\n\n"
        f"model = {kind}.from_pretrained({name}, revision={revision})"
    )
    merged = Snippet("merged", f"{library}, merged", "python", text)
    return merged if subject.is_mergeable else replace(merged, loads="no", reasons=("this adapter can't be folded in",))


# --- runtimes ---------------------------------------------------------------------------------------------------------


def _pull(subject: Subject, runtime: str) -> str:
    return f"lorahub pull {_word(subject.reference)} {_folder(subject)} --for {runtime} --endpoint {_word(subject.url)}"


def _peft(subject: Subject) -> str:
    revision = f", revision={json.dumps(subject.base_revision)}" if subject.base_revision else ""
    return (
        f"# {_pull(subject, 'peft')}\n{_here(subject)}"
        f"from peft import PeftModel\n"
        f"from transformers import {_class(subject)}\n\n"
        f"base = {_class(subject)}.from_pretrained({json.dumps(subject.base)}{revision})\n"
        f"model = PeftModel.from_pretrained(base, {json.dumps('./' + subject.short_name)})"
    )


def _transformers(subject: Subject) -> str:
    revision = f", revision={json.dumps(subject.base_revision)}" if subject.base_revision else ""
    return (
        f"# {_pull(subject, 'transformers')}\n{_here(subject)}"
        f"from transformers import {_class(subject)}\n\n"
        f"model = {_class(subject)}.from_pretrained({json.dumps(subject.base)}{revision})\n"
        f"model.load_adapter({json.dumps('./' + subject.short_name)})"
    )


def _vllm(subject: Subject) -> str:
    revision = f" --revision {_word(subject.base_revision)}" if subject.base_revision else ""
    return (
        f"{_pull(subject, 'vllm')}\n"
        f"{_at_home(subject)}vllm serve {_word(subject.base)}{revision} --enable-lora{_option(subject)} \\\n"
        f"  --lora-modules {_word(f'{subject.short_name}=./{subject.short_name}')}"
    )


def _vllm_runtime(subject: Subject) -> str:
    """The server asks for the path of a folder that it sees."""
    name = json.dumps(subject.short_name)
    before, after = f'{{"lora_name": {name}, "lora_path": "', f'/{name[1:-1]}"}}'
    return (
        f"{_pull(subject, 'vllm')}\n"
        f"# the server: VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve … --enable-lora{_option(subject)}\n"
        f"curl http://localhost:8000/v1/load_lora_adapter -H 'Content-Type: application/json' \\\n"
        f'  -d {shlex.quote(before)}"$PWD"{shlex.quote(after)}'
    )


def _sglang(subject: Subject) -> str:
    revision = f" --revision {_word(subject.base_revision)}" if subject.base_revision else ""
    return (
        f"{_pull(subject, 'sglang')}\n"
        f"{_at_home(subject)}python -m sglang.launch_server --model-path {_word(subject.base)}{revision} \\\n"
        f"  --enable-lora{_option(subject)} --lora-paths {_word(f'{subject.short_name}=./{subject.short_name}')}"
    )


def _lorax(subject: Subject) -> str:
    body = {
        "inputs": "Hello",
        "parameters": {"adapter_id": f"/data/{subject.short_name}", "adapter_source": "local"},
    }
    return (
        f"lorahub pull {_word(subject.reference)} /data/{_word(subject.short_name)} --for lorax"
        f" --endpoint {_word(subject.url)}\n"
        f"curl http://localhost:8080/generate -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"
    )


def _llama_cpp(subject: Subject) -> str:
    folder = _folder(subject)
    return (
        f"{_pull(subject, 'llama.cpp')}\n# base.gguf: the base in llama.cpp's format\n"
        f"llama-server -m base.gguf --lora {folder}/*.gguf"
    )


def _ollama(subject: Subject) -> str:
    folder = _folder(subject)
    name = _word(subject.short_name.lower())
    return (
        f"{_pull(subject, 'ollama')}\n"
        f"printf 'FROM base.gguf\\nADAPTER %s\\n' {folder}/*.gguf > Modelfile\n"
        f"ollama create {name} -f Modelfile && ollama run {name}"
    )


def _diffusers(subject: Subject) -> str:
    file = subject.weights_file or "pytorch_lora_weights.safetensors"
    prompt = ", ".join(subject.triggers) or "a photo"
    return (
        f"# {_pull(subject, 'diffusers')}\n{_here(subject)}"
        f"from diffusers import {_PIPELINE}\n\n"
        f"pipe = {_PIPELINE}.from_pretrained({json.dumps(subject.base)})\n"
        f"pipe.load_lora_weights({json.dumps('./' + subject.short_name)}, weight_name={json.dumps(file)},"
        f" adapter_name={json.dumps('one')})\n"
        f"pipe.set_adapters({json.dumps('one')}, 0.8)\n"
        f"image = pipe({json.dumps(prompt)}).images[0]"
    )


def _comfyui(subject: Subject) -> str:
    words = f"\n# in the prompt: {_comment(', '.join(subject.triggers))}" if subject.triggers else ""
    return (
        f"lorahub pull {_word(subject.reference)} ComfyUI/models/loras/{_word(subject.short_name)} --for comfyui"
        f" --endpoint {_word(subject.url)}\n# then refresh, and choose it in a LoraLoader{words}"
    )


def _mlx(subject: Subject) -> str:
    return (
        f"{_pull(subject, 'mlx')}\n"
        f"{_at_home(subject)}mlx_lm.generate --model {_word(subject.base)}"
        f" --adapter-path {_folder(subject)} --prompt Hello"
    )


def _option(subject: Subject) -> str:
    """Both servers take ranks up to 16, unless they are told; vLLM knows some ranks only."""
    if subject.rank <= _USUAL_RANK:
        return ""
    return f" --max-lora-rank {reserved_rank(subject.rank)}"


_WAYS: Mapping[str, tuple[Way, ...]] = {
    "peft": (Way(_peft, "python"),),
    "transformers": (Way(_transformers, "python"),),
    "vllm": (Way(_vllm), Way(_vllm_runtime, key="vllm-runtime", label="vLLM, running", needs_base=False)),
    "sglang": (Way(_sglang),),
    "lorax": (Way(_lorax, needs_base=False),),
    "llama.cpp": (Way(_llama_cpp, needs_base=False),),
    "ollama": (Way(_ollama, needs_base=False),),
    "diffusers": (Way(_diffusers, "python"),),
    "comfyui": (Way(_comfyui, needs_base=False),),
    "mlx": (Way(_mlx),),
}
"""By the runtime's name."""


# --- words ------------------------------------------------------------------------------------------------------------


def _class(subject: Subject) -> str:
    return _CLASSES.get(subject.task or "", "AutoModelForCausalLM" if subject.task is None else "AutoModel")


def _environment(subject: Subject) -> str:
    """Only for one command: it is the address of base models too."""
    return f'HF_ENDPOINT={_word(subject.url)} HF_TOKEN="$LORAHUB_TOKEN" HF_HOME="$HOME/.cache/lorahub-hf"'


def _here(subject: Subject) -> str:
    """A line of Python's above what reads the base from this registry."""
    return f"# {_environment(subject)}\n" if subject.is_base_here else ""


def _at_home(subject: Subject) -> str:
    """The same before a command."""
    return f"{_environment(subject)} \\\n  " if subject.is_base_here else ""


def _folder(subject: Subject) -> str:
    return _word(f"./{subject.short_name}")


def _word(text: str | None) -> str:
    """One word of a shell, whatever it holds."""
    return shlex.quote(_comment(text or ""))


def _comment(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
