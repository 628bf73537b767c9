"""One class, one recipe: PEFT makes an adapter, and what lorahub says and does is held against PEFT's own.

python -m sweep.trial LlamaForCausalLM Qwen2VLForConditionalGeneration        (from the folder tests)
"""

import copy
import json
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from lorahub import Session
from lorahub.adapters.base_model import BaseLayout, read_base
from lorahub.adapters.files import BytesFiles, Files, FolderFiles
from lorahub.adapters.findings import Verdict
from lorahub.adapters.reader import CONFIG
from lorahub.conversion import convert
from lorahub.errors import LorahubError, NotConvertible
from lorahub.merging.folder import write_model
from safetensors.torch import load, load_file, save
from sweep import gate, tiny
from sweep.merges import is_merged, planned
from sweep.outcome import Outcome

MOST_DIFFERENCE = 2e-6
_ASIDE = ("LH104", "LH221")  # the base is in a folder, and may have been saved without its head
USUAL = (
    "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj query key value dense c_attn c_proj qkv_proj wi wo "
    "in_proj x_proj fc1 fc2".split()
)


class Hole(Exception):
    """transformers or PEFT doesn't do this for the class; why."""


class NotApplicable(Exception):
    """The recipe asks for modules that the class doesn't have."""


# --- recipes ----------------------------------------------------------------------------------------------------------


def _all_linear(_model: Any) -> peft.LoraConfig:
    return peft.LoraConfig(r=4, lora_alpha=6, target_modules="all-linear")


def _usual(model: Any) -> peft.LoraConfig:
    leaves = {name.rpartition(".")[2] for name, module in model.named_modules() if hasattr(module, "weight")}
    targets = [name for name in USUAL if name in leaves]
    if not targets:
        raise NotApplicable
    return peft.LoraConfig(r=3, lora_alpha=6, target_modules=targets)


def _patterns(model: Any) -> peft.LoraConfig:
    """rsLoRA, where one name has a rank of its own and one an alpha."""
    leaves = sorted(
        {name.rpartition(".")[2] for name, module in model.named_modules() if type(module) is torch.nn.Linear}
    )
    if not leaves:
        raise NotApplicable
    return peft.LoraConfig(
        r=4,
        lora_alpha=5,
        use_rslora=True,
        target_modules="all-linear",
        rank_pattern={leaves[0]: 2},
        alpha_pattern={leaves[-1]: 3},
    )


def _experts(model: Any) -> peft.LoraConfig:
    """The parameters that hold all experts."""
    stacks = [name for name, value in model.named_parameters() if value.ndim == 3 and ".experts." in f".{name}"]
    if not stacks:
        raise NotApplicable
    endings = sorted({".".join(name.split(".")[-2:]) for name in stacks})
    return peft.LoraConfig(r=2, lora_alpha=4, target_modules=[], target_parameters=endings)


def _expert_patterns(model: Any) -> peft.LoraConfig:
    """The same by their last names alone, with rsLoRA, where one has a rank and an alpha of its own."""
    endings = _experts(model).target_parameters or []
    leaves = sorted({name.rpartition(".")[2] for name in endings} - {"weight"})
    if not leaves:
        raise NotApplicable
    return peft.LoraConfig(
        r=3,
        lora_alpha=5,
        use_rslora=True,
        target_modules=[],
        target_parameters=leaves,
        rank_pattern={leaves[0]: 2},
        alpha_pattern={rf".*\.{leaves[0]}": 7},
    )


RECIPES: dict[str, Callable[[Any], peft.LoraConfig]] = {
    "all-linear": _all_linear,
    "usual": _usual,
    "patterns": _patterns,
    "experts": _experts,
    "experts, patterns": _expert_patterns,
}


# --- trials -----------------------------------------------------------------------------------------------------------


def trials(name: str, recipes: Iterable[str] = ()) -> Iterator[Outcome]:
    """One outcome for each recipe."""
    chosen = list(recipes or RECIPES)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = _stored(name, Path(folder) / "base")
        except Exception as error:  # noqa: BLE001  whatever transformers raises is the reason
            yield from (Outcome(name, recipe, hole=_told(error)) for recipe in chosen)
            return
        for recipe in chosen:
            begun = time.monotonic()
            place = Path(folder) / recipe
            place.mkdir()
            modules, fault, hole = 0, "", ""
            try:
                adapted = _adapter(model, recipe, place / "adapter")
                modules = len(adapted)
                reference = _merged(name, Path(folder) / "base", place)
                fault = "; ".join(_faults(name, Path(folder) / "base", place, reference))
            except NotApplicable:
                continue
            except Hole as error:
                hole = str(error)
            except LorahubError as error:
                fault = f"{type(error).__name__}: {error.message}"
            yield Outcome(name, recipe, fault, hole, modules, round(time.monotonic() - begun, 1))
            shutil.rmtree(place)


def _stored(name: str, folder: Path) -> transformers.PreTrainedModel:
    """The model as transformers loads it from `folder`, where it saved it."""
    tiny.make(name).save_pretrained(folder)
    return _loaded(name, folder)


def _loaded(name: str, folder: Path) -> Any:
    return getattr(transformers, name).from_pretrained(folder, dtype=torch.float32).eval()


def _adapter(model: Any, recipe: str, folder: Path) -> list[str]:
    """PEFT's, with weights that count; the names of its tensors."""
    try:
        adapted = peft.get_peft_model(copy.deepcopy(model), RECIPES[recipe](model))
        generator = torch.Generator().manual_seed(1)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
        adapted.save_pretrained(folder, save_embedding_layers=False)
    except (Hole, NotApplicable):
        raise
    except Exception as error:
        raise Hole(f"PEFT: {_told(error)}") from error
    return [key for key in load_file(folder / "adapter_model.safetensors") if ".lora_A." in key]


def _merged(name: str, base: Path, place: Path) -> dict[str, torch.Tensor]:
    """PEFT's merged model, as transformers saves it."""
    try:
        adapted = peft.PeftModel.from_pretrained(_loaded(name, base), place / "adapter")
        whole = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
        adapted.merge_and_unload().save_pretrained(place / "theirs")
    except Exception as error:
        raise Hole(f"PEFT doesn't merge it: {_told(error)}") from error
    file = load_file(place / "adapter" / "adapter_model.safetensors")
    if lost := [key for key, tensor in file.items() if key not in whole or not torch.equal(whole[key], tensor)]:
        raise Hole(f"PEFT loads its own file only in part: {len(lost)} of {len(file)} tensors are lost, {lost[0]}")
    return _tensors(place / "theirs")


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def _faults(name: str, base: Path, place: Path, reference: Mapping[str, torch.Tensor]) -> Iterator[str]:
    before, contents = _tensors(base), _contents(place / "adapter")
    layout = gate.registered(read_base(FolderFiles(base)))
    if all(torch.equal(before[key], reference[key]) for key in before.keys() & reference.keys()):
        raise Hole("PEFT loads it without an effect")
    report, disagreement = gate.judge(contents, layout)
    if disagreement:
        yield f"push: {disagreement}"
    told = "; ".join(f"{found.rule} {found.message}" for found in report.findings if found.rule not in _ASIDE)
    if report.verdict is Verdict.UNDECIDED:
        raise Hole(f"undecided: {told}"[:400])
    if report.verdict is not Verdict.FITS or report.matched != report.of:
        yield f"check: {report.verdict.value}, {report.matched} of {report.of}: {told}"[:400]
        return
    yield from _mutants(contents, base, layout)
    adapter = BytesFiles(contents)
    yield from (f"merge: {fault}" for fault in _differences(name, adapter, base, place, reference))
    for target in ("peft-normalized", "mlx", "gguf"):
        try:
            made = convert(adapter, target, layout)  # type: ignore[arg-type]
        except NotConvertible:
            continue
        after, disagreement = gate.judge(made, layout)
        if disagreement:
            yield f"converted to {target}, push: {disagreement}"
        if after.verdict is not Verdict.FITS or after.matched != report.matched:
            yield f"converted to {target}: {after.verdict.value}, {after.matched} of {report.matched}"
        elif target != "gguf":  # whose rows are llama.cpp's; tests/conversion holds those against it
            yield from (
                f"converted to {target}: {one}" for one in _differences(name, BytesFiles(made), base, place, reference)
            )
    yield from _in_session(name, base, place)


def _differences(
    name: str, adapter: Files, base: Path, place: Path, reference: Mapping[str, torch.Tensor]
) -> Iterator[str]:
    """Between our merged model and PEFT's. PEFT's merge changes both sides of a tied weight, ours unties the two."""
    write_model(planned(FolderFiles(base), adapter), place / "ours")
    ours = _tensors(place / "ours")
    shutil.rmtree(place / "ours")
    tied = _tied(name, base)
    untied = {key for key in ours.keys() - reference.keys() if key in tied}
    aside = untied | {tied[key] for key in untied}
    if unlike := reference.keys() ^ ours.keys() - untied:
        yield f"other tensors, {sorted(unlike)[:3]}"
    shared = (reference.keys() & ours.keys()) - aside
    apart = {key: _apart(ours[key], reference[key]) for key in shared if reference[key].numel()}
    if wrong := {key: value for key, value in apart.items() if not value <= MOST_DIFFERENCE}:
        worst = max(wrong, key=lambda key: wrong[key])
        yield f"{len(wrong)} of {len(apart)} tensors differ, {worst} by {wrong[worst]:.1e}"


def _tied(name: str, base: Path) -> dict[str, str]:
    """Output heads that are an embedding, and its weight."""
    return dict(getattr(_loaded(name, base), "all_tied_weights_keys", None) or {})


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    one, other = one.float(), other.float()
    return float(torch.where(one == other, 0.0, (one - other).abs()).max())  # of infinities too


def _contents(adapter: Path) -> dict[str, bytes]:
    return {name: (adapter / name).read_bytes() for name in (CONFIG, "adapter_model.safetensors")}


def _mutants(contents: Mapping[str, bytes], base: Path, layout: BaseLayout) -> Iterator[str]:
    """A file of which one tensor was renamed, cut, doubled or lost never fits, nor is it pushed or merged."""
    tensors = load(contents["adapter_model.safetensors"])
    name = sorted(tensors)[len(tensors) // 2]
    tensor = tensors[name]
    rest = {key: value for key, value in tensors.items() if key != name}
    for what, changed in {
        "a role renamed": rest | {name.replace(".lora_", ".lura_"): tensor},
        "a module renamed": rest | {name.replace(".lora_", "x.lora_"): tensor},
        "a tensor lost": rest,
        "rows cut": rest | {name: tensor[:-1].contiguous()},
        "columns cut": rest | {name: tensor[:, :-1].contiguous()},
        "a dimension more": rest | {name: tensor[None]},
        "a tensor doubled": tensors | {name.removeprefix("base_model.model."): tensor.clone()},
        "no elements": rest | {name: tensor[:0].contiguous()},
    }.items():
        mutant = {**contents, "adapter_model.safetensors": save(changed, {"format": "pt"})}
        report, disagreement = gate.judge(mutant, layout)
        if report.verdict in (Verdict.FITS, Verdict.COMPATIBLE):
            yield f"{what} ({name}): {report.verdict.value}"
        if disagreement:
            yield f"{what} ({name}), push: {disagreement}"
        if is_merged(FolderFiles(base), mutant):
            yield f"{what} ({name}): merged"


def _in_session(name: str, base: Path, place: Path) -> Iterator[str]:
    theirs = peft.PeftModel.from_pretrained(_loaded(name, base), place / "adapter").eval()
    given = _inputs(theirs)
    if given is None:
        return  # it asks for more than tokens; its weights were compared
    with Session(_loaded(name, base)) as session, torch.inference_mode():
        session.load("one", place / "adapter")
        session.use("one")
        ours, right = _output(session.model(**given)), _output(theirs(**given))
    apart = float((ours - right).abs().max())
    if not apart <= 1e-4 * max(1.0, float(right.abs().max())):
        yield f"session: differs by {apart:.1e}"


def _inputs(model: Any) -> dict[str, torch.Tensor] | None:
    """What the model takes alone: tokens, perhaps for a decoder too; None where it asks for pictures or sound."""
    ids = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8]])
    for given in ({"input_ids": ids}, {"input_ids": ids, "decoder_input_ids": ids[:, :3]}):
        try:
            with torch.inference_mode():
                if torch.isfinite(_output(model(**given))).all():
                    return given
        except Exception:  # noqa: BLE001  each class asks for what it needs in its own way
            continue
    return None


def _output(answer: Any) -> torch.Tensor:
    for field in ("logits", "last_hidden_state"):
        if getattr(answer, field, None) is not None:
            found: torch.Tensor = getattr(answer, field)
            return found
    raise ValueError("neither logits nor hidden states")


def _told(error: BaseException) -> str:
    return re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:160]


def main() -> None:
    transformers.logging.set_verbosity_error()
    for name in sys.argv[1:] or tiny.classes():
        for outcome in trials(name):
            print(json.dumps(outcome.__dict__), flush=True)


if __name__ == "__main__":
    main()
