"""Every setting of a training run. Strict: an unknown name, a wrong type, an impossible value is one clear message."""

import math
import re
import tomllib
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

import yaml

from lorahub.adapters.limits import LIMITS
from lorahub.errors import InvalidConfiguration

MethodName = Literal["lora", "prefix", "prompt", "bottleneck", "bitfit", "ia3", "full"]
Format = Literal["auto", "chat", "completion", "text"]
TrainOn = Literal["auto", "assistant", "completion", "last", "all"]
Schedule = Literal["linear", "cosine", "constant", "wsd"]
Init = Literal["default", "gaussian", "pissa", "olora"]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {"method": "lora", "rank": 4, "alpha": 32, "targets": ("q,v",), "init": "gaussian"},
}
"""`paper`: the query and value projections, A from a Gaussian, B zero, as for GPT-2 (arXiv 2106.09685, table 11)."""
_MOST: Mapping[str, int] = {
    "rank": LIMITS.rank,
    "extract_lora": LIMITS.rank,
    "alpha": LIMITS.lora_alpha,
    "threads": 4096,
}
"""What is read again, and more threads than torch survives."""
_OF_LORA = ("add_tokens", "save_modules")
_COLUMN = re.compile(r"[A-Za-z_]+=.{1,900}", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """What is trained, on what, and how. Raises `InvalidConfiguration`.

    Each method reads those of the settings below `method` that it has a use for.

    >>> TrainConfig(rank=8, targets=("q_proj", "v_proj")).scaling_alpha
    16
    """

    method: MethodName = "lora"
    start: str | None = None
    """An adapter to go on with, a folder or a reference: its method, rank and targets count."""
    rank: int = 16
    """The rank of lora; the width of a bottleneck."""
    alpha: int | None = None
    """None: twice the rank. The update is scaled by alpha / rank, with rslora by alpha / √rank."""
    targets: tuple[str, ...] = ("all-linear",)
    """Names of modules as PEFT takes them; `all-linear`, or `q,v`: the query and value projections of any model; one
    regular expression for whole names behind `re:`."""
    add_tokens: tuple[str, ...] = ()
    """Tokens that the base doesn't have; lora trains their embeddings, and keeps the tokenizer with the adapter."""
    save_modules: tuple[str, ...] = ()
    """Modules that lora trains and keeps whole, such as a norm or the head."""
    dropout: float = 0.0
    """Costs 1.6 times the memory of activations."""
    rslora: bool = False
    dora: bool = False
    init: Init = "default"
    lora_plus: float | None = None
    """LoRA+: B's learning rate over A's; None trains both with one."""
    virtual_tokens: int = 16
    """How many tokens prefix and prompt put before the text."""
    bottleneck: Literal["houlsby", "pfeiffer"] = "houlsby"
    extract_lora: int | None = None
    """The rank of the LoRA that `full` reduces what was learnt to; None keeps the whole model."""

    lr: float = 2e-4
    epochs: float = 3.0
    steps: int | None = None
    """Instead of epochs."""
    batch_tokens: int = 4096
    """Tokens of one forward, padding included."""
    accum: int = 1
    """Forwards of one step."""
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises."""
    schedule: Schedule = "linear"
    """What it does then: fall to 0 in a line or by a cosine, stay, or stay and fall in the last fifth (wsd)."""
    weight_decay: float = 0.0
    clip: float = 1.0
    """The largest norm of a step's gradient."""
    neftune: float | None = None
    """NEFTune: noise on the embeddings of what is trained on, scaled by this over √(tokens · width)."""
    seed: int = 0

    max_len: int = 1024
    """Tokens of one example; what is longer is cut, and reported."""
    pack: Literal["best-fit", "none"] = "best-fit"
    format: Format = "auto"
    columns: tuple[str, ...] = ()
    """`prompt=title`: what a key of the rows stands for. `prompt=Q: {title}` puts keys into a text; `a.b` is a key of a
    key."""
    chat_template: str | None = None
    """A file of Jinja instead of the tokenizer's own."""
    train_on: TrainOn = "auto"
    """`assistant`, `completion` and `auto`: answers only, as far as the format has any; `last`: the last of each row;
    `all`: every token."""
    eval_split: float | str = 0.05
    """A share of the rows, chosen by their content; or a file."""
    eval_every: int | None = None
    """In steps; None is ten times in a run."""
    patience: int | None = None
    """Evaluations without progress after which to stop, and keep the best; None never stops early."""
    min_delta: float = 0.001
    """What counts as progress of the evaluation loss."""
    save_every: int | None = None
    """In steps; None is ten times in a run."""

    device: str = "auto"
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """How the base is loaded; `auto` is bf16 where the base is kept in 16 bits and the device computes in bf16."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    load_4bit: bool = False
    grad_ckpt: bool = False
    compile: bool = False
    threads: int | None = None
    base_name: str | None = None
    """What the base is called in the adapter; None: as it was named, or as its own files say."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value = getattr(self, field.name)
            if not _matches(value, hints[field.name]):
                raise InvalidConfiguration(f"{field.name} is {value!r}", hint=f"it takes {_told(hints[field.name])}")
        for name, is_good, wanted in self._bounds():
            if not is_good:
                raise InvalidConfiguration(f"{name} is {getattr(self, name)!r}", hint=f"it has to be {wanted}")

    def _bounds(self) -> list[tuple[str, bool, str]]:
        at_least_one = ("rank", "virtual_tokens", "batch_tokens", "accum")
        optional = ("steps", "eval_every", "patience", "save_every", "threads", "extract_lora")
        given = [name for name in optional if getattr(self, name) is not None]
        share = self.eval_split
        return [
            *((name, getattr(self, name) >= 1, "1 or more") for name in (*at_least_one, *given)),
            *((name, (getattr(self, name) or 1) <= most, f"at most {most:,}") for name, most in _MOST.items()),
            ("max_len", self.max_len >= 2, "2 or more"),
            ("seed", 0 <= self.seed < 2**63, "from 0 to 2⁶³ − 1"),
            ("dropout", 0 <= self.dropout < 1, "from 0 to below 1"),
            ("warmup", 0 <= self.warmup <= 1, "from 0 to 1"),
            ("eval_split", isinstance(share, str) or 0 <= share < 1, "a file, or a share from 0 to below 1"),
            ("targets", all(self.targets) and len(self.targets) > 0, "names of modules, or all-linear"),
            (
                "columns",
                len(self.columns) <= 64 and all(map(_COLUMN.fullmatch, self.columns)),
                "such as prompt=question",
            ),
            *(
                (name, not getattr(self, name) or self._is_new_lora, "of lora alone, without --from")
                for name in _OF_LORA
            ),
            *((name, getattr(self, name) > 0, "more than 0") for name in ("lr", "epochs", "clip")),
            *((name, getattr(self, name) >= 0, "0 or more") for name in ("weight_decay", "min_delta")),
            *(
                (name, getattr(self, name) is None or getattr(self, name) > 0, "more than 0")
                for name in ("alpha", "lora_plus", "neftune")
            ),
        ]

    @property
    def _is_new_lora(self) -> bool:
        return self.method == "lora" and self.start is None

    @property
    def scaling_alpha(self) -> int:
        return 2 * self.rank if self.alpha is None else self.alpha

    @classmethod
    def of(cls, given: Mapping[str, object]) -> Self:
        """From names and values, as a file or a command line has them; `preset` comes first, what is given wins.

        Lists become tuples, whole numbers stand for fractions. Raises `InvalidConfiguration`.
        """
        values = {name.replace("-", "_"): value for name, value in given.items()}
        preset = values.pop("preset", None)
        if preset is not None and preset not in PRESETS:
            raise InvalidConfiguration(f"no preset is called {preset!r}", hint=f"there are: {', '.join(PRESETS)}")
        merged = {**(PRESETS[str(preset)] if preset else {}), **values}
        hints = get_type_hints(cls)
        unknown = sorted(merged.keys() - hints.keys())
        if unknown:
            raise InvalidConfiguration(f"no setting is called {unknown[0]!r}", hint=f"there are: {', '.join(hints)}")
        return cls(**{name: _coerced(value, hints[name]) for name, value in merged.items()})

    @classmethod
    def from_file(cls, path: Path, given: Mapping[str, object]) -> Self:
        """A file of settings, TOML or YAML; what is `given` beside it wins. Raises `InvalidConfiguration`."""
        is_yaml = path.suffix.lower() in (".yaml", ".yml")
        try:
            text = path.read_text("utf-8")
            content = yaml.load(text, _Yaml) if is_yaml else tomllib.loads(text)  # noqa: S506 (it is a safe loader)
        except (OSError, ValueError, yaml.YAMLError) as error:  # of TOML, UTF-8, or a date that there isn't
            wanted = "lr: 1e-4" if is_yaml else "lr = 1e-4"
            raise InvalidConfiguration(f"can't read {path}: {error}", hint=f"lines such as: {wanted}") from None
        if content is None:  # an empty file
            content = {}
        if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
            raise InvalidConfiguration(f"{path} is no list of settings", hint="lines such as: lr: 1e-4")
        return cls.of({**{name.replace("-", "_"): value for name, value in content.items()}, **given})

    def as_json(self) -> dict[str, object]:
        """JSON-ready; `TrainConfig.of` takes it back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


class _Yaml(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, as it is in YAML 1.2 and in TOML."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+"), list("-+0123456789.")
)


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _coerced(value: Any, hint: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    takes = _options(hint)
    return float(value) if type(value) is int and float in takes and int not in takes else value


def _matches(value: Any, hint: Any) -> bool:
    return any(_is_one(value, option) for option in _options(hint))


def _is_one(value: Any, option: Any) -> bool:
    if get_origin(option) is Literal:
        return value in get_args(option)
    if get_origin(option) is tuple:
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if option is float:
        return type(value) in (float, int) and math.isfinite(value)
    return type(value) is option


def _told(hint: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "nothing"}
    return ", or ".join(
        " | ".join(map(str, get_args(option)))
        if get_origin(option) is Literal
        else words.get(option, "a list of names")
        for option in _options(hint)
    )
