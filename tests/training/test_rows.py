"""Rows as people have them: each kind is trained on as it should be, or refused by the name of what it is."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lorahub
import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
import pytest
from lorahub import TrainConfig
from lorahub.errors import InvalidUsage
from lorahub.training.dataset import prepare
from training.bases import save_base, write_rows
from training.conftest import Said
from training.masks import WEATHER, tokenizer_of

Command = Callable[..., Said]
pytestmark = pytest.mark.filterwarnings("ignore")

PLAIN = (
    "{% if tools %}<tools>{{ tools | tojson }}</s>{% endif %}{% for m in messages %}<{{ m.role }}>"
    "{% if m.role == 'assistant' %}{% generation %}{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}"
    "{{ m.content }}{% if loud %}!{% endif %}{% for c in m.tool_calls %}[{{ c.function.name }} "
    "{{ c.function.arguments | tojson }}]{% endfor %}"
    "</s>{% endgeneration %}{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)
USER, BOT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
ARGUMENTS = '{"place": "Kyoto"}'
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
CALLED = '[weather {"place": "Kyoto"}]'
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "rain"}


@dataclass(frozen=True)
class Kind:
    """A row, and what is learnt of it, joined by ¦; or how it is refused. `shown` is what stands in the whole text."""

    row: Any
    learnt: str = ""
    shown: str = ""
    flags: tuple[str, ...] = ()
    refused: str = ""


def _messages(*messages: Any, **beside: Any) -> dict[str, Any]:
    return {"messages": list(messages), **beside}


KINDS: dict[str, Kind] = {
    # OpenAI's
    "messages": Kind(_messages(USER, BOT, {**USER, "content": "c"}, {**BOT, "content": "d"}), "b</s>¦d</s>"),
    "a developer": Kind(_messages({"role": "developer", "content": "x"}, USER, BOT), "b</s>", "<developer>x</s>"),
    "an answer as the API gives it": Kind(
        _messages(USER, {**BOT, "refusal": None, "annotations": [], "audio": None, "tool_calls": None}), "b</s>"
    ),
    "tool calls, content null": Kind(
        _messages(USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT, BOT, tools=[WEATHER]),
        f"{CALLED}</s>¦b</s>", "<tool>rain</s>",
    ),
    "tool calls, content absent": Kind(_messages(USER, {"role": "assistant", "tool_calls": [CALL]}), f"{CALLED}</s>"),
    "tool calls, arguments as an object": Kind(
        _messages(USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}),
        '[f {"x": 1}]</s>',
    ),
    "tools": Kind(_messages(USER, BOT, tools=[WEATHER], parallel_tool_calls=False), "b</s>", '<tools>[{"type":'),
    "tools as a text of JSON": Kind(_messages(USER, BOT, tools=json.dumps([WEATHER])), "b</s>", '<tools>[{"type":'),
    "function_call": Kind(
        _messages(
            USER, {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": ARGUMENTS}},
            {"role": "function", "name": "weather", "content": "rain"}, BOT, functions=[WEATHER["function"]],
        ),
        f"{CALLED}</s>¦b</s>", '"type": "function"',
    ),
    "weights": Kind(_messages(USER, {**BOT, "weight": 0}, USER, {**BOT, "content": "d", "weight": 1}), "d</s>"),
    "parts": Kind(
        _messages(
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "z"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
        ),
        "b</s>", "<user>az</s>",
    ),
    "a refusal": Kind(_messages(USER, {"role": "assistant", "content": None, "refusal": "No."}), "No.</s>"),
    "a refusal as a part": Kind(
        _messages(USER, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}), "No.</s>"
    ),
    "reasoning_content": Kind(_messages(USER, {**BOT, "reasoning_content": "why"}), "(why)b</s>"),
    "thinking": Kind(_messages(USER, {**BOT, "thinking": "why"}), "(why)b</s>"),
    "reasoning": Kind(_messages(USER, {**BOT, "reasoning": "why"}), "(why)b</s>"),
    "blocks of thinking and tools": Kind(
        {
            "system": "s",
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "why"}, {"type": "text", "text": "b"},
                        {"type": "tool_use", "id": "t", "name": "weather", "input": {"place": "Kyoto"}},
                    ],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "rain"}]},
                BOT,
            ],
        },
        f"(why)b{CALLED}</s>¦b</s>", "<system>s</s><user>a</s>",
    ),
    "a picture": Kind(_messages({"role": "user", "content": [{"type": "image_url"}]}, BOT), refused="'image_url'"),
    "pictures beside": Kind(_messages(USER, BOT, images=["x.png"]), refused="has images: only texts"),
    # ShareGPT's and its like
    "conversations": Kind(
        {"id": "1", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "b</s>"
    ),
    "conversations with a system and tools": Kind(
        {
            "system": "s", "tools": json.dumps([WEATHER["function"]]),
            "conversations": [
                {"from": "human", "value": "a"},
                {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": {"place": "Kyoto"}})},
                {"from": "observation", "value": "rain"}, {"from": "gpt", "value": "b"},
            ],
        },
        f"{CALLED}</s>¦b</s>", "<system>s</s><user>a</s>",
    ),
    "conversation": Kind({"conversation": [USER, BOT]}, "b</s>"),
    "contents": Kind(
        {
            "systemInstruction": {"role": "system", "parts": [{"text": "s"}]},
            "contents": [{"role": "user", "parts": [{"text": "a"}]}, {"role": "model", "parts": [{"text": "b"}]}],
        },
        "b</s>", "<system>s</s><user>a</s>",
    ),
    "turns that alternate": Kind({"dialog": ["a", "b", "c", "d"]}, "b</s>¦d</s>"),
    "messages as a text of JSON": Kind({"messages": json.dumps([USER, BOT])}, "b</s>"),
    "nobody answers": Kind(_messages(USER), refused="nothing in them to train on"),
    # a question and its answer
    "Alpaca": Kind({"instruction": "a", "input": "i", "output": "b", "text": "### a"}, "b</s>", "<user>a\n\ni</s>"),
    "Alpaca without an input": Kind({"instruction": "a", "input": "", "output": "b"}, "b</s>", "<user>a</s>"),
    "Alpaca with a history": Kind(
        {"instruction": "c", "input": "", "output": "d", "history": [["a", "b"]]}, "d</s>", "<assistant>b</s>"
    ),
    "Dolly": Kind({"instruction": "a", "context": "i", "response": "b", "category": "qa"}, "b</s>", "<user>a\n\ni</s>"),
    "OpenOrca": Kind({"id": "1", "system_prompt": "s", "question": "a", "response": "b"}, "b</s>", "<system>s</s>"),
    "GSM8K": Kind({"question": "a", "answer": "b"}, "b</s>", "<user>a</s>"),
    "prompt and response": Kind({"prompt": "a", "response": "b"}, "b</s>", "<user>a</s>"),
    "problem and solution": Kind({"problem": "a", "solution": "b"}, "b</s>", "<user>a</s>"),
    "two answers": Kind({"question": "a", "answer": "b", "response": "c"}, refused="which one is the answer"),
    # prompts and completions, texts
    "prompt and completion": Kind({"prompt": "a ", "completion": "b"}, "b</s>", "a b</s>"),
    "prompt as messages": Kind({"prompt": [USER, BOT, USER], "completion": [{**BOT, "content": "d"}]}, "d</s>"),
    "prompt as messages, completion a text": Kind({"prompt": [USER], "completion": "b"}, "b</s>", "<user>a</s>"),
    "text": Kind({"text": "abc"}, "bc</s>"),
    "text beside messages": Kind(_messages(USER, BOT, text="<user>a"), "b</s>"),
    # named
    "a column": Kind({"chat": {"turns": [USER, BOT]}}, "b</s>", flags=("--column", "messages=chat.turns")),
    "templates": Kind(
        {"title": "T", "body": {"en": "B"}}, "B</s>", "Title: T\nB</s>",
        ("--column", "prompt=Title: {title}\n", "--column", "completion={body.en}"),
    ),
    "a column that isn't there": Kind({"text": "a"}, refused="has no chat", flags=("--column", "messages=chat")),
    "settings of the template": Kind(
        _messages(USER, BOT, chat_template_kwargs={"loud": True, "tools": [], "eos_token": "x"}), "b!</s>"
    ),
    # no rows
    "DPO": Kind({"prompt": "a", "chosen": "b", "rejected": "c"}, refused="is preference data: chosen and rejected"),
    "KTO": Kind({"prompt": "a", "completion": "b", "label": False}, refused="is preference data: an answer"),
    "OpenAI's preferences": Kind(
        {"input": {"messages": [USER]}, "preferred_output": [BOT], "non_preferred_output": [BOT]},
        refused="is preference data: preferred_output",
    ),
    "prompts alone": Kind({"prompt": [USER]}, refused="a prompt without an answer, as for GRPO or PPO"),
    "embeddings": Kind({"anchor": "a", "positive": "b"}, refused="for a model of embeddings"),
    "a classifier": Kind({"premise": "a", "hypothesis": "b", "label": 1}, refused="for a classifier"),
    "tokens": Kind({"input_ids": [1, 2], "labels": [1, 2]}, refused="are tokens already"),
    "nothing known": Kind({"title": "a"}, refused="no format has these keys"),
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_base("llama", tmp_path_factory.mktemp("base") / "llama", max_position_embeddings=4096)
    (folder / "chat_template.jinja").write_text(PLAIN)
    return folder


def learnt(said: Said) -> list[tuple[str, str]]:
    """Of each sample: what is learnt, joined, and its whole text."""
    assert said.code == 0, said.err
    return [
        ("¦".join(text for text, is_learnt in sample["parts"] if is_learnt), "".join(t for t, _ in sample["parts"]))
        for sample in json.loads(said.out)["result"]["samples"]
    ]


def shown(command: Command, base: Path, *given: object) -> Said:
    return command("--json", "train", base, *given, "--show", 9, "--eval-split", 0, "--max-len", 4096)


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_of_row_is_trained_on_or_refused_by_name(
    name: str, base: Path, tmp_path: Path, lorahub_command: Command
) -> None:
    kind = KINDS[name]
    said = shown(lorahub_command, base, write_rows(tmp_path / "rows.jsonl", [kind.row]), *kind.flags)
    if kind.refused:
        assert said.code == 7
        assert kind.refused in json.loads(said.out)["error"]["message"] + str(json.loads(said.out)["error"]["hint"])
        return
    ((learns, whole),) = learnt(said)
    assert learns == kind.learnt
    assert kind.shown in whole


def test_what_is_not_read_is_told(base: Path, tmp_path: Path, lorahub_command: Command) -> None:
    row = {"id": 1, "messages": [USER, {**BOT, "mood": "glad"}], "source": "x", "extra": None}
    said = shown(lorahub_command, base, write_rows(tmp_path / "rows.jsonl", [row]))
    notes = json.loads(said.out)["result"]["notes"]
    assert [note for note in notes if "is not read" in note] == [
        f"the key {key!r} of 1 rows is not read" for key in ("id", "messages[].mood", "source")
    ]


def test_a_base_without_a_template_reads_questions_as_alpaca_wrote_them(tmp_path: Path) -> None:
    rows = write_rows(
        tmp_path / "rows.jsonl",
        [{"instruction": "Add", "input": "2 3", "output": "5"}, {"question": "a", "answer": "b"}],
    )
    tokenizer = tokenizer_of("")
    samples = prepare(rows, tokenizer, TrainConfig(eval_split=0.0)).train
    assert tokenizer.decode(samples.ids) == (
        "### Instruction:\nAdd\n\n### Input:\n2 3\n\n### Response:\n5</s>### Instruction:\na\n\n### Response:\nb</s>"
    )
    assert samples.supervised_tokens == 4


def test_the_preview_is_in_colour_on_a_terminal(base: Path, tmp_path: Path, lorahub_command: Command) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"messages": [USER, {**BOT, "content": "我"}]}])
    plain = lorahub_command("train", base, rows, "--show", 1, "--eval-split", 0)
    assert "<user>a</s><assistant>⟦我</s>⟧" in plain.out
    assert "line 1: 8 tokens, 4 of them learnt" in plain.out
    coloured = lorahub_command("--color", "always", "train", base, rows, "--show", 1, "--eval-split", 0)
    assert "<assistant>\033[32m我</s>\033[0m" in coloured.out


# --- what rows are written in -----------------------------------------------------------------------------------------

ROWS = [{"prompt": f"q{n} ", "completion": 'ü, "x"\n我'} for n in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
TABLE = pa.Table.from_pylist(ROWS)
CHATS = pa.Table.from_pylist([{"messages": [USER, BOT], "tools": None}, {"messages": [USER, BOT], "tools": "[]"}])


def _csv(delimiter: str) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, ROWS[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue().encode()


def _written(write: Callable[[Any], Any]) -> bytes:
    sink = io.BytesIO()
    write(sink)
    return sink.getvalue()


def _ipc(new: Callable[..., Any]) -> bytes:
    def write(sink: Any) -> None:
        with new(sink, TABLE.schema) as writer:
            writer.write_table(TABLE)

    return _written(write)


PARQUET = _written(lambda sink: pyarrow.parquet.write_table(TABLE, sink))
FILES: dict[str, bytes] = {
    "lines.jsonl": LINES.encode(),
    "lines.ndjson": LINES.encode(),
    "lines": LINES.encode(),
    "list.json": json.dumps(ROWS, indent=2).encode(),
    "list-by-another-name.jsonl": json.dumps(ROWS).encode(),
    "wrapped.json": json.dumps({"version": 1, "data": ROWS}, indent=2).encode(),
    "marked.jsonl": b"\xef\xbb\xbf" + LINES.encode(),
    "marked.json": b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
    "utf16.jsonl": LINES.encode("utf-16"),
    "crlf.jsonl": LINES.replace("\n", "\r\n").encode(),
    "packed.jsonl.gz": gzip.compress(LINES.encode()),
    "packed.jsonl.bz2": bz2.compress(LINES.encode()),
    "packed.json.xz": lzma.compress(json.dumps(ROWS).encode()),
    "packed.jsonl.zst": bytes(pa.compress(LINES.encode(), "zstd", asbytes=True)),
    "commas.csv": _csv(","),
    "semicolons.csv": b"\xef\xbb\xbf" + _csv(";"),
    "tabs.tsv": _csv("\t"),
    "packed.csv.gz": gzip.compress(_csv(",")),
    "table.parquet": PARQUET,
    "packed.parquet.gz": gzip.compress(PARQUET),
    "stream.arrow": _ipc(pyarrow.ipc.new_stream),
    "file.arrow": _ipc(pyarrow.ipc.new_file),
    "table.feather": _written(lambda sink: pyarrow.feather.write_feather(TABLE, sink)),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_whatever_it_is_written_in(
    name: str, base: Path, tmp_path: Path, lorahub_command: Command
) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    said = learnt(shown(lorahub_command, base, tmp_path / name))
    assert said == [(f"{row['completion']}</s>", f"{row['prompt']}{row['completion']}</s>") for row in ROWS]


BROKEN: dict[str, tuple[bytes, str]] = {
    "cut.jsonl.gz": (gzip.compress(LINES.encode())[:-9], "can't read"),
    "no.jsonl.gz": (b"nothing", "can't read"),
    "no.jsonl.zst": (b"nothing", "can't read"),
    "no.jsonl.xz": (b"nothing", "can't read"),
    "no.parquet": (b"nothing", "can't be read"),
    "no.arrow": (b"ARROW1nothing", "can't be read"),
    "cut.parquet": (PARQUET[:-20], "can't be read"),
    "cut.json": (json.dumps(ROWS).encode()[:-9], "not JSON"),
    "ragged.csv": (b"prompt,completion\na,b\nc\n", "line 3 of"),
    "latin.csv": ("prompt,completion\nü,b\n".encode("latin-1"), "is no CSV"),
    "latin.txt": ("ü".encode("latin-1"), "is not UTF-8"),
    "open.csv": (b'prompt,completion\na,"b\n', "is no CSV"),
    "empty.csv": (b"prompt,completion\n", "has no rows"),
    "empty.json": (b"[]", "has no rows"),
    "number.json": (b"7", "not a JSON object"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_sentence(name: str, base: Path, tmp_path: Path, lorahub_command: Command) -> None:
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    said = shown(lorahub_command, base, tmp_path / name)
    assert said.code in (2, 7)
    error = json.loads(said.out)["error"]
    assert message in error["message"]
    assert name in error["message"]


def test_a_row_of_a_table_is_named_by_its_number(base: Path, tmp_path: Path, lorahub_command: Command) -> None:
    rows = [*ROWS, {"prompt": "a", "completion": None}]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    error = json.loads(shown(lorahub_command, base, tmp_path / "rows.parquet").out)["error"]
    assert "1 row of" in error["message"]
    assert "row 4: has prompt: a prompt without an answer" in error["message"]


def test_tables_hold_chats_and_what_is_null_is_not_there(base: Path, tmp_path: Path, lorahub_command: Command) -> None:
    pyarrow.parquet.write_table(CHATS, tmp_path / "chats.parquet")
    assert [learns for learns, _ in learnt(shown(lorahub_command, base, tmp_path / "chats.parquet"))] == ["b</s>"] * 2


def test_a_text_that_is_too_long_is_divided(base: Path, tmp_path: Path, lorahub_command: Command) -> None:
    (tmp_path / "book.txt").write_text("0123456789" * 3)
    said = lorahub_command(
        "--json", "train", base, tmp_path / "book.txt", "--show", 9, "--eval-split", 0, "--max-len", 16
    )
    assert "".join(text for _, text in learnt(said)) == "0123456789" * 3 + "</s>"
    assert json.loads(said.out)["result"]["notes"][0] == "1 of 1 rows divided into several samples: row 1"


# --- folders and several files ----------------------------------------------------------------------------------------


def _names(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({"text": f" {name}"}) + "\n")
    return folder


def _saved(folder: Path, name: str) -> None:
    """As `Dataset.save_to_disk` leaves it."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist([{"text": f" {name}"}])
    with pyarrow.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (folder / "dataset_info.json").write_text("{}")


def test_a_folder_is_read_and_its_tests_are_not(base: Path, tmp_path: Path, lorahub_command: Command) -> None:
    repository = _names(tmp_path / "repository", "data/train-00000.jsonl", "data/train-00001.jsonl", "data/test.jsonl")
    (repository / "README.md").write_text("# A data set")
    (repository / ".cache").mkdir()
    (repository / ".cache" / "train.jsonl").write_text("no")
    loose = _names(tmp_path / "loose", "a.jsonl", "b/b.jsonl", "valid.jsonl")
    saved, both = tmp_path / "saved", tmp_path / "both"
    _saved(saved, "saved")
    for split in ("train", "test"):
        _saved(both / split, split)
    (both / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    texts = tmp_path / "texts"
    (texts / "a").mkdir(parents=True)
    (texts / "a" / "one.txt").write_text("one")
    (texts / "two.md").write_text("two")
    wanted = {
        repository: [" data/train-00000.jsonl</s>", " data/train-00001.jsonl</s>"],
        loose: [" a.jsonl</s>", " b/b.jsonl</s>"],
        saved: [" saved</s>"],
        both: [" train</s>"],
        texts: ["one</s>", "two</s>"],
    }
    for folder, expected in wanted.items():
        assert [whole for _, whole in learnt(shown(lorahub_command, base, folder))] == expected
    (tmp_path / "none").mkdir()
    assert "holds no file of rows" in shown(lorahub_command, base, tmp_path / "none").out


def test_several_files_have_weights(base: Path, tmp_path: Path, lorahub_command: Command) -> None:
    tokenizer = tokenizer_of(PLAIN)
    one = write_rows(tmp_path / "one.jsonl", [{"text": f"a{n}"} for n in range(100)])
    other = write_rows(tmp_path / "other.jsonl", [{"prompt": f"b{n}", "completion": "c"} for n in range(10)])
    config = TrainConfig(eval_split=0.0)
    made = prepare({str(one): 0.5, str(other): 2}, tokenizer, config)
    assert 35 <= made.facts["train"]["rows"] - 20 <= 65
    again = prepare([f"{one}:0.5", f"{other}:2"], tokenizer, config)
    assert again.train.ids == made.train.ids
    assert {made.train.place(0), made.train.place(len(made.train) - 1)} == {made.train.lines[0], "2:10"}
    assert [(file["rows"], file["weight"]) for file in made.facts["files"]] == [(100, 0.5), (10, 2)]
    assert made.facts["format"] == "completion, text"
    assert "a second time" not in "".join(made.notes())
    with pytest.raises(InvalidUsage, match="the weight of"):
        prepare(f"{one}:0", tokenizer, config)
    run = lorahub.train(
        base, [one, f"{other}:3"], TrainConfig(steps=1, rank=2, batch_tokens=256, base_name="acme/tiny"),
        output=tmp_path / "out",
    )  # fmt: skip
    assert [file["name"] for file in run.manifest["data"]["files"]] == ["one.jsonl", "other.jsonl"]  # type: ignore[index]
    bad = write_rows(tmp_path / "bad.jsonl", [{"text": "a"}, {"title": "b"}])
    assert f"1 line of {bad}" in shown(lorahub_command, base, one, bad).out
