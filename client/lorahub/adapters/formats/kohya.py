"""kohya-ss, ComfyUI and LyCORIS: one file, module names with every dot an underscore, settings in the header.

A folded name is ambiguous by itself; it is looked up among the base's own names, folded alike, never split.
"""

from collections.abc import Iterable, Mapping

from lorahub.adapters.adapter import Adapter, BaseClaim, Naming, Part, PartKind, Update
from lorahub.adapters.formats import reading as methods
from lorahub.adapters.formats.opened import Opened
from lorahub.adapters.formats.reading import Reading, Tensors
from lorahub.adapters.safetensors_header import TensorEntry

PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_", "lora_transformer_", "lycoris_")

_ROLES = {
    "lora_down.weight": ("lora", "down"),
    "lora_up.weight": ("lora", "up"),
    "lora_mid.weight": ("lora", "mid"),
    "lora_A.weight": ("lora", "down"),
    "lora_B.weight": ("lora", "up"),
    "dora_scale": ("", "magnitude"),
    "alpha": ("", "alpha"),
    "hada_w1_a": ("loha", "w1_a"),
    "hada_w1_b": ("loha", "w1_b"),
    "hada_w2_a": ("loha", "w2_a"),
    "hada_w2_b": ("loha", "w2_b"),
    "hada_t1": ("loha", "t1"),
    "hada_t2": ("loha", "t2"),
    "lokr_w1": ("lokr", "w1"),
    "lokr_w1_a": ("lokr", "w1_a"),
    "lokr_w1_b": ("lokr", "w1_b"),
    "lokr_w2": ("lokr", "w2"),
    "lokr_w2_a": ("lokr", "w2_a"),
    "lokr_w2_b": ("lokr", "w2_b"),
    "lokr_t2": ("lokr", "t2"),
    "diff": ("full", "weight"),
    "diff_b": ("", "bias"),
    "w_norm": ("full", "weight"),
    "b_norm": ("", "bias"),
    "on_input": ("", "on_input"),
    "weight": ("ia3", "growth"),
    "oft_blocks": ("oft", "blocks"),
    "rescale": ("", "rescale"),
}
_FLAT = frozenset({"alpha", "diff", "diff_b", "w_norm", "b_norm", "on_input", "weight", "rescale", "dora_scale"})


def is_kohya(opened: Opened) -> bool:
    return any(name.startswith((*PREFIXES, "oft_unet_")) and name.partition(".")[2] in _ROLES for name in opened.names)


def read_kohya(opened: Opened) -> Adapter:
    """A module without a known alpha has the scale that `ss_network_alpha` says, else 1 (kohya: alpha = dim)."""
    reading, metadata, alphas = Reading(), opened.metadata, opened.alphas()
    groups = _groups(opened.entries, reading)
    for module, tensors in groups.items():
        _make(module, tensors, reading, metadata, alphas)
    reading.close()
    methods_used = [update.method for update in reading.updates]
    return Adapter(
        format="kohya",
        method=max(set(methods_used), key=methods_used.count) if methods_used else "lora",
        updates=tuple(reading.updates),
        parts=tuple(reading.parts),
        naming=Naming.FOLDED,
        claim=_claim(metadata),
        findings=tuple(reading.findings),
        weights_file=opened.path,
        dtypes=methods.count_elements(opened.entries),
    )


def _groups(entries: Iterable[TensorEntry], reading: Reading) -> dict[str, dict[str, TensorEntry]]:
    groups: dict[str, dict[str, TensorEntry]] = {}
    flat = lambda name: name.partition(".")[2] in _FLAT  # noqa: E731
    for entry in methods.check_entries(entries, reading, allow_flat=flat):
        module, _, ending = entry.name.partition(".")
        if ending in _ROLES and module.startswith((*PREFIXES, "oft_unet_")):
            role = methods.magnitude_role(entry) if ending == "dora_scale" else _ROLES[ending][1]
            groups.setdefault(module, {})[role] = entry
        else:
            reading.unknown.append(entry)
    return groups


def _make(
    module: str, tensors: Tensors, reading: Reading, metadata: Mapping[str, str], alphas: Mapping[str, float]
) -> None:
    def scale(rank: int) -> float:
        alpha = alphas.get(module, _stated_alpha(metadata) if "alpha" in tensors else None)
        return 1.0 if not alpha or not rank else alpha / rank

    roles = tensors.keys()
    update: Update | None = None
    if roles & {"w1_a", "w1_b", "w2_a", "w2_b"} and any(".hada_" in entry.name for entry in tensors.values()):
        update = methods.hadamard(module, tensors, reading, scale=scale)
    elif roles & {"w1", "w2", "w1_a", "w1_b", "w2_a", "w2_b"}:
        update = methods.kronecker(module, tensors, reading, scale=lambda rank: scale(rank) if rank else 1.0)
    elif "weight" in roles:
        entry = tensors["weight"]
        update = Update(module, "full", tensors, entry.shape)
    elif "growth" in roles:
        size = methods.elements(tensors["growth"])
        update = Update(module, "ia3", tensors, (None, size) if "on_input" in roles else (size, None))
    elif "blocks" in roles:
        blocks = tensors["blocks"].shape
        update = Update(module.replace("oft_unet_", "lora_unet_"), "oft", tensors, (blocks[0] * blocks[1], None))
    elif roles - {"bias"}:
        update = methods.low_rank(module, tensors, reading, scale=scale)
    if update is not None:
        reading.updates.append(update)
    if "bias" in roles:
        bias = tensors["bias"]
        reading.parts.append(Part(PartKind.BIAS_DELTA, module, {"bias": bias}, bias.shape, "bias"))


def _stated_alpha(metadata: Mapping[str, str]) -> float | None:
    try:
        value = float(metadata.get("ss_network_alpha", ""))
    except ValueError:
        return None
    return value if 0 < value < 1e6 else None


def _claim(metadata: Mapping[str, str]) -> BaseClaim:
    """`ss_new_sd_model_hash` is the sha256 of the base's file."""
    digest = metadata.get("ss_new_sd_model_hash", "")
    name = metadata.get("ss_sd_model_name") or metadata.get("modelspec.architecture")
    files = {metadata.get("ss_sd_model_name", "base"): digest} if len(digest) == 64 else {}
    return BaseClaim(name=name, files=files, names_all_files=False)
