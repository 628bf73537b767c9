"""What diffusers' files and kohya's have in common: what a tensor does by the end of its name, whether the module
before it is written with dots or with underscores, and the updates that are made of them.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from lorahub.adapters.adapter import Part, PartKind, Update
from lorahub.adapters.findings import Evidence
from lorahub.adapters.formats import reading as methods
from lorahub.adapters.formats.reading import Reading, Tensors
from lorahub.adapters.safetensors_header import TensorEntry

ROLES = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_mid.weight": "mid",
    "lora_linear_layer.down.weight": "down",
    "lora_linear_layer.up.weight": "up",
    "lora_B.bias": "up_bias",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "dora_scale": "magnitude",
    "alpha": "alpha",
    "hada_w1_a": "w1_a",
    "hada_w1_b": "w1_b",
    "hada_w2_a": "w2_a",
    "hada_w2_b": "w2_b",
    "hada_t1": "t1",
    "hada_t2": "t2",
    "lokr_w1": "w1",
    "lokr_w1_a": "w1_a",
    "lokr_w1_b": "w1_b",
    "lokr_w2": "w2",
    "lokr_w2_a": "w2_a",
    "lokr_w2_b": "w2_b",
    "lokr_t2": "t2",
    "diff": "weight",
    "diff_b": "bias",
    "w_norm": "weight",
    "b_norm": "bias",
    "on_input": "on_input",
    "oft_blocks": "blocks",
    "rescale": "rescale",
}
"""End of a tensor's name -> role."""

_FLAT = frozenset(
    "alpha lora_B.bias lora_magnitude_vector lora_magnitude_vector.weight dora_scale "
    "diff diff_b w_norm b_norm on_input rescale weight scale".split()
)
_ADAPTERS_NAME = re.compile(r"(.+\.lora_[AB])\.[^.]+(\.weight|\.bias)")


def ending_of(name: str) -> tuple[str, str] | None:
    """(module, end of the name), where the end is one that has a role. PEFT's name of the adapter is left out.

    >>> ending_of("unet.conv_in.lora_A.sql.weight"), ending_of("unet.conv_in.weight")
    (('unet.conv_in', 'lora_A.weight'), None)
    """
    match = _ADAPTERS_NAME.fullmatch(name)
    plain = match[1] + match[2] if match else name
    parts = plain.split(".")
    for count in (3, 2, 1):
        ending = ".".join(parts[-count:])
        if ending in ROLES and len(parts) > count:
            return plain[: -len(ending) - 1], ending
    return None


def may_be_flat(ending: str) -> bool:
    return ending in _FLAT


def without_embeddings(entries: Iterable[TensorEntry], reading: Reading) -> Iterator[TensorEntry]:
    """Tokens of their own that trainers bundle with an adapter are told of, and are no part of it."""
    bundled: list[Evidence] = []
    for entry in entries:
        if entry.name.startswith("bundle_emb.") or entry.name.rpartition(".")[2] == "emb_params":
            bundled.append(Evidence(entry.name))
        else:
            yield entry
    if bundled:
        message = f"{len(bundled)} embeddings of new tokens lie beside the adapter, first {bundled[0].name}"
        reading.add("LH223", message, bundled)


def role_of(entry: TensorEntry, ending: str) -> str:
    return methods.magnitude_role(entry) if ending == "dora_scale" else ROLES[ending]


def make_updates(module: str, tensors: Tensors, reading: Reading, scale: Callable[[int], float]) -> None:
    """What the tensors of one module do to its weight and its bias."""
    roles = tensors.keys()
    update: Update | None = None
    if roles & {"w1_a", "w1_b", "w2_a", "w2_b"} and any(".hada_" in entry.name for entry in tensors.values()):
        update = methods.hadamard(module, tensors, reading, scale=scale)
    elif roles & {"w1", "w2", "w1_a", "w1_b", "w2_a", "w2_b"}:
        update = methods.kronecker(module, tensors, reading, scale=lambda rank: scale(rank) if rank else 1.0)
    elif "weight" in roles:
        update = Update(module, "full", tensors, tensors["weight"].shape, parameters=("weight", "scale"))
    elif "growth" in roles:
        size = methods.elements(tensors["growth"])
        update = Update(module, "ia3", tensors, (None, size) if "on_input" in roles else (size, None))
    elif "blocks" in roles and methods.require(tensors, module, ("blocks",), reading):
        blocks = tensors["blocks"].shape
        update = Update(module.replace("oft_unet_", "lora_unet_"), "oft", tensors, (blocks[0] * blocks[1], None))
    elif roles - {"bias", "blocks"}:
        update = methods.low_rank(module, tensors, reading, scale=scale)
    if update is not None:
        reading.updates.append(update)
    if "bias" in roles:
        bias = tensors["bias"]
        reading.parts.append(Part(PartKind.BIAS_DELTA, module, {"bias": bias}, bias.shape, "bias"))


def method_of(updates: Iterable[Update]) -> str:
    used = [update.method for update in updates]
    return max(sorted(set(used)), key=used.count) if used else "lora"


def grouped(found: Iterable[tuple[str, str, TensorEntry]], reading: Reading) -> Mapping[str, dict[str, TensorEntry]]:
    """Module -> role -> tensor. A second tensor of the same meaning is LH215."""
    groups: dict[str, dict[str, TensorEntry]] = {}
    twice: list[Evidence] = []
    for module, role, entry in found:
        tensors = groups.setdefault(module, {})
        if role in tensors:
            twice.append(Evidence(entry.name, None, tensors[role].name))
        tensors[role] = entry
    if twice:
        message = f"{len(twice)} tensors have a second of the same meaning, first {twice[0].name}"
        reading.add("LH215", message, twice)
    return groups
