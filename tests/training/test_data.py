"""Files of rows: what is refused with its line, what is trained on, what is reported, how it is split and packed."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from lorahub.errors import InvalidConfiguration, InvalidTrainingData, InvalidUsage
from lorahub.training.batches import IGNORED, Batches
from lorahub.training.config import Format, TrainConfig
from lorahub.training.data import RowFile
from lorahub.training.dataset import prepare
from lorahub.training.files import DataFile
from lorahub.training.packing import group, pack
from serving.text_model import TEMPLATE, make_tokenizer
from training.bases import chats, completions, write_rows


def _rows(path: Path, wanted: Format = "auto") -> RowFile:
    return RowFile(DataFile(path), wanted)


SHORT = TrainConfig(max_len=64, eval_split=0.0)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    made = make_tokenizer()
    made.chat_template = TEMPLATE
    return made


def learnt(tokenizer: Any, path: Path, config: TrainConfig = SHORT) -> list[str]:
    """What is trained on of each row, as text."""
    samples = prepare(path, tokenizer, config).train
    texts = []
    for number in range(len(samples)):
        start, stop = samples.bounds(number)
        texts.append(tokenizer.decode([samples.ids[i] for i in range(start, stop) if samples.supervised[i]]))
    return texts


# --- refusals ---------------------------------------------------------------------------------------------------------

GOOD = b'{"prompt": "a", "completion": "b"}'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"not json", "JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"prompt": "a"}', "has prompt: a prompt without an answer, as for GRPO or PPO"),
        (b'{"prompt": 1, "completion": "b"}', "prompt is a number, not text"),
        (b'{"prompt": "a", "completion": []}', "completion is an empty list, not text"),
        (b'{"prompt": "a", "completion": "b", "prompt": "c"}', "twice"),
        (b'{"prompt": "a\\ud800", "completion": "b"}', "surrogate"),
        (b'{"prompt": "\xff", "completion": "b"}', "UTF-8"),
        (b'{"text": "a"}', "is a row of text; those before it are rows of completion"),
        (b'{"prompt": [{"role": "boss", "content": "a"}], "completion": [{"role": "user"}]}', "has the role 'boss'"),
        (b'{"prompt": [{"role": "user", "content": "a"}], "completion": 1}', "completion is a number, not a list"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + b"\n\n" + line + b"\n" + GOOD + b"\n[]\n")
    with pytest.raises(InvalidTrainingData, match=r"2 lines of .*rows.jsonl can't be used") as refused:
        list(_rows(path))
    problems = refused.value.facts["problems"]
    assert [problem["line"] for problem in problems] == [3, 5]
    assert said in problems[0]["message"]
    assert f"line 3: {problems[0]['message']}" in refused.value.message


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("hello", "has the role 'None'"),
        ({"role": "user", "content": None}, "the content of message 2 of messages is missing, not text"),
        ({"role": "user", "content": [{"type": "image"}]}, "message 2 of messages has a part of the type 'image'"),
        ({"role": "user", "content": {"text": "a"}}, "is an object, not text"),
        ({"role": "assistant", "content": "a", "weight": 0.5}, "the weight of message 2 of messages is 0.5"),
        ({"role": "assistant", "tool_calls": [{"id": "a"}]}, "a tool call of message 2 of messages names no function"),
    ],
)
def test_a_bad_message_is_named(tmp_path: Path, message: Any, said: str) -> None:
    path = write_rows(tmp_path / "rows", [{"messages": [{"role": "user", "content": "a"}, message]}])
    with pytest.raises(InvalidTrainingData) as refused:
        list(_rows(path))
    assert said in refused.value.facts["problems"][0]["message"]


_USER, _BETTER, _WORSE = (
    [{"role": role, "content": text}] for role, text in (("user", "a"), *[("assistant", "b")] * 2)
)
PREFERENCES: dict[str, tuple[dict[str, Any], str]] = {
    "DPO": ({"prompt": "a", "chosen": "b", "rejected": "c"}, "chosen and rejected"),
    "DPO, no prompt": ({"chosen": "a b", "rejected": "a c"}, "chosen and rejected"),
    "DPO, messages": ({"prompt": _USER, "chosen": _BETTER, "rejected": _WORSE}, "chosen and rejected"),
    "DPO, whole chats": ({"chosen": _USER + _BETTER, "rejected": _USER + _WORSE}, "chosen and rejected"),
    "ORPO, with what is chosen": (
        {"prompt": "a", "messages": _USER + _BETTER, "chosen": _BETTER, "rejected": _WORSE, "score_chosen": 8.0},
        "chosen and rejected",
    ),
    "a pair beside a completion": ({"prompt": "a", "completion": "b", "chosen": "b", "rejected": "c"}, "chosen and"),
    "scores": ({"prompt": "a", "completion": "b", "score_chosen": 1.0, "score_rejected": 0.1}, "score_chosen and"),
    "SHP": ({"history": "a", "human_ref_A": "b", "human_ref_B": "c", "labels": 1}, "human_ref_A and human_ref_B"),
    "HelpSteer": ({"prompt": "a", "response_1": "b", "response_2": "c"}, "response_1 and response_2"),
    "several": ({"prompt": "a", "completions": ["b", "c"], "labels": [True, False]}, "completions, some better"),
    "UltraFeedback": ({"prompt": "a", "responses": [{"text": "b"}, {"text": "c"}]}, "responses, some better"),
    "KTO": ({"prompt": "a", "completion": "b", "label": False}, "an answer that is labelled good or bad, as for KTO"),
    "KTO, a good one": ({"prompt": "a", "completion": "b", "label": True}, "labelled good or bad"),
    "KTO, messages": ({"prompt": _USER, "completion": _WORSE, "label": False}, "labelled good or bad"),
    "KTO, a chat": ({"messages": _USER + _WORSE, "label": False}, "labelled good or bad"),
    "KTO, a tag": ({"messages": _USER + _WORSE, "kto_tag": False}, "labelled good or bad"),
}


@pytest.mark.parametrize("case", PREFERENCES)
def test_preferences_are_refused_by_that_name(case: str, tmp_path: Path) -> None:
    row, said = PREFERENCES[case]
    good = {"messages": _USER + _BETTER} if "messages" in row else {"prompt": "x", "completion": "y"}
    for rows, line in (([row], 1), ([good, row], 2)):
        with pytest.raises(InvalidTrainingData) as refused:
            list(_rows(write_rows(tmp_path / "rows", rows)))
        (problem,) = refused.value.facts["problems"]
        assert problem["line"] == line
        assert problem["message"].startswith("is preference data: ")
        assert said in problem["message"]
        assert "or train with TRL" in (refused.value.hint or "")


def test_a_label_is_ignored_by_no_wish(tmp_path: Path) -> None:
    """What somebody names is read; that an answer is a bad one isn't for a format to tell."""
    pair = {"messages": _USER + _BETTER, "chosen": _BETTER, "rejected": _WORSE}
    with pytest.raises(InvalidTrainingData) as refused:
        list(_rows(write_rows(tmp_path / "pairs", [pair])))
    assert "--data-format chat" in (refused.value.hint or "")
    (row,) = _rows(write_rows(tmp_path / "pairs", [pair]), "chat")
    assert row.content == {"messages": _USER + _BETTER}
    with pytest.raises(InvalidTrainingData, match="as for KTO"):
        list(_rows(write_rows(tmp_path / "kto", [PREFERENCES["KTO"][0]]), "completion"))


@pytest.mark.parametrize("label", [0, 1, -1, 0.5, "sport", "True", "", [True], {"good": False}])
def test_a_class_is_no_preference(label: Any, tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"prompt": f"a{n}", "completion": "b", "label": label} for n in range(3)]
    made = prepare(write_rows(tmp_path / "rows", rows), tokenizer, SHORT)
    assert len(made.train) == 3
    assert "the key 'label' of 3 rows is not read" in made.notes()


def test_several_answers_beside_a_whole_row_are_no_preference(tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b", "responses": ["b", "B"]}]
    assert len(prepare(write_rows(tmp_path / "rows", rows), tokenizer, SHORT).train) == 1


def test_a_text_may_be_true_or_false(tokenizer: Any, tmp_path: Path) -> None:
    made = prepare(write_rows(tmp_path / "rows", [{"text": "spam", "label": True}]), tokenizer, SHORT)
    assert len(made.train) == 1


def test_formats_are_not_mixed_nor_guessed(tmp_path: Path) -> None:
    both = write_rows(tmp_path / "both", [{"text": "a", "messages": _USER + _BETTER}])
    assert [row.content for row in _rows(both)] == [{"messages": _USER + _BETTER}]
    assert [row.content for row in _rows(both, "text")] == [{"text": "a"}]
    with pytest.raises(InvalidTrainingData, match="no format has these keys"):
        list(_rows(write_rows(tmp_path / "none", [{"title": "a"}])))
    with pytest.raises(InvalidTrainingData, match="has no rows"):
        list(_rows(write_rows(tmp_path / "empty", [])))
    with pytest.raises(InvalidUsage, match="can't read"):
        list(_rows(tmp_path / "absent"))


def test_a_chat_needs_a_template_that_renders_it(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows", chats(3))
    with pytest.raises(InvalidUsage, match="no chat template"):
        prepare(path, make_tokenizer(), SHORT)
    strict = make_tokenizer()
    strict.chat_template = "{{ raise_exception('one turn at most') }}"
    with pytest.raises(InvalidTrainingData, match="one turn at most"):
        prepare(path, strict, SHORT)


@pytest.mark.parametrize(
    "wrong", [{"rank": 0}, {"rank": "8"}, {"lr": float("nan")}, {"method": "magic"}, {"rnak": 8}, {"eval_split": 1.0}]
)
def test_settings_are_strict(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfiguration) as refused:
        TrainConfig.of(wrong)
    assert refused.value.hint
    assert TrainConfig.of({"preset": "paper", "lr": 1}).as_json()["targets"] == ["q,v"]


# --- what is trained on -----------------------------------------------------------------------------------------------


def test_answers_are_trained_on_and_questions_are_not(tokenizer: Any, tmp_path: Path) -> None:
    chat = write_rows(tmp_path / "chat", chats(1))
    assert learnt(tokenizer, chat) == ["red</s>yes</s>"]
    everything = TrainConfig(max_len=64, eval_split=0.0, train_on="all")
    assert learnt(tokenizer, chat, everything) == ["and 0?</s><assistant>red</s><user>sure?</s><assistant>yes</s>"]
    pair = write_rows(tmp_path / "pair", [{"prompt": "is it ", "completion": "réd"}])
    assert learnt(tokenizer, pair) == ["réd</s>"]
    turns = {
        "prompt": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        "completion": [{"role": "assistant", "content": "d"}],
    }
    assert learnt(tokenizer, write_rows(tmp_path / "turns", [turns])) == ["d</s>"]
    assert learnt(tokenizer, write_rows(tmp_path / "text", [{"text": "hello"}])) == ["ello</s>"]


def test_rows_that_change_are_reported(tokenizer: Any, tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "completion": "b"},
        {"prompt": "x" * 80, "completion": "b"},
        {"prompt": "a", "completion": "c" * 80, "id": 7},
        {"prompt": "a", "completion": ""},
        {"prompt": "A ", "completion": "B"},
        {"prompt": "a", "completion": "b"},
    ]
    made = prepare(write_rows(tmp_path / "rows", rows), tokenizer, SHORT)
    (report,) = made.reports
    assert (report.rows, report.truncated, report.masked, report.empty) == (6, [2, 3], [2], [4])
    assert report.duplicates == [5, 6]
    assert len(made.train) == 4
    notes = "\n".join(made.notes())
    assert "2 of 6 rows cut at --max-len: lines 2, 3" in notes
    assert "1 of 6 rows left out, nothing in them to train on: line 2" in notes
    assert "the key 'id' of 1 rows is not read" in notes
    with pytest.raises(InvalidTrainingData, match=r"no row of .* is left to train on"):
        prepare(write_rows(tmp_path / "none", rows[1:2]), tokenizer, SHORT)


def test_the_split_follows_the_content_and_nothing_else(tokenizer: Any, tmp_path: Path) -> None:
    rows = completions(400)
    config = TrainConfig(max_len=64, eval_split=0.2)
    first = prepare(write_rows(tmp_path / "a", rows), tokenizer, config)
    random.Random(1).shuffle(rows)
    shuffled = [dict(reversed(row.items())) for row in rows]
    second = prepare(write_rows(tmp_path / "b", shuffled), tokenizer, config)
    sides = [sorted(texts(made.evaluation)) for made in (first, second)]
    assert sides[0] == sides[1]
    assert 50 < len(first.evaluation) < 110
    assert first.facts["evaluation"]["rows"] + first.facts["train"]["rows"] == 400


def texts(samples: Any) -> list[bytes]:
    return [bytes(samples.ids[slice(*samples.bounds(n))].tobytes()) for n in range(len(samples))]


def test_rows_on_both_sides_are_told(tokenizer: Any, tmp_path: Path) -> None:
    held = write_rows(tmp_path / "held", [{"prompt": "thing 3 is ", "completion": " BLACK"}, *completions(1)])
    config = TrainConfig(max_len=64, eval_split=str(held))
    made = prepare(write_rows(tmp_path / "rows", completions(8)), tokenizer, config)
    assert [report.leaked for report in made.reports] == [[], [1, 4]]  # what is held out is read before the rows
    assert len(made.evaluation) == 2
    assert [file["name"] for file in made.facts["files"]] == ["rows", "held"]
    assert str(tmp_path) not in json.dumps(made.facts)


# --- packing ----------------------------------------------------------------------------------------------------------


def test_packing_wastes_next_to_nothing_and_loses_nothing() -> None:
    dice = random.Random(0)
    lengths = [min(int(dice.lognormvariate(4.6, 0.7)) + 2, 512) for _ in range(5000)]
    rows = pack(lengths, 512)
    assert sorted(number for row in rows for number in row) == list(range(5000))
    assert all(sum(lengths[number] for number in row) <= 512 for row in rows)
    assert sum(lengths) / (len(rows) * 512) > 0.99
    batches = group([sum(lengths[n] for n in row) for row in rows], 2048)
    assert sorted(number for batch in batches for number in batch) == list(range(len(rows)))


def test_batches_hold_every_sample_once_and_no_first_label(tokenizer: Any, tmp_path: Path) -> None:
    made = prepare(write_rows(tmp_path / "rows", completions(50)), tokenizer, SHORT).train
    for is_packed in (True, False):
        batches = Batches(made, max_len=64, room=256, is_packed=is_packed)
        assert sorted(line for batch in batches for line in batch.lines) == sorted(made.lines)
        assert sum(batch.supervised for batch in batches) == made.supervised_tokens
        for batch in batches:
            assert batch.ids.numel() <= 256
            if batch.positions is not None:
                assert (batch.labels[batch.positions == 0] == IGNORED).all()
        assert [batches.at(n).lines for n in range(9)] == [
            Batches(made, max_len=64, room=256, is_packed=is_packed).at(n).lines for n in range(9)
        ]
    orders = [[batches.at(epoch * len(batches) + n).lines for n in range(len(batches))] for epoch in range(2)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
