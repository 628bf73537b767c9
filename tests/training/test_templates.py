"""What of a chat is trained on, by its template: as TRL has it, as marks have it, as any other shows it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from lorahub.errors import InvalidConfiguration, InvalidTrainingData
from lorahub.training.config import TrainConfig
from lorahub.training.dataset import Dataset, prepare
from training.bases import write_rows
from training.masks import CHATS, GOLDEN, segments, tokenizer_of

TEMPLATES: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))
TODAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def learn(template: str, folder: Path, *rows: dict[str, Any], **settings: Any) -> Dataset:
    config = TrainConfig(eval_split=0.0, max_len=1 << 16, **settings)
    return prepare(write_rows(folder / "rows.jsonl", rows), tokenizer_of(template), config)


def told(template: str, made: Dataset) -> list[list[list[Any]]]:
    """Of each sample: [is trained on, text], one after the other."""
    samples, tokenizer = made.train, tokenizer_of(template)
    bounds = map(samples.bounds, range(len(samples)))
    return [
        segments(tokenizer, samples.ids[start:stop].tolist(), list(samples.supervised[start:stop]))
        for start, stop in bounds
    ]


def answers(template: str, made: Dataset) -> list[str]:
    return ["¦".join(text for is_trained, text in sample if is_trained) for sample in told(template, made)]


def _undated(sample: Any) -> Any:
    return [[is_trained, TODAY.sub("today", text)] for is_trained, text in sample]


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_trained_on_is_what_trl_trains_on(name: str, tmp_path: Path) -> None:
    template = TEMPLATES[name]["template"]
    for chat, wanted in TEMPLATES[name]["chats"].items():
        if wanted is not None:
            (sample,) = told(template, learn(template, tmp_path, CHATS[chat]))
            assert _undated(sample) == _undated(wanted), chat


def test_what_a_template_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(InvalidTrainingData, match="the chat template refuses it: System role not supported"):
        learn(TEMPLATES["gemma"]["template"], tmp_path, CHATS["a system"])


# --- templates that nobody knows --------------------------------------------------------------------------------------

PLAIN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}<{{ m.role }}>"
    "{% if m.reasoning_content and loop.last %}({{ m.reasoning_content }}){% endif %}{{ m.content }}</s>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
CLOSING = (
    "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% else %}{{ eos_token }}{% endif %}"
)
THINKING = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}</s>"
    "{% endfor %}{% if add_generation_prompt %}<assistant><think>{% endif %}"
)
GREETING = "{% if messages[0].role != 'system' %}<system>You are kind.</s>{% endif %}" + PLAIN
MARKED = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>"
    "{% endgeneration %}{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)
TURNS = [
    {"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning_content": "why"},
    {"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "reasoning_content": "how"},
]  # fmt: skip
OTHERS = {
    "plain": (PLAIN, ["b</s>¦d</s>"]),
    "reasoning only of the last": (FORGETFUL, ["(why)b</s>", "(how)d</s>"]),
    "an end that closes the chat": (CLOSING, ["b<|end|>\n¦d<|end|>\n</s>"]),
    "a prompt that begins to think": (THINKING, ["</think>b</s>¦</think>d</s>"]),
    "marks": (MARKED, ["b</s>¦d</s>"]),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_template_that_nobody_knows_is_tried(case: str, tmp_path: Path) -> None:
    template, wanted = OTHERS[case]
    assert answers(template, learn(template, tmp_path, {"messages": TURNS})) == wanted
    last = answers(template, learn(template, tmp_path, {"messages": TURNS}, train_on="last"))
    assert last == [wanted[-1].rpartition("¦")[2]]
    silent = [TURNS[0], {**TURNS[1], "weight": 0}, *TURNS[2:]]
    assert answers(template, learn(template, tmp_path, {"messages": silent})) == last


def test_rows_that_become_several_samples_are_told(tmp_path: Path) -> None:
    made = learn(FORGETFUL, tmp_path, {"messages": TURNS[:2]}, {"messages": TURNS})
    assert "1 of 2 rows divided into several samples: line 2" in made.notes()
    assert [sample[0] for sample in told(FORGETFUL, made)[1:]] == [
        [0, "<user>a</s><assistant>"], [0, "<user>a</s><assistant>b</s><user>c</s><assistant>"]
    ]  # fmt: skip


def test_no_prompt_of_a_system_is_trained_on(tmp_path: Path) -> None:
    first = learn(GREETING, tmp_path, {"messages": TURNS[1:]})
    assert answers(GREETING, first) == ["b</s>¦d</s>"]


def test_weights_choose_among_the_marks_of_a_twin(tmp_path: Path) -> None:
    template = TEMPLATES["qwen3"]["template"]
    rows = [{"messages": [TURNS[0], {**TURNS[1], "weight": weight}, *TURNS[2:]]} for weight in (0, 1)]
    second, both = answers(template, learn(template, tmp_path, *rows))
    assert second == "<think>\nhow\n</think>\n\nd<|im_end|>\n"
    assert both == f"<think>\nwhy\n</think>\n\nb<|im_end|>\n¦{second}"
    prompted = {"prompt": TURNS[:3], "completion": TURNS[3:]}
    assert answers(template, learn(template, tmp_path, prompted)) == [second]
    last = learn(template, tmp_path, {"messages": TURNS}, train_on="last")
    ((_, before), *_), *_ = told(template, last)
    assert "<think>" not in before, "as the model is asked later on"
    assert answers(template, last) == [second]


def test_a_template_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(MARKED)
    made = learn("", tmp_path, {"messages": TURNS}, chat_template=str(tmp_path / "own.jinja"))
    assert answers(PLAIN, made) == ["b</s>¦d</s>"]
    with pytest.raises(InvalidConfiguration, match="can't read"):
        learn("", tmp_path, {"messages": TURNS}, chat_template=str(tmp_path / "absent"))


def test_everything_is_trained_on_as_the_template_has_it(tmp_path: Path) -> None:
    template = TEMPLATES["qwen3"]["template"]
    (whole,) = answers(template, learn(template, tmp_path, {"messages": TURNS}, train_on="all"))
    assert "\nwhy\n" not in whole
    assert "\nhow\n" in whole


# --- what is told -----------------------------------------------------------------------------------------------------


def test_what_a_template_leaves_out_is_told(tmp_path: Path) -> None:
    rows = [{"messages": TURNS}, CHATS["tools"]]
    made = learn(PLAIN, tmp_path, *rows)
    assert answers(PLAIN, made)[1] == "It rains.</s>¦Sure.</s>", "a call that isn't shown is no empty answer"
    notes = list(made.notes())
    assert "1 of 2 rows have reasoning that the chat template leaves out: line 1" in notes
    assert "1 of 2 rows have tools that the chat template leaves out: line 2" in notes
    assert "1 of 2 rows have tool calls that the chat template leaves out: line 2" in notes
    known = TEMPLATES["qwen3"]["template"]
    assert not list(learn(known, tmp_path, *rows).notes())


def test_an_answer_without_an_end_is_told(tmp_path: Path) -> None:
    endless = PLAIN.replace("</s>", "\n")
    assert "1 of 1 rows end without a token that stops: the model won't learn to: line 1" in list(
        learn(endless, tmp_path, {"messages": TURNS[:2]}).notes()
    )
    assert not list(learn(PLAIN, tmp_path, {"messages": TURNS[:2]}).notes())[1:]


def test_a_beginning_is_there_once(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(PLAIN)
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    rows = write_rows(tmp_path / "rows", [{"text": "<s>abc"}, {"text": "abcd</s>"}])
    samples = prepare(rows, tokenizer, TrainConfig(eval_split=0.0)).train
    assert tokenizer.decode(samples.ids) == "<s>abc</s><s>abcd</s>"
