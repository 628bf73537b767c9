"""adapter_config.json, as PEFT 0.21 writes and applies it: its words, and what they come to for a module."""

from collections.abc import Mapping
from typing import Any

from lorahub.adapters.adapter import Scaling
from lorahub.adapters.base_changes import base_change
from lorahub.adapters.patterns import Names, Patterns, endings
from lorahub.adapters.selection import Selection
from lorahub.errors import InvalidAdapterConfig

SETTINGS = frozenset(
    """
    _custom_modules ab_svd_init act_fn adapter_layers adapter_len adapters alora_invocation_tokens alpha
    alpha_pattern apply_GS arrow_config asa_importance_beta asa_schedule_exponent asa_target_subspaces
    asa_uncertainty_beta auto_mapping auxiliary_loss_weight base_model_name_or_path beta1 beta2 bias block_share
    block_size block_size_pattern boft_block_num boft_block_size boft_dropout boft_n_butterfly_factor
    cayley_neumann_eps coft config_A_B config_C config_D_E corda_config cpt_mask cpt_token_ids
    cpt_tokens_type_mask d_initial decompose_both decompose_factor decomposition_method deft_dropout
    delora_lambda deltaT depth effective_rank enable_softmax enable_softmax_topk encoder_dropout
    encoder_hidden_size encoder_num_layers encoder_reparameterization_type ensure_weight_tying eps eva_config
    exclude_modules fan_in_fan_out feedforward_modules final_warmup frod_dropout generator_seed
    global_scaling_weight gralora_dropout gralora_k group_size hidden_size hira_dropout hybrid_r inference_mode
    init_ia3_weights init_logits_std init_lora_weights init_r init_scale init_theta_d_bound init_v_bound
    init_vector_bank_bound init_warmup init_weights kasa_config lambda_pattern layer_replication layers_pattern
    layers_to_transform layerwise_scalings loftq_config lora_alpha lora_bias lora_dropout lora_ga_config
    mask_interval mask_type megatron_config megatron_core mini_r miss_dropout module_dropout modules_to_save
    monteclora_config n_frequency n_frequency_pattern n_skills n_splits n_tasks num_B num_attention_heads
    num_cayley_neumann_terms num_frozen_tokens num_layers num_ranks num_subspaces num_tasks
    num_transformer_submodules num_vectors num_virtual_tokens oft_block_size opt_loss_decay_factor
    opt_projection_epsilon opt_projection_format_epsilon opt_weighted_loss_type orth_reg_weight para peft_type
    peft_version poly_type prefix_projection progressbar proj_seed projection_prng_key projection_seed
    prompt_tuning_init prompt_tuning_init_state_dict_path prompt_tuning_init_task prompt_tuning_init_text
    proportional_parameters psoft_alpha psoft_dropout psoft_mag_a psoft_mag_b psoft_orth psoft_svd
    psoft_svd_lowrank_niter pvera_dropout qalora_group_size r randlora_alpha randlora_dropout random_loc_seed
    random_seed rank_dropout rank_dropout_scale rank_pattern regularization_alpha revision runtime_config
    runtime_offload_base_weight sample_at_inference save_indices save_only_topk_weights save_precomputed_indices
    save_projection scaling scaling_pass_value select_top shadow_alpha shadow_dropout shadow_hidden_size
    shadow_intermediate_size shadow_model shadow_num_attention_heads shadow_num_hidden_layers share_embeddings
    softmax_temperature sparse sparse_rate sparsity stride_A subspace_rank svd_threshold target_modules
    target_parameters target_r target_svd_config task_type tfinal theta_d_length tinit tinylora_dropout
    token_dim token_indices tokenizer_kwargs tokenizer_name_or_path top_k_lora topk total_step
    trainable_token_indices u unilora_dropout update_hidden_size use_asa use_bdlora use_cayley_neumann use_dora
    use_dynamic_rank use_effective_conv2d use_idwt use_qalora use_rslora use_trainable_adapters variant
    vblora_dropout vector_length velora_config vera_dropout very_sparse wavelet_family weight_tying xlora_depth
    xlora_dropout_p xlora_size
    """.split()
)
"""Every setting of every method."""

TYPES = frozenset(
    """
    ADALORA ADAMSS ADAPTION_PROMPT BEFT BOFT C3A CARTRIDGE CPT DEFT DELORA FOURIERFT FROD GLORA GRALORA HIRA HRA
    IA3 LILY LN_TUNING LOHA LOKR LORA MISS MULTITASK_PROMPT_TUNING OFT OSF PEANUT POLY PREFIX_TUNING
    PROMPT_TUNING PSOFT PVERA P_TUNING RANDLORA ROAD SHADOW SHIRA SUPERTUNING TINYLORA TRAINABLE_TOKENS UNILORA
    VBLORA VERA WAVEFT XLORA
    """.split()
)
"""Every `peft_type`."""

_NUMBERS = {
    "vblora": ("topk", 1, 2),
    "road": ("group_size", 2, 64),
    "fourierft": ("random_loc_seed", 0, 777),
    "waveft": ("random_loc_seed", 0, 777),
}
"""Family -> the setting that its formula needs, the least that it is, what it is where it isn't said."""
_VARIANTS = {
    "deft": ("decomposition_method", "relu"),
    "waveft": ("wavelet_family", "db1"),
    "peanut": ("act_fn", "relu"),
}
_SCALINGS = {"fourierft": 150.0, "waveft": 25.0, "peanut": 1.0}
"""Family -> what `scaling` is where it isn't said."""
_TERMS = 5
_MOST_LAYERS = 10_000
_MOST_BLOCKS = 1024
_OF_ACTIVATIONS = ("alora_invocation_tokens", "use_qalora", "arrow_config", "use_bdlora")


class PeftSettings:
    """adapter_config.json as PEFT applies it to one module."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw
        self.rank = _number(raw.get("r", raw.get("init_r")), 8)
        self.alpha = _number(raw.get("lora_alpha", raw.get("alpha")), 8)
        self.ranks = Patterns(_patterns(raw.get("rank_pattern")))
        self.alphas = Patterns(_patterns(raw.get("alpha_pattern")))
        self.selection = _selection(raw)
        self.base_change = base_change(raw.get("init_lora_weights"), is_kasa=bool(raw.get("kasa_config")))
        self.replication = _ranges(raw.get("layer_replication"))
        self.terms = _terms(raw)
        self._feedforward = Names(_names(raw.get("feedforward_modules")) or ())
        self._parameters: dict[str, list[str]] = {}
        for parameter in _list(raw.get("target_parameters")):
            owner, _, leaf = parameter.rpartition(".")
            self._parameters.setdefault(owner, []).append(leaf)

    @property
    def scaling(self) -> Scaling:
        return Scaling(
            self.rank,
            self.alpha,
            is_root=self.raw.get("use_rslora") is True,
            has_patterns=bool(self.ranks or self.alphas),
        )

    @property
    def start(self) -> str | bool | None:
        start = self.raw.get("init_lora_weights")
        return start if isinstance(start, str | bool) else None

    @property
    def dropout(self) -> float:
        dropout = self.raw.get("lora_dropout")
        return float(dropout) if isinstance(dropout, int | float) else 0.0

    @property
    def obstacle(self) -> str | None:
        """The setting by which the adapter acts on activations."""
        return next((key for key in _OF_ACTIVATIONS if self.raw.get(key)), None)

    def blocks_of(self, module: str) -> tuple[int, int]:
        """BD-LoRA's diagonal blocks in lora_A and in lora_B; 1 where the factor is a whole one."""
        said = self.raw.get("use_bdlora")
        told = said if isinstance(said, dict) else {}
        count = told.get("nblocks")
        blocks = count if isinstance(count, int) and 0 < count <= _MOST_BLOCKS else 1

        def of(key: str) -> int:
            return blocks if any(name in module for name in _list(told.get(key))) else 1

        return of("target_modules_bd_a"), of("target_modules_bd_b")

    def rank_of(self, module: str) -> float:
        return self.ranks.value(module, self.rank)

    def alpha_of(self, module: str) -> float:
        return self.alphas.value(module, self.alpha)

    def scale(self, module: str, rank: int) -> float:
        """Alpha / r, with rsLoRA alpha / √r."""
        root = self.raw.get("use_rslora") is True
        return self.alpha_of(module) / (rank**0.5 if root else rank)

    def scale_of(self, family: str, rank: int | None) -> float:
        """What methods multiply by that are neither LoRA nor of its kin."""
        if family == "gralora":
            hybrid = _number(self.raw.get("hybrid_r"), 0)
            return _number(self.raw.get("alpha"), 64) / ((rank or self.rank) + hybrid or 1)
        if family == "randlora":
            return _number(self.raw.get("randlora_alpha"), 640) / (rank or self.rank or 1)
        if family == "supertuning" or (family == "deft" and self.raw.get("alpha")):
            return self.alpha / (rank or 1)
        return _number(self.raw.get("scaling"), _SCALINGS[family]) if family in _SCALINGS else 1.0

    def number_of(self, family: str) -> int | None:
        if family == "oft":
            return self.terms
        if family in _NUMBERS:
            setting, least, default = _NUMBERS[family]
            given = self.raw.get(setting)
            return given if isinstance(given, int) and given >= least else default
        return None

    def variant_of(self, family: str) -> str:
        if family == "hra":
            return "orthonormal" if self.raw.get("apply_GS") is True else ""
        if family == "waveft" and self.raw.get("use_idwt", True) is False:
            return ""
        setting, default = _VARIANTS.get(family, ("", ""))
        given = self.raw.get(setting)
        return given if isinstance(given, str) else default

    def is_feedforward(self, module: str) -> bool:
        return bool(self._feedforward.match(module))

    def parameters_of(self, module: str) -> tuple[set[str], set[str]]:
        """The bare parameters of the module that `target_parameters` means: those that it names with an owner, which
        the module has, and those that any module may have.
        """
        spelled = {leaf for ending in endings(module) for leaf in self._parameters.get(ending, ())}
        return spelled, set(self._parameters.get("", ()))


def _number(value: Any, default: float) -> float:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else default


def _patterns(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        return {}
    return {
        key: number for key, number in value.items() if isinstance(number, int | float) and not isinstance(number, bool)
    }


def _names(value: Any) -> tuple[str, ...] | str | None:
    return value if isinstance(value, str) else None if not isinstance(value, list) else _list(value)


def _list(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _selection(raw: Mapping[str, Any]) -> Selection:
    layers = raw.get("layers_to_transform")
    listed = [layers] if isinstance(layers, int) else layers
    return Selection(
        _names(raw.get("target_modules")),
        excluded=_names(raw.get("exclude_modules")) or (),
        layers=frozenset(n for n in listed if isinstance(n, int)) if isinstance(listed, list) else None,
        layer_parents=_list(raw.get("layers_pattern")),
        saved=_list(raw.get("modules_to_save")),
        parameters=_list(raw.get("target_parameters")),
    )


def _ranges(value: Any) -> tuple[tuple[int, int], ...]:
    """The layers that `layer_replication` asks for.

    Raises `InvalidAdapterConfig`: whoever left a wrong one out would make another model.
    """
    pairs = [] if value is None else value
    if not isinstance(pairs, list) or not all(_is_range(pair) for pair in pairs):
        raise InvalidAdapterConfig(
            f"`layer_replication` is {str(value)[:80]}; it is a list of [start, stop], layers from 0 to {_MOST_LAYERS}"
        )
    return tuple((start, stop) for start, stop in pairs)


def _is_range(pair: Any) -> bool:
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(number, int) and not isinstance(number, bool) for number in pair)
        and 0 <= pair[0] <= pair[1] <= _MOST_LAYERS
    )


def _terms(raw: Mapping[str, Any]) -> int | None:
    """How many terms the series has that stands for Cayley's transform."""
    if raw.get("use_cayley_neumann", True) is False:
        return None
    terms = raw.get("num_cayley_neumann_terms", _TERMS)
    return terms if isinstance(terms, int) else _TERMS
