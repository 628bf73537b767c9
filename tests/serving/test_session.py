"""One base, many adapters: what acts is what PEFT computes, and the base is never touched."""

import hashlib
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import lorahub
import peft
import pytest
import torch
from corpus.peft_corpus import CASES, lora, make_base, write, write_base
from lorahub import Hub, LorahubError
from lorahub.adapters.base_model import read_base
from lorahub.adapters.files import FolderFiles
from lorahub.conversion import Target, convert
from lorahub.errors import AdapterDoesNotFit, AlreadyExists, InvalidUsage, LimitExceeded, NotConvertible
from registry_process import Registry
from serving.adapters import save_adapter
from torch import nn

PEFTS_OWN = pytest.mark.filterwarnings("ignore")  # PEFT asks transformers for what is deprecated there
IDS = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8]])
BATCH = torch.arange(4 * 7).view(4, 7) % 61
SWAPPABLE = (
    "lora",
    "lora-all-linear",
    "lora-layers",
    "lora-patterns",
    "lora-pattern-order",
    "rslora",
    "rslora-patterns",
    "lora-gpt2",
    "lora-embedding",
    "lora-head",
    "lora-tied-head",
    "dora",
    "dora-gpt2",
    *(name for name in CASES if name.startswith("lora-experts")),
    "ia3",
    "prompt",
    "prefix",
)
REFUSED = {
    "loha": "updates of loha",
    "lora-bias-only": "biases",
    "lora-saved-modules": "modules_to_save",
    "lora-token-rows": "rows of an embedding",
    "lora-replicated": "layer_replication",
    "pissa": "pissa",
    "adaption-prompt": "prompt",
}


def logits(model: nn.Module, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=ids).logits.clone()


def digest(model: nn.Module) -> dict[str, str]:
    return {
        name: hashlib.sha256(value.detach().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, value in model.state_dict().items()
    }


@pytest.fixture
def three(tmp_path: Path) -> lorahub.Session:
    """Three adapters of different ranks and targets on one Llama."""
    session = lorahub.Session(make_base("llama").eval())
    session.load("a", save_adapter("llama", tmp_path / "a", seed=1))
    session.load("b", save_adapter("llama", tmp_path / "b", seed=2, r=2, target_modules=["v_proj", "down_proj"]))
    session.load("c", save_adapter("llama", tmp_path / "c", seed=3, r=6, target_modules=["q_proj", "embed_tokens"]))
    return session


# --- what it computes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SWAPPABLE)
def test_outputs_are_those_of_peft(case: str, tmp_path: Path) -> None:
    adapted = write(CASES[case], tmp_path / "adapter")
    base = make_base(CASES[case].base)
    plain = logits(base)
    session = lorahub.Session(base)
    session.load("x", tmp_path / "adapter")

    assert torch.equal(logits(session.model), plain)
    session.use("x")
    assert not torch.allclose(logits(session.model), plain, rtol=1e-4)
    theirs = logits(adapted)[:, -IDS.shape[1] :]  # PEFT also gives those of virtual tokens
    torch.testing.assert_close(logits(session.model), theirs, rtol=1e-5, atol=1e-6)
    if case not in ("lora-tied-head", "prompt", "prefix"):  # PEFT's merge changes the embedding too; prompts have none
        torch.testing.assert_close(logits(session.model), logits(adapted.merge_and_unload()), rtol=1e-5, atol=1e-6)
    session.use(None)
    assert torch.equal(logits(session.model), plain)


def test_unmerged_is_merged_by_hand(tmp_path: Path) -> None:
    adapted = write(CASES["rslora"], tmp_path / "adapter")
    session = lorahub.Session(make_base("llama"))
    session.load("x", tmp_path / "adapter")
    merged = make_base("llama")
    factors = adapted.state_dict()
    with torch.no_grad():
        for name, weight in merged.named_parameters():
            key = f"base_model.model.{name.removesuffix('.weight')}"
            if f"{key}.lora_A.default.weight" in factors:
                up, down = factors[f"{key}.lora_B.default.weight"], factors[f"{key}.lora_A.default.weight"]
                weight.add_(8 / 4**0.5 * (up.double() @ down.double()).float())

    with session.using("x"):
        torch.testing.assert_close(logits(session.model), logits(merged), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", ["gguf", "mlx"])
def test_other_formats_compute_the_same(target: Target, tmp_path: Path) -> None:
    write(CASES["lora-patterns"], tmp_path / "peft")
    base = read_base(FolderFiles(write_base("llama", tmp_path / "base")), name="acme/llama")
    (tmp_path / target).mkdir()
    for name, content in convert(FolderFiles(tmp_path / "peft"), target, base).items():
        (tmp_path / target / name).write_bytes(content)
    session = lorahub.Session(tmp_path / "base")
    session.load("peft", tmp_path / "peft")
    session.load("other", tmp_path / target)

    with session.using("peft"):
        expected = logits(session.model)
    with session.using("other"):
        torch.testing.assert_close(logits(session.model), expected, rtol=1e-5, atol=1e-6)


@PEFTS_OWN
def test_an_adapter_of_the_bare_model_fits_the_one_with_a_head(tmp_path: Path) -> None:
    body = make_base("llama").model
    adapted = peft.get_peft_model(body, lora(init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    session = lorahub.Session(make_base("llama"))
    session.load("x", tmp_path / "adapter")

    assert "model.layers.0.self_attn.q_proj" in session.adapters["x"].pairs
    session.use("x")
    with torch.inference_mode():
        theirs = adapted.eval()(input_ids=IDS).last_hidden_state
        torch.testing.assert_close(session.model.eval().model(input_ids=IDS).last_hidden_state, theirs)


def test_bfloat16_factors_beside_bfloat16_weights(tmp_path: Path) -> None:
    session = lorahub.Session(make_base("llama").to(torch.bfloat16))
    loaded = session.load("x", save_adapter("llama", tmp_path / "x", seed=1))
    wide = lorahub.Session(make_base("llama"))
    wide.load("x", tmp_path / "x")

    assert {pair.a.dtype for pair in loaded.pairs.values()} == {torch.bfloat16}
    with session.using("x"), wide.using("x"):
        torch.testing.assert_close(logits(session.model).float(), logits(wide.model), rtol=0.1, atol=0.05)
    with session.using("x"):
        assert logits(session.model).dtype is torch.bfloat16


def test_factors_of_an_adapter_share_one_buffer(three: lorahub.Session) -> None:
    pairs = three.adapters["a"].pairs.values()
    storages = {tensor.untyped_storage().data_ptr() for pair in pairs for tensor in (pair.a, pair.b)}
    assert len(storages) == 1


# --- swaps ------------------------------------------------------------------------------------------------------------


def test_a_thousand_swaps_change_nothing(three: lorahub.Session) -> None:
    names = [None, "a", "b", "c"]
    before, first = digest(three.model), {}
    for name in names:
        three.use(name)
        first[name] = logits(three.model)
    for name in islice(cycle(["a", "b", None, "c"]), 1000):
        three.use(name)
    for name in names:
        three.use(name)
        assert torch.equal(logits(three.model), first[name]), name
    assert digest(three.model) == before
    assert len({tuple(value.flatten().tolist()) for value in first.values()}) == 4


def test_a_swap_doesnt_depend_on_the_size(three: lorahub.Session) -> None:
    started = time.perf_counter()
    for name in islice(cycle(["a", "b"]), 1000):
        three.use(name)
    assert (time.perf_counter() - started) / 1000 < 1e-3  # measured: 0.3 µs; benchmarks/swap.py has the figures


def test_using_restores_what_acted_before(three: lorahub.Session) -> None:
    three.use("a")
    with three.using("b"):
        assert three.active == "b"
        with three.mix(["a", None]):
            assert three.active == ("a", None)
            with three.using(None):
                assert three.active is None
            assert three.active == ("a", None)
    assert three.active == "a"
    with pytest.raises(ZeroDivisionError), three.using("c"):
        _ = 1 / 0
    assert three.active == "a"


def test_modules_without_an_adapter_are_not_wrapped(three: lorahub.Session) -> None:
    plain = digest(three.model)

    def wrapped() -> set[str]:
        return {name.rpartition(".")[2] for name, part in three.model.named_modules() if "forward" in vars(part)}

    assert wrapped() == {"q_proj", "v_proj", "down_proj", "embed_tokens"}
    three.unload("b")
    assert wrapped() == {"q_proj", "v_proj", "embed_tokens"}
    three.close()
    assert wrapped() == set()
    assert digest(three.model) == plain


# --- mixes and blends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [("a", "b", None, "c"), ("b", "b", "b", "b"), (None, None, None, "a"), (None,) * 4, ("c", "a", "a", "c")],
)
def test_each_row_of_a_mix_is_as_if_alone(three: lorahub.Session, rows: tuple[str | None, ...]) -> None:
    with three.mix(rows):
        mixed = logits(three.model, BATCH)
    for number, name in enumerate(rows):
        with three.using(name):
            alone = logits(three.model, BATCH[number : number + 1])
        torch.testing.assert_close(mixed[number : number + 1], alone, rtol=1e-5, atol=1e-6)


def test_a_mix_says_when_the_batch_has_other_rows(three: lorahub.Session) -> None:
    three.mix(["a", "b"])
    with pytest.raises(InvalidUsage, match="the mix has 2 rows, the batch is \\[4, 7"):
        logits(three.model, BATCH)
    three.use("a")
    logits(three.model, BATCH)


def test_a_mix_on_gpt2(tmp_path: Path) -> None:
    session = lorahub.Session(make_base("gpt2").eval())
    targets = ["c_attn", "c_fc", "wte"]
    session.load("a", save_adapter("gpt2", tmp_path / "a", seed=1, target_modules=targets, fan_in_fan_out=True))
    session.load("b", save_adapter("gpt2", tmp_path / "b", seed=2, r=3, target_modules=["c_proj"], fan_in_fan_out=True))
    with session.mix(["b", "a", None, "a"]):
        mixed = logits(session.model, BATCH)
    for number, name in enumerate(["b", "a", None, "a"]):
        with session.using(name):
            alone = logits(session.model, BATCH[number : number + 1])
        torch.testing.assert_close(mixed[number : number + 1], alone, rtol=1e-5, atol=1e-6)


def test_a_blend_is_the_sum_of_the_updates(three: lorahub.Session) -> None:
    blend = three.blend("d", {"a": 0.5, "b": -0.2, "c": 1.5})

    def update(name: str, module: str) -> torch.Tensor:
        pair = three.adapters[name].pairs.get(module)
        if pair is None:
            return torch.zeros(())
        return (pair.a.double() if pair.is_embedding else pair.a.T.double()) @ pair.b.double()

    assert blend.rank == 4 + 6  # b has rank 2, and no module in common with c
    for module in blend.pairs:
        summed = 0.5 * update("a", module) - 0.2 * update("b", module) + 1.5 * update("c", module)
        torch.testing.assert_close(update("d", module), summed, rtol=1e-5, atol=1e-8)


@PEFTS_OWN
def test_a_blend_is_pefts(tmp_path: Path) -> None:
    session = lorahub.Session(make_base("llama").eval())
    for seed, name in enumerate("ab"):
        session.load(name, save_adapter("llama", tmp_path / name, seed=seed, r=4 + seed))
    theirs = peft.PeftModel.from_pretrained(make_base("llama"), tmp_path / "a", adapter_name="a")
    theirs.load_adapter(tmp_path / "b", adapter_name="b")
    theirs.add_weighted_adapter(["a", "b"], [0.5, 0.25], "c", combination_type="cat")
    theirs.set_adapter("c")

    session.blend("c", {"a": 0.5, "b": 0.25})
    session.use("c")

    torch.testing.assert_close(logits(session.model), logits(theirs), rtol=1e-5, atol=1e-6)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_swapped_is_named(case: str, tmp_path: Path) -> None:
    write(CASES[case], tmp_path / "adapter")
    session = lorahub.Session(make_base(CASES[case].base))

    with pytest.raises(NotConvertible, match=REFUSED[case]) as refused:
        session.load("x", tmp_path / "adapter")

    assert "PEFT" in (refused.value.hint or "") if case == "adaption-prompt" else "merge" in (refused.value.hint or "")
    assert not session.adapters


@PEFTS_OWN
@pytest.mark.parametrize("case", ["prompt", "prefix"])
def test_what_stands_before_the_tokens_stays_in_the_cache(case: str, tmp_path: Path) -> None:
    write(CASES[case], tmp_path / "adapter")
    session = lorahub.Session(make_base("llama").eval())
    session.load("x", tmp_path / "adapter")
    session.use("x")
    expected: list[int] = [3, 14, 15]
    for _ in range(6):
        expected.append(int(logits(session.model, torch.tensor([expected]))[0, -1].argmax()))

    assert list(session.dialog().continue_ids(expected[:3], 6)) == expected[3:]
    ids = torch.tensor([expected[:3]] * 2)
    made = session.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
    assert made.tolist() == [expected] * 2
    for refused in (lambda: session.blend("y", {"x": 1.0}), lambda: session.mix(["x", None])):
        with pytest.raises(InvalidUsage, match="not plain LoRA: it has the whole batch"):
            refused()


def not_fitting(folder: Path) -> Path:
    """On a Llama twice as wide."""
    return save_adapter("llama", folder, seed=1, hidden_size=32)


def of_another_base(folder: Path) -> Path:
    return save_adapter("gpt2", folder, seed=1, target_modules=["c_attn"], fan_in_fan_out=True)


def with_nan(folder: Path) -> Path:
    return save_adapter("llama", folder, seed=1, noise=float("nan"))


def of_rank_eight(folder: Path) -> Path:
    return save_adapter("llama", folder, seed=1, r=8, target_modules=["k_proj", "o_proj"])


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (not_fitting, AdapterDoesNotFit, r"q_proj is \[32, 32\] in the adapter, \[16, 16\] in the model"),
        (of_another_base, AdapterDoesNotFit, "no linear layer or embedding transformer.h.0.attn.c_attn"),
        (with_nan, NotConvertible, "finite"),
        (of_rank_eight, LimitExceeded, "rank 8, this session takes 6"),
        (lambda folder: folder / "absent", LorahubError, "there is no"),
    ],
)
def test_a_failed_load_changes_nothing(
    make: Callable[[Path], Path], error: type[LorahubError], said: str, tmp_path: Path
) -> None:
    session = lorahub.Session(make_base("llama").eval(), max_rank=6)
    session.load("a", save_adapter("llama", tmp_path / "a", seed=1))
    session.use("a")
    expected, state = logits(session.model), session.state

    with pytest.raises(error, match=said):
        session.load("x", make(tmp_path / "x"))

    assert (list(session.adapters), session.active, session.state) == (["a"], "a", state)
    assert [name for name, part in session.model.named_modules() if "k_proj" in name and "forward" in vars(part)] == []
    assert torch.equal(logits(session.model), expected)


@pytest.mark.parametrize(
    ("act", "error", "said"),
    [
        (lambda s: s.use("bb"), InvalidUsage, "no adapter is loaded as 'bb'"),
        (lambda s: s.mix(["a", "x"]), InvalidUsage, "'x'"),
        (lambda s: s.unload("a"), InvalidUsage, "a is active"),
        (lambda s: s.load("b", "anywhere"), AlreadyExists, "'b' already"),
        (lambda s: s.blend("d", {}), InvalidUsage, "a blend of nothing"),
        (lambda s: s.blend("d", {"a": float("nan")}), NotConvertible, "finite"),
        (lambda s: s.dialog(on_swap="forget"), InvalidUsage, "no policy is called 'forget'"),
    ],
)
def test_mistakes_have_a_sentence_and_no_effect(
    three: lorahub.Session, act: Callable[[lorahub.Session], Any], error: type[LorahubError], said: str
) -> None:
    three.use("a")
    with pytest.raises(error, match=said) as refused:
        act(three)
    assert refused.value.hint
    assert (list(three.adapters), three.active) == (["a", "b", "c"], "a")


def test_a_model_has_one_session(three: lorahub.Session, tmp_path: Path) -> None:
    second = lorahub.Session(three.model)
    with pytest.raises(InvalidUsage, match="another session"):
        second.load("a", tmp_path / "a")
    three.close()
    second.load("a", tmp_path / "a")
    assert list(second.adapters) == ["a"]


@pytest.mark.parametrize("wrong", [{"dtype": "nonsense"}, {"dtype": "nn"}, {"on_swap": "forget"}])
def test_a_session_refuses_settings_that_dont_exist(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidUsage, match=r"nonsense|nn|forget"):
        lorahub.Session(make_base("llama"), **wrong)


def test_a_base_that_isnt_there(tmp_path: Path) -> None:
    with pytest.raises(LorahubError, match="can't be loaded"):
        lorahub.Session(tmp_path)


def test_an_adapter_from_the_registry(
    registry: Registry, user: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, token = user
    with Hub(registry.url, token=token) as hub:
        hub.push(save_adapter("llama", tmp_path / "a", seed=1), f"{name}/sql")
    monkeypatch.setenv("LORAHUB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LORAHUB_ENDPOINT", registry.url)
    monkeypatch.setenv("LORAHUB_TOKEN", token)
    monkeypatch.chdir(tmp_path)
    session = lorahub.Session(make_base("llama"))

    pulled = session.load("pulled", f"{name}/sql@v1")
    local = session.load("local", tmp_path / "a")

    assert pulled.source == f"{name}/sql@v1"
    assert all(torch.equal(pulled.pairs[module].b, pair.b) for module, pair in local.pairs.items())
