"""PEFT's own directories: adapter_config.json and adapter_model.safetensors, as PEFT 0.21 writes and reads them.

The tensors are the truth, the configuration is a claim: where the two disagree, a finding says so.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice

from lorahub.adapters.adapter import Adapter, BaseClaim, Part, PartKind, Shape, Update
from lorahub.adapters.adapter_config import AdapterConfig
from lorahub.adapters.findings import Evidence, shape_text
from lorahub.adapters.formats import reading as methods
from lorahub.adapters.formats.opened import Opened
from lorahub.adapters.formats.peft_methods import METHODS, SHARED, SUFFIXES, TYPES_READ, PeftMethod
from lorahub.adapters.formats.peft_settings import SETTINGS, TYPES, PeftSettings
from lorahub.adapters.formats.reading import Reading, Tensors
from lorahub.adapters.patterns import endings, is_saved
from lorahub.adapters.safetensors_header import TensorEntry
from lorahub.adapters.selection import MOST_SAVED

_FLAT_ROLES = frozenset(
    "up_bias magnitude diagonal lambda_b lambda_d spectrum values weight bias gate factor alpha strength "
    "input_norm places bank angles lengths".split()
)
_NO_METHOD = PeftMethod({})
_PROMPTS = {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE"}
_WRAPPERS = frozenset("_orig_mod _fsdp_wrapped_module _fpw_module _checkpoint_wrapped_module _forward_module".split())
"""What torch.compile, FSDP, activation checkpointing and DeepSpeed leave in names, wherever they wrapped a module."""
_EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "word_embeddings", "embed_in", "embed_out", "shared", "tok_embeddings")
_TWICE = ("classifier", "score")


def is_peft(opened: Opened) -> bool:
    """Whatever else has an adapter_config.json was recognised by it before."""
    return opened.config is not None


def read_peft(opened: Opened) -> Adapter:
    """Never raises: what can't be understood is a finding."""
    assert opened.config is not None  # it was recognised by it
    reader = _Reader(opened.config)
    reader.take(opened.entries)
    reader.check_claims()
    reader.reading.close()
    return reader.adapter(opened.path)


class _Reader:
    def __init__(self, config: AdapterConfig) -> None:
        self.config = config
        self.raw = config.raw
        self.settings = PeftSettings(config.raw)
        self.selection = self.settings.selection
        self.reading = Reading()
        self.groups: dict[tuple[str, str, int], dict[str, TensorEntry]] = {}
        self.names: dict[tuple[str, str, int], str] = {}
        self.shared: dict[str, TensorEntry] = {}
        self.doubles: dict[tuple[str, str], TensorEntry] = {}
        """(module, parameter) -> what lies under `modules_to_save`."""
        self.depths: Counter[str] = Counter()
        """Module -> how many LoRAs it has, each in the wrapper of a bare parameter."""
        self.parameters: dict[tuple[str, tuple[str, ...], int], str] = {}
        """Module, parameters and turn of an update -> the full name by which PEFT looks up rank and alpha."""
        self.twice: list[Evidence] = []
        self.owners: dict[str, str] = {}
        self.megatron: list[Evidence] = []
        """Factors of Megatron's and NeMo's, whose layers join q, k and v group by group: names don't tell how."""
        self.elements: Mapping[str, int] = {}
        self.copies = 0

    # --- tensors --------------------------------------------------------------------------------------------------

    def take(self, entries: Iterable[TensorEntry]) -> None:
        entries = list(entries)
        self.elements = methods.count_elements(entries)
        for entry in methods.check_entries(entries, self.reading, allow_flat=self._may_be_flat):
            self._sort(entry)
        self._join_embeddings()
        self._join_doubles()
        for module, family, nesting in self.groups:
            if family == "lora":
                self.depths[module] = max(self.depths[module], nesting + 1)
        for (module, family, nesting), tensors in self.groups.items():
            self._make(module, family, nesting, tensors)
        if self.megatron:
            told = f"{len(self.megatron)} tensors have names of Megatron's and NeMo's, first {self.megatron[0].name}"
            self.reading.add("LH306", f"{told}: export them to PEFT's with the tool that wrote them", self.megatron)
        if len(self.owners) > 1:
            names = ", ".join(owner or "(no name)" for owner in list(self.owners)[:5])
            evidence = [Evidence(tensor, owner) for owner, tensor in self.owners.items()]
            self.reading.add("LH215", f"the tensors are of {len(self.owners)} adapters: {names}", evidence)
        elif self.twice:
            self.reading.add(
                "LH215",
                f"{len(self.twice)} tensors have a second of the same meaning, first {self.twice[0].name}",
                self.twice,
            )

    def _join_embeddings(self) -> None:
        """DoRA's magnitude is called the same for embeddings, whose factors are called otherwise."""
        for module, family, nesting in list(self.groups):
            alone = self.groups.get((module, "lora", nesting), {})
            if family == "embedding" and alone.keys() == {"magnitude"}:
                self.groups[module, family, nesting] |= self.groups.pop((module, "lora", nesting))

    def _may_be_flat(self, name: str) -> bool:
        found = _suffix(name)
        return found is None or found.role in _FLAT_ROLES or self.config.peft_type not in TYPES_READ

    def _sort(self, entry: TensorEntry) -> None:
        name = _unwrapped(entry.name)
        if name == "prompt_embeddings":
            self._prompt(entry)
            return
        if name in SHARED:
            self.shared[SHARED[name]] = entry
            return
        found = _suffix(name)
        if found is None:
            self._other(name, entry)
            return
        self.owners.setdefault(found.owner, entry.name)
        module, nesting = _module(found.path)
        tensors = self.groups.setdefault((module, found.family, nesting), {})
        if found.role in tensors:
            self.twice.append(Evidence(entry.name, None, f"once; also {tensors[found.role].name}"))
        tensors[found.role] = entry

    def _other(self, name: str, entry: TensorEntry) -> None:
        """Whole tensors, biases, and the tensors of methods that are known by name only."""
        path, _, parameter = name.rpartition(".")
        if path.endswith((".linear_in", ".linear_out")) and ".adapter." in path:
            self.megatron.append(Evidence(entry.name, shape_text(entry.shape)))
            return
        own = f"{(self.config.peft_type or '').lower()}_"
        if any(part.startswith(own) for part in name.split(".")) and self.config.peft_type not in TYPES_READ:
            module = ".".join(part for part in name.partition(f".{own}")[0].split("."))
            self.groups.setdefault((module, "other", 0), {})[parameter] = entry
        elif parameter in ("weight", "bias") and not any(
            part.startswith(("lora_", "hada_", "lokr_")) for part in path.split(".")
        ):
            self._whole(path, parameter, entry)
        else:
            self.reading.unknown.append(entry)

    def _whole(self, path: str, parameter: str, entry: TensorEntry) -> None:
        path, owner = _saved(path)
        if owner is not None:
            self.owners.setdefault(owner, entry.name)
        module, nesting = _module(path)
        if path.endswith(".modules_to_save"):
            self.doubles[module, parameter] = entry
            return
        if path.endswith(".original_module") or (nesting and parameter == "weight"):
            kind = PartKind.BASE_COPY
        elif parameter == "bias" and not self.selection.saves(module):
            kind = PartKind.BIAS
        else:
            kind = PartKind.REPLACEMENT
        self.reading.parts.append(Part(kind, module, {parameter: entry}, entry.shape, parameter))

    def _join_doubles(self) -> None:
        """Where the vocabulary was resized, PEFT writes saved embeddings twice, and reads the plain name."""
        for number, part in enumerate(self.reading.parts):
            entry = self.doubles.get((part.module, part.parameter))
            if entry is None or part.kind is PartKind.BASE_COPY:
                continue
            del self.doubles[part.module, part.parameter]
            self.reading.parts[number] = replace(part, tensors={**part.tensors, "double": entry})
            if entry.shape != part.shape:
                found, expected = shape_text(entry.shape), shape_text(part.shape)
                self.reading.add("LH220", f"{entry.name} is {found}, its double is {expected}", [Evidence(entry.name)])
        for (module, parameter), entry in self.doubles.items():
            self.reading.missing.append(Evidence(module, entry.name, parameter))

    def _prompt(self, entry: TensorEntry) -> None:
        if not methods.require({"prompt": entry}, "prompt_embeddings", ("prompt",), self.reading):
            return
        kind = PartKind.PREFIX if self.config.peft_type == "PREFIX_TUNING" else PartKind.PROMPT
        self.reading.parts.append(Part(kind, "", {"embeddings": entry}, entry.shape, "prompt_embeddings"))

    # --- one module -----------------------------------------------------------------------------------------------

    def _make(self, module: str, family: str, nesting: int, tensors: Tensors) -> None:
        update: Update | None = None
        if family == "lora":
            update = self._lora(module, nesting, tensors)
        elif family == "embedding":
            update = methods.embedding(module, tensors, self.reading, scale=self._scale(module))
        elif family == "loha":
            update = methods.hadamard(module, tensors, self.reading, scale=self._plain_scale(module))
        elif family == "lokr":
            update = methods.kronecker(module, tensors, self.reading, scale=self._kron_scale(module))
        elif family == "hira":
            update = methods.low_rank(module, tensors, self.reading, method="hira", scale=lambda _: 1.0)
        elif family in ("ln_tuning", "tokens", "adaption_prompt"):
            self._part(module, family, tensors)
        else:
            update = self._shaped(module, family, tensors)
        if update is not None:
            self.reading.updates.append(update)

    def _scale(self, module: str) -> Callable[[int], float]:
        return lambda rank: self.settings.scale(module, rank)

    def _plain_scale(self, module: str) -> Callable[[int], float]:
        return lambda rank: self.settings.alpha_of(module) / rank

    def _kron_scale(self, module: str) -> Callable[[int | None], float]:
        """Alpha / r always, with the configured r where both factors are whole."""
        return lambda rank: self.settings.alpha_of(module) / (rank or self.settings.rank_of(module))

    def _lora(self, module: str, nesting: int, tensors: Tensors) -> Update | None:
        if self.config.peft_type == "ADALORA":
            return methods.low_rank(
                module,
                tensors,
                self.reading,
                method="adalora",
                scale=lambda rank: self.settings.alpha / (rank + 1e-5),
                transposed=self._is_transposed(),
            )
        if self.settings.blocks_of(module) != (1, 1):
            return self._blocks(module, tensors)
        parameters, turn, likeliest = self._parameters(module, nesting, tensors)
        if parameters:
            return self._parameter(f"{module}.{likeliest}", module, parameters, turn, tensors)
        return methods.low_rank(
            module, tensors, self.reading, scale=self._scale(module), transposed=self._is_transposed()
        )

    def _blocks(self, module: str, tensors: Tensors) -> Update | None:
        """BD-LoRA's: one factor has the diagonal blocks alone, one above the other."""
        if not methods.require(tensors, module, ("down", "up"), self.reading):
            return None
        in_down, in_up = self.settings.blocks_of(module)
        down, up = tensors["down"], tensors["up"]
        rank = down.shape[0]
        if not methods.agree({"down": rank, "up": up.shape[1] * in_up}, module, self.reading):
            return None
        return Update(
            module,
            "lora",
            tensors,
            (up.shape[0], down.shape[1] * in_down),
            rank,
            self.settings.scale(module, rank),
            transposed=self._is_transposed(),
        )

    def _is_transposed(self) -> bool:
        return self.raw.get("fan_in_fan_out") is True

    def _parameters(self, module: str, nesting: int, tensors: Tensors) -> tuple[tuple[str, ...], int, str]:
        """The module's bare parameters of which these may be the factors, which of those that the base has, and the
        likeliest.

        PEFT nests their wrappers: the module's first parameter has the deepest. It wraps those that the base has, so
        that the configuration may name more of them than there are wrappers.
        """
        depth = self.depths[module]
        if depth == 1 and self._is_layer(module, tensors):
            return (), 0, ""
        turn = depth - 1 - nesting
        spelled, bare = self.settings.parameters_of(module)
        named = spelled if len(spelled) == depth else spelled | bare
        ordered = sorted(named, key=_place_in_module)
        if len(ordered) < depth:
            return (), 0, ""
        possible = [one for one in _choices(ordered, depth) if self._is_of_one_stack(module, one)]
        likeliest = possible[0][turn] if possible else ordered[turn]
        return ((likeliest,), 0, likeliest) if len(possible) == 1 else (tuple(ordered), turn, likeliest)

    def _is_of_one_stack(self, module: str, parameters: tuple[str, ...]) -> bool:
        """Whether the module's parameters, if they are these, have all the same number of experts."""
        counts = set()
        for turn, parameter in enumerate(parameters):
            down = self.groups.get((module, "lora", len(parameters) - 1 - turn), {}).get("down")
            if down is not None:
                counts.add(down.shape[0] / (self.settings.rank_of(f"{module}.{parameter}") or 1))
        return len(counts - {1}) <= 1 and all(count == int(count) for count in counts)

    def _is_layer(self, module: str, tensors: Tensors) -> bool:
        """Whether the factors are of a layer that has a weight, rather than of a bare parameter."""
        covered = self.selection.covers(module)
        if covered is None and self.selection.targets is not None:  # "all-linear", or an expression that isn't tried
            return "down" in tensors and tensors["down"].shape[0] == self.settings.rank_of(module)
        return covered is True

    def _parameter(
        self, name: str, module: str, parameters: tuple[str, ...], turn: int, tensors: Tensors
    ) -> Update | None:
        """A stack has `down` (experts·r, in) expert by expert and `up` (out, r·experts) rank by rank; a parameter with
        two dimensions has what any layer has (PEFT `ParamWrapper`).
        """
        if not methods.require(tensors, module, ("down", "up"), self.reading):
            return None
        down, up = tensors["down"], tensors["up"]
        if not methods.agree({"down": down.shape[0], "up": up.shape[1]}, module, self.reading):
            return None
        rank = int(self.settings.rank_of(name))
        experts = down.shape[0] // rank if rank else 0
        if not experts or down.shape[0] % rank:
            evidence = [Evidence(down.name, str(down.shape[0]), f"a multiple of {rank}")]
            self.reading.add("LH203", f"{name}: {down.shape[0]} rows are no multiple of the rank {rank}", evidence)
            return None
        shape: Shape = (up.shape[0], down.shape[1])
        update = Update(
            module,
            "lora",
            tensors,
            shape if experts == 1 else (experts, *shape),
            rank,
            self.settings.scale(name, rank),
            parameters=parameters,
            turn=turn,
        )
        self.parameters[module, parameters, turn] = name
        return update

    def _shaped(self, module: str, family: str, tensors: Tensors) -> Update | None:
        """Methods that fix one side of the weight, or none."""
        row = METHODS.get(family, _NO_METHOD)
        every = {**tensors, **(self.shared if row.shared else {})}
        if not methods.require(every, module, row.required_of(every), self.reading, row.least):
            return None
        if not all(methods.agree(sizes, module, self.reading) for sizes in row.equal_sizes(every)):
            return None
        shape, rank = row.sides(every, self.raw)
        if family == "ia3" and self.settings.is_feedforward(module):
            shape = shape[::-1]
        return Update(
            module,
            self._method(family, every),
            every,
            shape,
            rank,
            self.settings.scale_of(family, rank),
            transposed=self._is_transposed(),
            number=self.settings.number_of(family),
            variant=self.settings.variant_of(family),
        )

    def _method(self, family: str, tensors: Tensors) -> str:
        if family == "other":
            return (self.config.peft_type or "other").lower()
        return "miss-bat" if family == "miss" and len(tensors["block"].shape) == 3 else family

    def _part(self, module: str, family: str, tensors: Tensors) -> None:
        add = self.reading.parts.append
        if family == "ln_tuning":
            for parameter, entry in tensors.items():
                add(Part(PartKind.REPLACEMENT, module, {parameter: entry}, entry.shape, parameter))
        elif family == "tokens":
            if not methods.require(tensors, module, ("rows",), self.reading):
                return
            rows = tensors["rows"]
            indices = self._token_indices(module)
            if indices and len(indices) != rows.shape[0]:
                evidence = [Evidence(rows.name, f"{rows.shape[0]} rows", f"{len(indices)} tokens")]
                self.reading.add("LH212", f"{module}: {len(indices)} token indices, {rows.shape[0]} rows", evidence)
            add(Part(PartKind.TOKEN_ROWS, module, tensors, (None, *rows.shape[1:]), indices=indices))
        elif methods.require(tensors, module, ("prompt", "gate"), self.reading):
            add(Part(PartKind.PREFIX, module, tensors, (None, tensors["prompt"].shape[-1]), "adaption_prompt"))

    def _token_indices(self, module: str) -> tuple[int, ...]:
        value = self.raw.get("trainable_token_indices", self.raw.get("token_indices"))
        if isinstance(value, dict):
            own = next((value[ending] for ending in endings(module) if ending in value), None)
            value = next(iter(value.values())) if own is None and len(value) == 1 else own  # a tied head has the same
        return tuple(item for item in value if isinstance(item, int)) if isinstance(value, list) else ()

    # --- claims ---------------------------------------------------------------------------------------------------

    def check_claims(self) -> None:
        self._check_type()
        self._check_ranks()
        self._check_flags()
        self._check_targets()
        self._check_saved()
        self._check_prompt()
        self._check_settings()

    def _check_type(self) -> None:
        kind = self.config.peft_type
        families = {family for _, family, _ in self.groups} - {"tokens", "ln_tuning"}
        own: dict[str, set[str | None]] = {
            "lora": {"LORA", "ADALORA", "QALORA"},
            "embedding": {"LORA"},
            "other": {kind},
        }
        if kind is not None and kind not in TYPES:
            self.reading.add("LH306", f"peft_type {kind[:60]!r} isn't known", [Evidence("peft_type", kind[:100])])
            return
        wrong = sorted(f for f in families if kind not in own.get(f, {f.upper()}))
        if wrong and not self.reading.unknown:
            evidence = [Evidence("peft_type", kind, ", ".join(w.upper() for w in wrong))]
            self.reading.add("LH212", f"peft_type is {kind}, the tensors are of {', '.join(wrong)}", evidence)

    def _check_ranks(self) -> None:
        wrong = []
        for update in self.reading.updates:
            if update.method not in ("lora", "adalora", "loha", "hira") or update.rank is None:
                continue
            expected = self.settings.rank_of(self._target(update))
            if self.config.peft_type == "ADALORA":
                continue  # ranks shrink while it trains; the tensors keep the first one
            if update.rank != expected:
                wrong.append(Evidence(update.module, str(update.rank), f"{expected:g}"))
        still = [update for update in self.reading.updates if update.scale == 0]
        if still:
            evidence = [Evidence(update.module, "scale 0", "lora_alpha above 0") for update in still]
            self.reading.add("LH203", f"lora_alpha is 0: {len(still)} updates are multiplied by 0", evidence)
        if wrong:
            first = wrong[0]
            self.reading.add(
                "LH203",
                f"{len(wrong)} modules have another rank than the configuration says, first {first.name}: "
                f"{first.found} instead of {first.expected}",
                wrong,
            )

    def _target(self, update: Update) -> str:
        """What PEFT calls the target: the module, or its bare parameter."""
        return self.parameters.get((update.module, update.parameters, update.turn), update.module)

    def _check_flags(self) -> None:
        if self.config.peft_type != "LORA":
            return
        plain = [update for update in self.reading.updates if update.method == "lora"]
        flags = (
            ("use_dora", "magnitude", "DoRA's magnitudes", self.raw.get("use_dora") is True),
            ("lora_bias", "up_bias", "biases of lora_B", self.raw.get("lora_bias") is True),
        )
        for flag, role, what, is_on in flags:
            having = [u for u in plain if role in u.tensors]
            lacking = [u for u in plain if role not in u.tensors]
            if is_on and lacking:
                evidence = [Evidence(u.module, None, role) for u in lacking]
                self.reading.add("LH212", f"{flag} is on, {len(lacking)} modules have no {what}", evidence)
            if having and not is_on:
                evidence = [Evidence(u.tensors[role].name) for u in having]
                self.reading.add("LH212", f"{flag} is off, {len(having)} modules have {what}", evidence)
        self._check_biases()

    def _check_biases(self) -> None:
        biases = [part for part in self.reading.parts if part.kind is PartKind.BIAS]
        mode = self.raw.get("bias", "none")
        if biases and mode == "none":
            evidence = [Evidence(next(iter(part.tensors.values())).name) for part in biases]
            self.reading.add("LH212", f"bias is none, the file has {len(biases)} biases", evidence)
        if not biases and mode in ("all", "lora_only") and self.reading.updates:
            self.reading.add("LH214", f"bias is {mode}, the file has no bias", [Evidence("bias", str(mode), "none")])

    def _check_targets(self) -> None:
        outside = [
            Evidence(update.module)
            for update in self.reading.updates
            if self.selection.covers(update.module) is False and self._target(update) == update.module
            if not (self.raw.get("ensure_weight_tying") is True and update.leaf in _EMBEDDINGS)
        ]
        if outside:
            self.reading.add(
                "LH213", f"{len(outside)} modules are outside target_modules, first {outside[0].name}", outside
            )
        unused = [Evidence("target_modules", name) for name in self._unused_targets()]
        for setting, patterns in (("rank_pattern", self.settings.ranks), ("alpha_pattern", self.settings.alphas)):
            modules = [self._target(update) for update in self.reading.updates]
            unused += [Evidence(setting, key) for key in patterns.unused(modules)]
        if unused and self.reading.updates:
            names = ", ".join(f"{piece.name} {piece.found}" for piece in unused[:5])
            self.reading.add("LH214", f"nothing in the file matches {names}", unused)

    def _unused_targets(self) -> Iterator[str]:
        """Only where tensors of targets are kept one by one, and nothing else explains their absence."""
        targets = self.selection.targets
        broken = self.reading.missing or self.reading.ranks or any(f.rule == "LH209" for f in self.reading.findings)
        if targets is None or isinstance(targets, str) or broken:
            return
        modules = [module for module, _, _ in self.groups]
        modules += [part.module for part in self.reading.parts]
        ends = {ending for module in modules for ending in endings(module)}
        yield from (name for name in targets if name not in ends)

    def _check_saved(self) -> None:
        if len(self.selection.saved) > MOST_SAVED:
            evidence = [Evidence("modules_to_save", f"{len(self.selection.saved)} names", f"at most {MOST_SAVED}")]
            self.reading.add("LH305", f"modules_to_save has {len(self.selection.saved)} names", evidence)
            return
        whole = [part for part in self.reading.parts if part.kind is PartKind.REPLACEMENT]
        if self.config.peft_type in ("LN_TUNING", "TRAINABLE_TOKENS"):
            return
        outside = [
            Evidence(next(iter(part.tensors.values())).name)
            for part in whole
            if not self.selection.saves(part.module) and part.leaf not in _EMBEDDINGS
        ]
        if outside:
            self.reading.add(
                "LH213", f"{len(outside)} whole tensors are not in modules_to_save, first {outside[0].name}", outside
            )
        unused = [name for name in self.selection.saved if not any(is_saved([name], part.module) for part in whole)]
        if set(unused) < set(_TWICE) and any(name in _TWICE for name in self.selection.saved if name not in unused):
            unused = []  # PEFT writes both names for every classifier
        if unused:
            evidence = [Evidence("modules_to_save", name) for name in unused]
            self.reading.add(
                "LH214", f"modules_to_save names {', '.join(unused[:5])}, the file has no such module", evidence
            )

    def _check_prompt(self) -> None:
        prompts = [part for part in self.reading.parts if part.parameter == "prompt_embeddings"]
        if self.config.peft_type in _PROMPTS and not prompts:
            self.reading.add("LH208", "prompt_embeddings is missing", [Evidence("prompt_embeddings")])
        claimed = self.raw.get("num_virtual_tokens")
        for part in prompts:
            if self.config.peft_type in ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING") and claimed not in (
                None,
                part.shape[0],
            ):
                evidence = [Evidence("prompt_embeddings", shape_text(part.shape), f"{claimed} rows")]
                self.reading.add("LH212", f"num_virtual_tokens is {claimed}, there are {part.shape[0]}", evidence)

    def _check_settings(self) -> None:
        unknown = sorted(set(self.raw) - SETTINGS)
        if unknown:
            evidence = [Evidence(key, str(self.raw[key])[:100]) for key in unknown]
            self.reading.add("LH217", f"not known: {', '.join(unknown[:8])}", evidence)
        if self.settings.base_change is not None:
            init = self.raw.get("init_lora_weights")
            is_kasa = self.settings.base_change.setting == "kasa_config"
            what = "kasa_config is set" if is_kasa else f"init_lora_weights is {init}"
            self.reading.add("LH216", what, [Evidence("init_lora_weights", str(init))])
        if self.raw.get("layer_replication"):
            self.reading.add(
                "LH219",
                f"layer_replication is {str(self.raw['layer_replication'])[:100]}",
                [Evidence("layer_replication", str(self.raw["layer_replication"])[:200])],
            )
        for warning in self.config.warnings:
            if not warning.startswith("`base_model_name_or_path`"):
                self.reading.add("LH307", warning, [Evidence(warning.split("`")[1])])

    # --- the whole ------------------------------------------------------------------------------------------------

    def adapter(self, weights_file: str) -> Adapter:
        kind, raw = self.config.peft_type, self.raw
        return Adapter(
            format="peft",
            method=(kind or "unknown").lower(),
            updates=tuple(self.reading.updates),
            parts=tuple(self.reading.parts),
            claim=BaseClaim(self.config.base_model, self.config.base_revision),
            base_change=self.settings.base_change,
            selection=self.selection,
            scaling=self.settings.scaling,
            replication=self.settings.replication,
            ties_weights=raw.get("ensure_weight_tying") is True,
            asks_for_biases=raw.get("bias", "none") != "none",
            is_block_diagonal=bool(raw.get("use_bdlora")),
            obstacle=self.settings.obstacle,
            start=self.settings.start,
            dropout=self.settings.dropout,
            findings=tuple(self.reading.findings),
            weights_file=weights_file,
            dtypes=self.elements,
        )


# --- names ------------------------------------------------------------------------------------------------------------


def as_saved(name: str) -> str:
    """A tensor's name as PEFT writes it: with its prefix, without wrappers and without the adapter's own name.

    >>> as_saved("module.model.layers.0._orig_mod.q_proj.lora_A.sql.weight")
    'base_model.model.model.layers.0.q_proj.lora_A.weight'
    """
    plain = _unwrapped(name)
    found = _suffix(plain)
    if found is None:
        path, _, parameter = plain.rpartition(".")
        return f"base_model.model.{_saved(path)[0]}.{parameter}"
    parts = plain.split(".")
    if found.owner:
        del parts[-1 if parts[-1] == found.owner else -2]
    return f"base_model.model.{'.'.join(parts)}"


def _unwrapped(name: str) -> str:
    """Without the wrappers of PeftModel, torch.compile, FSDP, checkpointing and data parallelism.

    >>> _unwrapped("module.base_model.model.model.layers.0._fsdp_wrapped_module.mlp.up_proj.lora_A.weight")
    'model.layers.0.mlp.up_proj.lora_A.weight'
    """
    name = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
    outer = _without_module(name)
    inner = outer.removeprefix("base_model.model.")
    return _without_module(inner) if inner != outer else outer.removeprefix("base_model.")


def _without_module(name: str) -> str:
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


@dataclass(frozen=True, slots=True)
class _Factor:
    """What the name of a factor says. `owner` is the adapter's own name, which PEFT leaves out where it saves."""

    path: str
    family: str
    role: str
    owner: str = ""


def _suffix(name: str) -> _Factor | None:
    """None for what is no factor.

    >>> _suffix("q_proj.lora_A.sql.weight")
    _Factor(path='q_proj', family='lora', role='down', owner='sql')
    """
    parts = name.split(".")
    for count in (2, 1, 3):
        path, ending = parts[:-count], parts[-count:]
        if not path:
            continue
        owner, found = "", SUFFIXES.get(".".join(ending))
        if found is None and count > 1 and ending[1] not in ("weight", "bias"):
            owner, found = ending[1], SUFFIXES.get(".".join([ending[0], *ending[2:]]))
        if found:
            return _Factor(".".join(path).removesuffix(".token_adapter"), *found, owner)
    return None


def _saved(path: str) -> tuple[str, str | None]:
    """The path without `modules_to_save.<adapter>`, and the adapter's name, where it is there.

    >>> _saved("score.modules_to_save.sql"), _saved("score")
    (('score', 'sql'), ('score', None))
    """
    module, wrapped, rest = path.partition(".modules_to_save.")
    if not wrapped:
        return path, None
    owner, _, inner = rest.partition(".")
    return f"{module}.{inner}" if inner else module, owner


def _module(path: str) -> tuple[str, int]:
    """The module, and how many wrappers of bare parameters lie around it: `mlp.experts.base_layer` is (mlp.experts, 1).

    >>> _module("mlp.experts.base_layer"), _module("attn.base_layer.out_proj")
    (('mlp.experts', 1), ('attn.out_proj', 0))
    """
    parts = path.split(".")
    nesting = 0
    while parts and parts[-1] == "base_layer":
        parts.pop()
        nesting += 1
    return ".".join(part for part in parts if part not in _INSIDE), nesting


_INSIDE = frozenset({"base_layer", "token_adapter", "modules_to_save", "original_module"})
"""What PEFT's wrappers call the modules in them."""
_MOST_CHOICES = 64
_MODULE_ORDER = "gate_up_proj gate_up_proj_bias gate_proj up_proj w1 w3 down_proj down_proj_bias w2".split()


def _choices(parameters: Sequence[str], count: int) -> Iterator[tuple[str, ...]]:
    """Every way to take as many of them, in order; only the first few where there are too many to try."""
    return islice(combinations(parameters, count), _MOST_CHOICES)


def _place_in_module(parameter: str) -> tuple[int, str]:
    """PEFT wraps bare parameters in the order of the module, which is gate, up, down in every known block."""
    return (_MODULE_ORDER.index(parameter) if parameter in _MODULE_ORDER else len(_MODULE_ORDER), parameter)
