"""What each of PEFT's methods writes for a module: the tensors' names, their roles, and the shapes that they ask for.

One row a method. What it computes is in `merging/formulas.py`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lorahub.adapters.formats.reading import Tensors, elements, rotation_size

Sides = tuple[tuple[int | None, ...], int | None]
"""((out, in) as far as the method fixes them, rank)."""


def _no_side(_: Tensors, __: Mapping[str, Any]) -> Sides:
    return (None, None), None


@dataclass(frozen=True, slots=True)
class PeftMethod:
    """`tensors` and `shared` lead from the end of a name to a role; the shared ones lie once for all modules.

    `required` has the roles without which there is no update ("a|b": one of them), `least` the dimensions that they
    have at least where that isn't said by the role, `equal` what has to be one number, as (role, dimension).
    """

    tensors: Mapping[str, str]
    required: tuple[str, ...] = ()
    shared: Mapping[str, str] = field(default_factory=dict)
    equal: tuple[tuple[tuple[str, int], ...], ...] = ()
    sides: Callable[[Tensors, Mapping[str, Any]], Sides] = _no_side
    least: Mapping[str, int] = field(default_factory=dict)

    def required_of(self, tensors: Tensors) -> tuple[str, ...]:
        """The roles, one of each that has others in its place."""
        return tuple(
            next((one for one in role.split("|") if one in tensors), role.partition("|")[0]) for role in self.required
        )

    def equal_sizes(self, tensors: Tensors) -> Iterator[dict[str, int]]:
        for group in self.equal:
            yield {
                role: tensors[role].shape[axis]
                for role, axis in group
                if role in tensors and axis < len(tensors[role].shape)
            }


def _of_factors(out: str, width: str, rank: str) -> Callable[[Tensors, Mapping[str, Any]], Sides]:
    """Outputs and rank are told by the first two roles' shapes as (out, …) and (rank, in)."""
    return lambda tensors, _: ((tensors[out].shape[0], tensors[width].shape[1]), tensors[rank].shape[0])


def _ia3(tensors: Tensors, _: Mapping[str, Any]) -> Sides:
    """For outputs; the reader, who knows which modules are feed-forward ones, turns it."""
    return (elements(tensors["factor"]), None), None


def _oft(tensors: Tensors, raw: Mapping[str, Any]) -> Sides:
    blocks, triangle = tensors["rotation"].shape[0], tensors["rotation"].shape[-1]
    return (None, None if raw.get("block_share") is True else blocks * rotation_size(triangle)), None


def _boft(tensors: Tensors, _: Mapping[str, Any]) -> Sides:
    shape = tensors["rotation"].shape
    return (tensors["factor"].shape[0], shape[-3] * shape[-1]), None


def _miss(tensors: Tensors, raw: Mapping[str, Any]) -> Sides:
    """`block` is (rank, out); "mini" repeats the columns it has; "bat" has (out / rank, rank, rank)."""
    block = tensors["block"].shape
    if len(block) == 3:
        return (block[0] * block[1], None), block[1]
    return (None if raw.get("init_weights") == "mini" else block[1], None), block[0]


def _gralora(tensors: Tensors, _: Mapping[str, Any]) -> Sides:
    count, part, rank = tensors["down_blocks"].shape
    return (count * tensors["up_blocks"].shape[-1], count * part), rank


def _c3a(tensors: Tensors, _: Mapping[str, Any]) -> Sides:
    rows, columns, size = tensors["kernel"].shape
    return (rows * size, columns * size), None


def _vblora(tensors: Tensors, _: Mapping[str, Any]) -> Sides:
    up = tensors["up_choices" if "up_choices" in tensors else "up_logits"].shape
    down = tensors["down_choices" if "down_choices" in tensors else "down_logits"].shape
    length = tensors["bank"].shape[1]
    return (up[0] * length, down[1] * length), down[0]


def _road(tensors: Tensors, raw: Mapping[str, Any]) -> Sides:
    count = elements(tensors["angles"])
    return ({"road_2": count, "road_4": count // 2}.get(str(raw.get("variant")), 2 * count), None), None


def _supertuning(tensors: Tensors, _: Mapping[str, Any]) -> Sides:
    if "down" not in tensors or "up" not in tensors:
        return (None, None), None
    return (tensors["up"].shape[0], tensors["down"].shape[1]), tensors["down"].shape[0]


def _deft(tensors: Tensors, _: Mapping[str, Any]) -> Sides:
    out, rank = tensors["projection"].shape
    return (out, tensors["right"].shape[1] if "right" in tensors else None), rank


def _osf(tensors: Tensors, _: Mapping[str, Any]) -> Sides:
    return (tensors["left"].shape[0], tensors["right"].shape[1]), elements(tensors["values"])


METHODS: Mapping[str, PeftMethod] = {
    "lora": PeftMethod(
        {
            "lora_A.weight": "down",
            "lora_B.weight": "up",
            "lora_B.bias": "up_bias",
            "lora_A": "down",
            "lora_B": "up",
            "lora_E": "diagonal",
            "lora_diag": "diagonal",
            "lora_magnitude_vector": "magnitude",
            "lora_magnitude_vector.weight": "magnitude",
            "lora_velora_embed": "ignored",
        }
    ),
    "embedding": PeftMethod({"lora_embedding_A": "down", "lora_embedding_B": "up"}),
    "loha": PeftMethod(
        {
            "hada_w1_a": "w1_a",
            "hada_w1_b": "w1_b",
            "hada_w2_a": "w2_a",
            "hada_w2_b": "w2_b",
            "hada_t1": "t1",
            "hada_t2": "t2",
        }
    ),
    "lokr": PeftMethod(
        {
            "lokr_w1": "w1",
            "lokr_w1_a": "w1_a",
            "lokr_w1_b": "w1_b",
            "lokr_w2": "w2",
            "lokr_w2_a": "w2_a",
            "lokr_w2_b": "w2_b",
            "lokr_t2": "t2",
        }
    ),
    "hira": PeftMethod({"hira_A": "down", "hira_B": "up"}),
    "ia3": PeftMethod({"ia3_l": "factor"}, ("factor",), sides=_ia3),
    "vera": PeftMethod(
        {"vera_lambda_b": "lambda_b", "vera_lambda_d": "lambda_d"},
        ("lambda_b", "lambda_d"),
        {"vera_A": "shared_down", "vera_B": "shared_up"},
        sides=lambda tensors, _: ((elements(tensors["lambda_b"]), None), elements(tensors["lambda_d"])),
    ),
    "pvera": PeftMethod(
        {"pvera_lambda_b": "lambda_b", "pvera_lambda_d": "lambda_d"},
        ("lambda_b", "lambda_d"),
        {"pvera_A": "shared_down", "pvera_B": "shared_up"},
        sides=lambda tensors, _: ((elements(tensors["lambda_b"]), None), elements(tensors["lambda_d"]) // 2),
    ),
    "oft": PeftMethod({"oft_R.weight": "rotation", "oft_R": "rotation"}, ("rotation",), sides=_oft),
    "boft": PeftMethod(
        {"boft_R": "rotation", "boft_s": "factor"}, ("rotation", "factor"), sides=_boft, least={"rotation": 3}
    ),
    "hra": PeftMethod(
        {"hra_u": "reflections"},
        ("reflections",),
        sides=lambda tensors, _: ((None, tensors["reflections"].shape[0]), tensors["reflections"].shape[1]),
    ),
    "delora": PeftMethod(
        {"delora_A": "down", "delora_B": "up", "delora_lambda": "strength", "delora_w_norm": "input_norm"},
        ("down", "up", "strength", "input_norm"),
        equal=((("down", 0), ("up", 1)), (("down", 1), ("input_norm", 0))),
        sides=_of_factors("up", "down", "down"),
    ),
    "miss": PeftMethod({"miss_block": "block"}, ("block",), sides=_miss),
    "gralora": PeftMethod(
        {
            "gralora_A": "down_blocks",
            "gralora_B": "up_blocks",
            "gralora_A_general.weight": "down",
            "gralora_B_general.weight": "up",
        },
        ("down_blocks", "up_blocks"),
        equal=(
            (("down_blocks", 0), ("up_blocks", 0)),
            (("down_blocks", 2), ("up_blocks", 1)),
            (("down", 0), ("up", 1)),
        ),
        sides=_gralora,
    ),
    "c3a": PeftMethod({"c3a_kernel": "kernel"}, ("kernel",), sides=_c3a),
    "vblora": PeftMethod(
        {
            "vblora_logits_A": "down_logits",
            "vblora_logits_B": "up_logits",
            "vblora_logits_A_topk_indices": "down_choices",
            "vblora_logits_A_topk_weights": "down_shares",
            "vblora_logits_B_topk_indices": "up_choices",
            "vblora_logits_B_topk_weights": "up_shares",
        },
        ("bank", "down_logits|down_choices", "up_logits|up_choices"),
        {"vblora_vector_bank": "bank"},
        equal=((("bank", 0), ("down_logits", 2), ("up_logits", 2)), (("down_logits", 0), ("up_logits", 1))),
        sides=_vblora,
        least={"bank": 2},
    ),
    "unilora": PeftMethod(
        {
            "unilora_indices_A": "down_places",
            "unilora_indices_B": "up_places",
            "unilora_scales_A": "down_scales",
            "unilora_scales_B": "up_scales",
        },
        ("bank", "down_places", "up_places", "down_scales", "up_scales"),
        {"unilora_theta_d": "bank"},
        equal=((("down_places", 0), ("up_places", 1)),),
        sides=_of_factors("up_places", "down_places", "down_places"),
    ),
    "randlora": PeftMethod(
        {
            "randlora_A": "copied_down",
            "randlora_B": "copied_up",
            "randlora_lambda": "lambda_r",
            "randlora_gamma": "gamma",
        },
        ("lambda_r", "gamma"),
        {"randlora_A": "shared_down", "randlora_B": "shared_up"},
        equal=((("lambda_r", 0), ("shared_down", 0), ("shared_up", 2)), (("lambda_r", 1), ("gamma", 0))),
        sides=lambda tensors, _: ((None, None), tensors["lambda_r"].shape[0]),
    ),
    "shira": PeftMethod({"shira_weight": "values", "shira_indices": "indices"}, ("values", "indices")),
    "supertuning": PeftMethod(
        {
            "supertuning_values": "values",
            "supertuning_indices": "places",
            "supertuning_lora_A.weight": "down",
            "supertuning_lora_B.weight": "up",
        },
        ("values", "places"),
        equal=((("values", 0), ("places", 0)), (("down", 0), ("up", 1))),
        sides=_supertuning,
    ),
    "fourierft": PeftMethod({"fourierft_spectrum": "spectrum"}, ("spectrum",)),
    "waveft": PeftMethod({"waveft_spectrum": "spectrum"}, ("spectrum",)),
    "road": PeftMethod(
        {"road_theta": "angles", "road_alpha": "lengths"},
        ("angles", "lengths"),
        equal=((("angles", 0), ("lengths", 0)),),
        sides=_road,
    ),
    "deft": PeftMethod(
        {"deft_P": "projection", "deft_R": "right"},
        ("projection",),
        equal=((("projection", 1), ("right", 0)),),
        sides=_deft,
    ),
    "osf": PeftMethod(
        {"osf_svd_params.U_low": "left", "osf_svd_params.S_low": "values", "osf_svd_params.V_low": "right"},
        ("left", "values", "right"),
        equal=((("left", 1), ("values", 0), ("right", 0)),),
        sides=_osf,
    ),
    "peanut": PeftMethod(
        {"peanut_A.weight": "down", "peanut_B.weight": "up"},
        ("down", "up"),
        equal=((("down", 0), ("up", 1)), (("down", 1), ("up", 0))),
        sides=lambda tensors, _: ((tensors["up"].shape[0], None), tensors["up"].shape[1]),
    ),
    "ln_tuning": PeftMethod({"ln_tuning_layers.weight": "weight", "ln_tuning_layers.bias": "bias"}),
    "tokens": PeftMethod({"trainable_tokens_delta": "rows"}),
    "adaption_prompt": PeftMethod({"adaption_prompt": "prompt", "adaption_gate": "gate"}),
}
"""Family -> what it writes. AdaLoRA's factors are LoRA's, without `.weight`."""

SUFFIXES = {end: (family, role) for family, method in METHODS.items() for end, role in method.tensors.items()}
"""What a tensor's name ends in -> (family, role)."""

SHARED = {name: role for method in METHODS.values() for name, role in method.shared.items()}
"""Tensors of no module, for all of them -> role."""

TYPES_READ = frozenset(name.upper() for name in METHODS) - {"EMBEDDING", "TOKENS"} | {"ADALORA", "TRAINABLE_TOKENS"}
"""The `peft_type`s whose tensors all have a row."""
