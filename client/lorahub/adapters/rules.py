"""The rules of the checker, each with a stable id. `docs/rules/` has a page for each, made of this table.

LH1xx which base it is · LH2xx whether it fits · LH3xx what the files are · LH4xx who can load it · LH5xx terms, locks and scores
"""

from dataclasses import dataclass
from enum import StrEnum

RULE_SET = 3
"""Raised whenever a rule changes what it finds: stored verdicts of an older set are made anew."""


class Severity(StrEnum):
    """`error`: the adapter doesn't work on this base. `warning`: it may not do what was meant. `note`: good to know."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Rule:
    id: str
    severity: Severity
    title: str
    cause: str
    cure: str
    example: str


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE


_TABLE = (
    # --- LH1xx: which base ---------------------------------------------------------------------------------------------
    Rule("LH101", _W, "the adapter names another base",
         "`base_model_name_or_path`, or the base in lorahub.json, is no name of the base it was checked against.",
         "check it against the base it names, or correct the name",
         "the adapter names acme/llama-7b, the base is called acme/llama-13b"),
    Rule("LH102", _W, "the adapter was made for another revision of the base",
         "The adapter records a revision (commit) of the base, and the base checked against is another one.",
         "pin the recorded revision, or test the adapter on the new one",
         "recorded 0e9e39f, checked against 5f1c2aa"),
    Rule("LH103", _W, "the base's digest is another one",
         "lorahub.json records the digest of the base's layout or weights, and this base has another. The shapes may "
         "agree all the same: the base was retrained, resized or quantised.",
         "test the adapter on this base, or go back to the recorded one",
         "recorded weights digest 52ab…, this base has 90cd…"),
    Rule("LH104", _W, "the base is named by a local path",
         "`base_model_name_or_path` is a path on the machine that trained the adapter; nobody else can find it.",
         "write the base's name on a hub: lorahub push --base acme/llama-7b",
         "base_model_name_or_path: /content/drive/MyDrive/llama"),
    Rule("LH105", _W, "no base is named",
         "Neither adapter_config.json, lorahub.json, the header's metadata nor the card says which base it is for. Where one "
         "is named and isn't known, it is LH106.",
         "name it: lorahub push --base acme/llama-7b",
         '"base_model_name_or_path": null'),
    Rule("LH106", _N, "the base isn't known here",
         "The adapter names a base, but nobody has registered one by this name, so that there is nothing to compare it with. "
         "Where none is named, it is LH105.",
         "register the base: lorahub base add hf:acme/llama-7b, or a folder",
         "acme/llama-7b is not registered"),
    Rule("LH107", _W, "the base is quantised",
         "The stored weights are packed. Where the way is known (GGUF, GPTQ, AWQ, bitsandbytes, FP8, compressed-tensors) "
         "the adapter is compared with the weights they stand for, and this is a note; else nothing can be compared. "
         "Merging into packed weights isn't supported yet.",
         "check against the unquantised base",
         "224 tensors (HQQ) are not understood, first model.layers.0.self_attn.q_proj.W_q"),
    Rule("LH108", _E, "the base is incomplete",
         "The index names files that aren't there, or tensors that no file holds.",
         "complete the base, or register it again",
         "model-00003-of-00004.safetensors is missing"),
    Rule("LH109", _W, "the base's weights were retrained where the adapter works",
         "Shapes agree, but the digests of tensors that the adapter updates differ from those recorded with it.",
         "evaluate the adapter on this base before using it",
         "224 of 224 target tensors have other bytes"),
    Rule("LH110", _W, "the tokenizer is another one",
         "The adapter was trained with a tokenizer that this base no longer has: the same text may become other tokens.",
         "load the adapter with the tokenizer that lies beside it, or evaluate it on this base",
         "recorded tokenizer 52ab…, this base has 90cd…"),
    Rule("LH111", _W, "the chat template is another one",
         "The adapter was trained on dialogs that were written down in another way than this base's template does now.",
         "send the recorded template with the request, or train the adapter again with the new one",
         "it differs from line 12 on"),
    Rule("LH112", _W, "a special token is another one",
         "The token that begins or ends a text is another than in training: answers may not stop, or begin unlike any "
         "text that it was trained on.",
         "set the recorded token in the tokenizer that is loaded",
         "eos_token is <|eot_id|> now, and was <|end_of_text|>"),
    Rule("LH113", _W, "generation defaults are others",
         "generation_config.json of this base says otherwise than when the adapter was trained; what doesn't say how it "
         "samples gets the new defaults.",
         "name the settings in each request",
         "temperature is 0.6 now, and was 1.0"),
    # --- LH2xx: does it fit --------------------------------------------------------------------------------------------
    Rule("LH201", _E, "a target module isn't in the base",
         "The adapter updates a module that this base doesn't have. Loaders skip it, mostly with a line in the log.",
         "check it against the base it was trained on",
         "model.layers.0.self_attn.qkv_proj is not in the base; it has q_proj, k_proj, v_proj"),
    Rule("LH202", _E, "a shape differs from the base's",
         "The update has another shape than the weight it is to be added to.",
         "check it against the base it was trained on",
         "model.layers.0.self_attn.q_proj: the update is [4096, 4096], the weight is [5120, 5120]"),
    Rule("LH203", _E, "rank or alpha disagree with the tensors",
         "The rank that adapter_config.json gives a module is not that of its tensors, so loaders make the wrong shape "
         "or the wrong scale.",
         "save the adapter again with save_pretrained, or correct r, lora_alpha and their patterns",
         "r is 16, lora_A has 8 rows"),
    Rule("LH204", _E, "the vocabulary has another size",
         "The adapter updates an embedding or an output head with more or fewer rows than the base has, or brings only one "
         "of the two whole: where both came with it, the rule would be LH224, and a merge would take them.",
         "resize the base's embeddings to the adapter's tokenizer first: model.resize_token_embeddings(n)",
         "embed_tokens has 32003 rows, the base has 32000"),
    Rule("LH205", _E, "the base has fewer layers",
         "The adapter updates or replicates layers with higher numbers than the base has.",
         "check it against the base it was trained on",
         "layers 28 to 31; the base has 28"),
    Rule("LH206", _E, "a tensor's name isn't understood",
         "The file holds a tensor that belongs to no known method; loaders ignore it silently.",
         "save the adapter with its own library again, or remove what isn't part of it",
         "model.layers.0.self_attn.q_proj.lora_C.weight"),
    Rule("LH207", _W, "only some of the targets have tensors",
         "The configuration targets m modules of the base, but the file has tensors for fewer: the others stay untrained.",
         "save the adapter again, or name the layers in layers_to_transform",
         "q_proj: 31 of 32 modules"),
    Rule("LH208", _E, "half of an update is missing",
         "An update is a product of factors; one of them isn't in the file.",
         "save the adapter again; the file is incomplete",
         "lora_A without lora_B in model.layers.3.self_attn.q_proj"),
    Rule("LH209", _E, "a tensor is empty or flattened",
         "A tensor has no elements, or one dimension instead of two: what ZeRO-3 and FSDP leave when weights are saved "
         "without being gathered.",
         "gather the weights before saving: stage3_gather_16bit_weights_on_model_save, or trainer.save_model()",
         "lora_A.weight has the shape [0]"),
    Rule("LH210", _E, "nothing matches the base",
         "No module of the adapter is in the base: loading it succeeds and changes nothing.",
         "check it against the base it was trained on",
         "0 of 224 modules; the adapter has model.layers.0.self_attn.q_proj, the base has h.0.attn.c_attn"),
    Rule("LH211", _W, "the orientation flag is wrong",
         "The base stores this weight as (in, out), or as (out, in), and `fan_in_fan_out` says the opposite. PEFT corrects "
         "the flag for some layers; other loaders and merge tools don't.",
         "correct fan_in_fan_out: true for GPT-2's Conv1D, false for everything else",
         "c_attn: the update fits transposed only, fan_in_fan_out is false"),
    Rule("LH212", _E, "a flag disagrees with the tensors",
         "The configuration switches on what has no tensors, or the file has tensors of what is switched off: DoRA's "
         "magnitudes, biases, the method itself.",
         "correct the flag in adapter_config.json, or save the adapter again",
         "use_dora is false, 224 magnitude vectors are in the file"),
    Rule("LH213", _E, "a tensor lies outside the targets",
         "PEFT makes the modules that `target_modules` names and drops every other tensor without a word.",
         "add the module to target_modules (or modules_to_save)",
         "v_proj has tensors, target_modules is [q_proj]"),
    Rule("LH214", _W, "a target or a pattern matches nothing",
         "A name in target_modules, modules_to_save, rank_pattern or alpha_pattern matches no tensor of the adapter.",
         "remove it, or correct its spelling",
         "rank_pattern has layers.99.q_proj; no module is called so"),
    Rule("LH215", _E, "a module occurs twice",
         "Two sets of tensors have the same module once prefixes and the names of adapters are taken off, or are of one "
         "weight under two of its names; a loader takes either. A file holds one adapter.",
         "save the adapter again",
         "base_model.model.x.lora_A.weight and x.lora_A.weight"),
    Rule("LH216", _W, "the base was changed when training began",
         "PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA and KaSA change the base's weights at the start. Added to the unchanged base, "
         "the update is wrong.",
         "convert it to a plain adapter: save_pretrained(path_initial_model_for_weight_conversion=…)",
         "init_lora_weights: pissa"),
    Rule("LH217", _W, "a setting isn't known",
         "adapter_config.json has a key that this version of the rules doesn't know; older loaders drop it silently.",
         "check that every loader you use knows it",
         "use_newlora: true"),
    Rule("LH218", _W, "a tied weight is updated on one side",
         "The base uses one tensor as input embedding and output head; the adapter updates one of them only. Merging has "
         "to untie the two.",
         "merge with a tool that unties them; PEFT 0.21's merge changes both",
         "lm_head has an update, tie_word_embeddings is true"),
    Rule("LH219", _W, "layers are replicated",
         "`layer_replication` builds a deeper model from the base's layers; only PEFT does so.",
         "use it with PEFT, unmerged",
         "layer_replication: [[0, 24], [8, 32]]"),
    Rule("LH220", _E, "the parts of an update don't go together",
         "The inner dimensions of an update's factors differ, or a vector beside them (DoRA's magnitude, a bias) has "
         "another length than the update: they can't be put together.",
         "save the adapter again; the file is damaged",
         "lora_A is [8, 4096], lora_B is [4096, 16]"),
    Rule("LH221", _N, "names differ from the base's by a prefix",
         "The adapter's module names and the names on disk begin differently, and the base's class makes up for it: a model "
         "with its head has a prefix that the one without hasn't, and a part of a model can be a model of its own. Each part "
         "has one such change. Where no class has both names, the modules are not in the base (LH201, LH210): loaders skip "
         "them without an error.",
         "load it with the model class it was trained on",
         "layers.0.… in the adapter, model.layers.0.… in the base"),
    Rule("LH222", _W, "only some of the base's modules have biases",
         "BitFit trains the biases that are there; in the other modules nothing could be learnt.",
         "train LoRA instead, which needs no biases",
         "6 of 15 modules have a bias, not model.layers.0.self_attn.o_proj"),
    Rule("LH223", _W, "tokens of their own lie beside the adapter",
         "The file holds embeddings of new tokens (textual inversion) beside the updates. They are no part of the "
         "adapter: merging and converting leave them out; the trainer that bundled them reads them.",
         "load them beside the model, or save them in a file of their own",
         "bundle_emb.person.clip_l"),
    Rule("LH224", _W, "the adapter brings a vocabulary of its own",
         "Tokens were added before training, and the adapter holds the embedding and the output head whole, with more or "
         "fewer rows than the base's. Loaders need a base of that size; a merge gives the model the adapter's.",
         "resize the base before the adapter is loaded: model.resize_token_embeddings(n)",
         "embed_tokens and lm_head have 32003 rows, the base has 32000"),
    # --- LH3xx: what the files are -------------------------------------------------------------------------------------
    Rule("LH301", _E, "a pickle",
         "Loading a pickle runs code. Weights are stored as safetensors here.",
         "save as safetensors, or import it in a sandbox: lorahub import --unsafe-pickle",
         "adapter_model.bin"),
    Rule("LH302", _E, "NaN or infinite weights",
         "Training diverged, or the file is damaged: the output of the model would be NaN.",
         "publish an earlier checkpoint",
         "lora_B.weight of layer 12 has 64 NaN"),
    Rule("LH303", _W, "the update is zero",
         "Every element of the up factor is 0, as before the first training step: the adapter changes nothing.",
         "check that training ran and that the trained weights were saved",
         "lora_B is zero in 224 of 224 modules"),
    Rule("LH304", _E, "a dtype that no adapter has",
         "Adapters are F32, BF16 or F16. Integers and 8-bit floats can't be multiplied as they are.",
         "save the adapter in F32, BF16 or F16",
         "lora_A.weight is I8"),
    Rule("LH305", _E, "the file is malformed",
         "The safetensors or GGUF header, or a JSON file, breaks a rule of docs/format.md.",
         "write the file again, or copy it again: it may be truncated",
         "the header claims 9000 bytes, the file has 400"),
    Rule("LH306", _W, "the method isn't known",
         "The adapter's method, its format or the names of its modules are not among those that these rules know, or it "
         "updates layers that the base stores in another order. It is stored, and can be loaded by who knows it; it "
         "can't be checked.",
         "use a newer lorahub",
         "peft_type: NEWLORA"),
    Rule("LH307", _W, "a setting that loaders act on",
         "The configuration names code to import or files to read; lorahub never does so, a loader may.",
         "remove it, unless you know what it is for",
         "auto_mapping names a library"),
    Rule("LH308", _E, "there are no weights",
         "No file of the folder holds an adapter's weights.",
         "save the adapter into the folder: model.save_pretrained(folder)",
         "adapter_config.json without adapter_model.safetensors"),
    Rule("LH309", _W, "lorahub.json says something else than the files",
         "A fact in lorahub.json differs from what was measured; the measured one counts.",
         "write it again: lorahub push does",
         "rank is 8 in lorahub.json and 16 in the tensors"),
    Rule(
        "LH310",
        _E,
        "PEFT doesn't load it whole",
        "The real loader, run on the base's shape, drops tensors of the file or finds none for parameters it made.",
        "save the adapter again with the PEFT version that loads it",
        "PEFT drops 2 tensors, first base_model.model.model.layers.0.self_attn.q_proj.lora_C.weight",
    ),
    # --- LH4xx: who can load it ----------------------------------------------------------------------------------------
    Rule("LH401", _N, "the rank is above a server's default limit",
         "vLLM and SGLang reserve memory for a largest rank.",
         "start vLLM with --max-lora-rank",
         "rank 64: vllm serve … --max-lora-rank 64"),
    Rule("LH402", _N, "DoRA can't be loaded",
         "The runtime has no DoRA, and refuses or ignores the magnitudes.",
         "merge it, or load it with PEFT",
         "use_dora: true on vLLM"),
    Rule("LH403", _N, "saved modules can't be loaded",
         "The runtime takes updates only; whole modules in the adapter (modules_to_save) are refused or ignored.",
         "merge it, or load it with PEFT",
         "lm_head in modules_to_save on vLLM"),
    Rule("LH404", _N, "biases can't be loaded",
         "The runtime has no place for an adapter's biases.",
         "merge it, or load it with PEFT",
         "bias: all on vLLM"),
    Rule("LH405", _N, "another file format is needed",
         "The runtime reads another format; the conversion is exact.",
         "lorahub pull --for llama.cpp, or lorahub convert",
         "PEFT on llama.cpp"),
    Rule("LH406", _N, "the architecture isn't supported",
         "The runtime has no such model, or no adapters for it.",
         "use another runtime, or merge it",
         "a UNet on vLLM"),
    Rule("LH407", _N, "one scale for the whole adapter",
         "The runtime reads r and lora_alpha once; modules with another scale get the wrong one, silently.",
         "normalise it: lorahub convert --to peft-normalized",
         "alpha_pattern on vLLM"),
    Rule("LH408", _N, "rsLoRA is ignored",
         "The runtime divides alpha by the rank, not by its root: the update is too weak.",
         "normalise it: lorahub convert --to peft-normalized",
         "use_rslora: true on SGLang"),
    Rule("LH409", _N, "the method isn't supported",
         "The runtime knows LoRA only, or not this relative of it.",
         "merge it, or load it with PEFT",
         "LoKr on vLLM"),
    Rule("LH410", _N, "trained token rows can't be loaded",
         "The runtime has no place for trainable_token_indices.",
         "merge it, or load it with PEFT",
         "trainable_tokens_delta on vLLM"),
    Rule("LH411", _N, "a layer type is covered in part",
         "LoRAX drops a layer type if one of its layers has no tensors.",
         "train all layers, or use another runtime",
         "q_proj in layers 16 to 31 only"),
    Rule("LH412", _N, "the runtime doesn't find the names",
         "The runtime looks modules up by the names in the file alone; those that it doesn't find it leaves out.",
         "train on the model that is served, or rename the tensors",
         "language_model. in the names, on a base without it"),
    Rule("LH413", _N, "nobody measured it",
         "What the runtime does with it wasn't measured, or can't be told from the files.",
         "try it, and compare with PEFT",
         "experts on vLLM"),
    # --- LH5xx: terms and locks ----------------------------------------------------------------------------------------
    Rule("LH501", _W, "the licences don't go together",
         "The base's licence restricts what the adapter's licence allows.",
         "take the base's licence, or one that is at least as strict",
         "adapter mit, base cc-by-nc-4.0"),
    Rule("LH502", _W, "the version was yanked",
         "Its owner withdrew it, with a reason.",
         "take another version",
         "acme/sql@v3: trained on leaked data"),
    Rule("LH503", _E, "the lock file is out of date",
         "What the reference leads to now isn't what lorahub.lock records.",
         "lorahub lock, and read the difference",
         "acme/sql@champion moved from v3 to v4"),
    Rule("LH504", _E, "it does worse than what is recorded",
         "Measured on the same rows, the loss is higher or fewer rows are exact than in eval.json, by more than the tolerance.",
         "train it again on this base; or, if it is good enough, record it anew: lorahub eval",
         "loss 2.8114, recorded 1.9342; tolerance 2.0%"),
    Rule("LH505", _W, "there is no evaluation to compare with",
         "The version has no eval.json, or one of other rows, other weights or other settings.",
         "record one: lorahub eval ADAPTER --data FILE, then push",
         "what is recorded was measured with other rows"),
    Rule("LH506", _W, "it couldn't be checked",
         "The adapter or the base couldn't be read: deleted, private, not to be reached, damaged, or never read where no "
         "network is asked; or the level that was asked for can't be done on it. It has a row all the same, and is "
         "undecided: --fail-on undecided makes it red.",
         "read the reason beside it; correct the entry, or the token that the job has",
         "there is no repository acme/sql, or it is private"),
    Rule("LH507", _E, "the environment is full",
         "More adapters are checked for an environment of lorahub.toml than its max_adapters says it has room for.",
         "take some out, or raise max_adapters where the server has the memory",
         "production has room for 40 adapters; this is number 41"),
)  # fmt: skip

RULES = {rule.id: rule for rule in _TABLE}
