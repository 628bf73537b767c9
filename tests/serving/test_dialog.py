"""Dialogs whose adapter changes: exact after a re-prefill, labelled where the cache was kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lorahub
import pytest
import torch
import transformers
from corpus.peft_corpus import llama, make_base
from lorahub.errors import InvalidBaseModel, InvalidUsage
from serving.adapters import save_adapter
from serving.text_model import TEMPLATE, make_tokenizer

PROMPT = [3, 14, 15, 9, 26]


@pytest.fixture
def session(tmp_path: Path) -> lorahub.Session:
    session = lorahub.Session(make_base("llama").eval())
    session.load("a", save_adapter("llama", tmp_path / "a", seed=1, noise=0.5))
    session.load("b", save_adapter("llama", tmp_path / "b", seed=2, noise=0.5))
    return session


def fed(dialog: Any) -> list[int]:
    """How many tokens each forward gets from now on."""
    counts: list[int] = []
    dialog._session.model.register_forward_pre_hook(
        lambda _module, _args, named: counts.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    return counts


def test_greedy_tokens_are_those_of_transformers(session: lorahub.Session) -> None:
    session.use("a")
    expected = session.model.generate(
        torch.tensor([PROMPT]), attention_mask=torch.ones(1, len(PROMPT)), max_new_tokens=12, do_sample=False
    )
    assert [*PROMPT, *session.dialog().continue_ids(PROMPT, 12)] == expected[0].tolist()


@pytest.mark.parametrize("swap", ["dialog", "session"])
def test_a_reprefill_is_a_fresh_start(session: lorahub.Session, swap: str) -> None:
    session.use("a")
    dialog = session.dialog()
    before = [*PROMPT, *dialog.continue_ids(PROMPT, 6)]
    counts = fed(dialog)
    dialog.swap("b") if swap == "dialog" else session.use("b")
    after = list(dialog.continue_ids([7], 6))

    fresh = session.dialog()
    assert list(fresh.continue_ids([*before, 7], 6)) == after
    assert torch.equal(fresh._logits(), dialog._logits())
    assert dialog.is_exact
    assert counts[:2] == [len(before) + 1, 1]  # all of it once, then token by token


def test_kept_caches_are_approximate_and_labelled(session: lorahub.Session) -> None:
    session.use("a")
    dialog = session.dialog(on_swap="keep")
    before = [*PROMPT, *dialog.continue_ids(PROMPT, 6)]
    assert dialog.is_exact
    counts = fed(dialog)
    dialog.swap("b")
    list(dialog.continue_ids([7], 1))
    assert counts == [2]  # the last answer's last token, and the new one
    assert not dialog.is_exact

    kept, fresh = session.dialog(on_swap="keep"), session.dialog()
    session.use("a")
    list(kept.continue_ids(before, 1))
    kept.ids.pop()
    session.use("b")
    list(fresh.continue_ids(before, 1))
    fresh.ids.pop()
    kept.ids.append(7)
    fresh.ids.append(7)
    approximate, exact = kept._logits(), fresh._logits()
    assert not torch.allclose(approximate, exact, rtol=1e-3)
    with session.using("a"):
        assert not torch.allclose(approximate, session.model(input_ids=torch.tensor([fresh.ids])).logits[0, -1])


def test_there_and_back_costs_nothing(session: lorahub.Session) -> None:
    session.use("a")
    dialog = session.dialog()
    list(dialog.continue_ids(PROMPT, 2))
    counts = fed(dialog)
    with session.using("b"):
        pass
    list(dialog.continue_ids([7], 1))
    assert counts == [2]


def test_an_interrupted_forward_leaves_no_half_filled_cache(session: lorahub.Session) -> None:
    session.use("a")
    dialog, twin = session.dialog(), session.dialog()
    ids = [*PROMPT, *dialog.continue_ids(PROMPT, 2)]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    hook = session.model.model.layers[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(dialog.continue_ids([7], 1))
    hook.remove()

    assert list(dialog.continue_ids([8], 3)) == list(twin.continue_ids([*ids, 7, 8], 3))


def test_sampling_follows_the_seed(session: lorahub.Session) -> None:
    def sampled(seed: int) -> list[int]:
        torch.manual_seed(seed)
        return list(session.dialog(temperature=2.0).continue_ids(PROMPT, 12))

    assert sampled(1) == sampled(1) != sampled(2)


def test_a_dialog_ends_where_the_model_has_no_more_room(session: lorahub.Session) -> None:
    dialog = session.dialog()
    assert len(list(dialog.continue_ids(PROMPT, 1000))) == 64 - len(PROMPT)
    with pytest.raises(InvalidUsage, match="the model takes 64"):
        dialog.continue_ids([1], 1)


@pytest.mark.parametrize(
    ("act", "said"),
    [(lambda d: d.continue_ids([], 1), "nothing to continue"), (lambda d: d.say("hello"), "no tokenizer")],
)
def test_mistakes(session: lorahub.Session, act: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(InvalidUsage, match=said):
        act(session.dialog())


# --- text -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def talking(tokenizer: transformers.PreTrainedTokenizerFast) -> lorahub.Session:
    torch.manual_seed(0)
    return lorahub.Session(llama(vocab_size=len(tokenizer), max_position_embeddings=512).eval())


def test_without_a_template_text_is_continued(
    talking: lorahub.Session, tokenizer: transformers.PreTrainedTokenizerFast
) -> None:
    dialog = talking.dialog(tokenizer)
    first = "".join(dialog.say("Once upon", 8))
    second = "".join(dialog.say(" a time", 8))
    assert dialog.ids[: len("Once upon")] == tokenizer.encode("Once upon")
    assert [message["content"] for message in dialog.messages] == ["Once upon", first, " a time", second]


def test_with_a_template_the_model_sees_the_whole_conversation(
    talking: lorahub.Session, tokenizer: transformers.PreTrainedTokenizerFast
) -> None:
    tokenizer.chat_template = TEMPLATE
    dialog = talking.dialog(tokenizer)
    answer = "".join(dialog.say("hello", 8))
    pieces = dialog.say("and you?", 8)
    said = tokenizer.decode(dialog.ids)

    assert said == f"<user>hello</s><assistant>{answer}</s><user>and you?</s><assistant>"
    fresh = talking.dialog()
    assert "".join(pieces) == tokenizer.decode(
        list(fresh.continue_ids(tokenizer.encode(said, add_special_tokens=False), 8)), skip_special_tokens=True
    )


def test_half_characters_wait(talking: lorahub.Session, tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    dialog = talking.dialog(tokenizer)
    wanted = tokenizer.encode("né€!")
    dialog._generated = lambda _most: iter(wanted)  # type: ignore[method-assign]
    pieces = list(dialog.say("x", 8))
    assert pieces == ["n", "é", "€", "!"]


@pytest.mark.parametrize("temperature", [float("nan"), -0.1])
def test_a_temperature_is_a_number_from_0_on(session: lorahub.Session, temperature: float) -> None:
    with pytest.raises(InvalidUsage, match="the temperature is"):
        session.dialog(temperature=temperature)


def test_a_temperature_just_above_0_is_greedy(session: lorahub.Session) -> None:
    greedy = list(session.dialog().continue_ids(PROMPT, 8))
    assert list(session.dialog(temperature=1e-300).continue_ids(PROMPT, 8)) == greedy


def test_a_model_that_hands_no_cache_on_is_asked_anew_for_each_token() -> None:
    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4)
    session = lorahub.Session(transformers.MambaForCausalLM(config).eval())
    expected = list(PROMPT)
    for _ in range(6):
        with torch.no_grad():
            expected.append(int(session.model(torch.tensor([expected])).logits[0, -1].argmax()))
    assert [*PROMPT, *session.dialog().continue_ids(PROMPT, 6)] == expected


@pytest.mark.parametrize("template", ["{% for %}", "{{ 1 / 0 }}", "{{ raise_exception('no') }}"])
def test_a_template_that_refuses_a_turn_is_told(session: lorahub.Session, template: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    dialog = session.dialog(tokenizer)
    with pytest.raises(InvalidUsage, match="the chat template refuses it"):
        dialog.say("hello")
    assert dialog.messages == []


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_no_number_is_told(session: lorahub.Session, temperature: float) -> None:
    with torch.no_grad():
        session.model.get_input_embeddings().weight[7] = float("nan")
    dialog = session.dialog(temperature=temperature)
    with pytest.raises(InvalidBaseModel, match="no finite numbers"):
        list(dialog.continue_ids([3, 7], 2))
