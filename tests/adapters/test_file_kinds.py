"""What a file is, by its name and its bytes: no pickle goes by another name, and no text is called a pickle."""

import gzip
import io
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from builders import safetensors_bytes
from corpus import file_kinds as corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from lorahub.adapters.content import Content
from lorahub.adapters.file_kinds import check_file, is_by_product
from lorahub.adapters.pickles import is_pickle
from lorahub.errors import UnsafeFile


@pytest.mark.parametrize("name", sorted(corpus.pickles()))
def test_a_pickle_is_one_under_any_name(name: str) -> None:
    content = corpus.pickles()[name]
    for path in ("notes.txt", "picture.png", "weights", "adapter_model.safetensors"):
        with pytest.raises(UnsafeFile, match="pickle"):
            check_file(path, Content.of(content))


@pytest.mark.parametrize("name", sorted(corpus.archives_of_pickles()))
def test_a_pickle_is_found_inside(name: str) -> None:
    with pytest.raises(UnsafeFile) as refused:
        check_file("data.dat", Content.of(corpus.archives_of_pickles()[name]))
    assert refused.value.hint


@pytest.mark.parametrize("path", sorted(corpus.ordinary()))
def test_all_else_is_ordinary_content(path: str) -> None:
    check_file(path, Content.of(corpus.ordinary()[path]))


@pytest.mark.parametrize("path", corpus.PICKLED_NAMES)
def test_weights_that_loaders_open_are_refused_by_name(path: str) -> None:
    with pytest.raises(UnsafeFile):
        check_file(f"deep/{path}", Content.of(b"harmless"))


def test_by_products_are_known_by_name_wherever_they_are() -> None:
    assert all(map(is_by_product, corpus.BY_PRODUCTS))
    assert is_by_product("checkpoint-10/optimizer.pt")
    assert not [path for path in (*corpus.ordinary(), *corpus.PICKLED_NAMES) if is_by_product(path)]


@pytest.mark.parametrize("header_bytes", [640, 896, 1152, 1408])
def test_the_length_of_a_safetensors_header_is_no_mark_of_a_pickle(header_bytes: int) -> None:
    """80 02, 80 03 … begin both."""
    spare = header_bytes - len(safetensors_bytes({"w": np.ones(1)}, {"note": ""})) + 8 + 4
    weights = safetensors_bytes({"w": np.ones(1)}, {"note": "x" * spare})
    assert weights[:2] in (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")
    check_file("adapter_model.safetensors", Content.of(weights))


def test_a_registry_that_takes_only_what_is_known_takes_no_more() -> None:
    taken = {path for path, content in corpus.ordinary().items() if _is_known(path, content)}
    assert taken == {
        "pytorch_model.bin.index.json", "picture.png", "drawing.svg", "requirements.txt", "words.txt", "formula.txt",
        "trainer_state.json", "zero_to_fp32.py",
    }  # fmt: skip
    assert _is_known("README.md", b"# An adapter")
    assert _is_known(".gitattributes", b"*.safetensors filter=lfs")
    assert not _is_known("tool.txt", b"\x7fELF\x02")
    assert not _is_known("notes.txt", corpus.ordinary()["notes.zip"])


def _is_known(path: str, content: bytes) -> bool:
    try:
        check_file(path, Content.of(content), taken="known")
    except UnsafeFile:
        return False
    return True


def test_no_text_of_this_distribution_is_a_pickle() -> None:
    root = Path(__file__).parents[2]
    files = [path for place in ("client", "docs", "tests") for path in (root / place).rglob("*") if path.is_file()]
    texts = [path for path in files if path.suffix != ".pt"]
    assert len(texts) > 300
    assert [path for path in texts if is_pickle(Content.of(path.read_bytes()))] == []


@given(
    st.text(min_size=1).map(str.encode)
    | st.lists(st.from_regex(r"[A-Za-z(.][ -~]{0,9}")).map("\n".join).map(str.encode)
)
@settings(max_examples=300, deadline=None)
def test_what_people_write_is_no_pickle(text: bytes) -> None:
    check_file("notes.txt", Content.of(text))


@given(st.sampled_from(sorted(corpus.archives_of_pickles())), st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_archives_are_looked_at_in_bounds(name: str, data: st.DataObject) -> None:
    """Whatever the verdict is, it is given without any other error."""
    content = bytearray(corpus.archives_of_pickles()[name])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(UnsafeFile):
        check_file("data.dat", Content.of(bytes(content)))


def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(64 << 20))
    zipped = corpus.zipped({f"{number}": bytes(16 << 20) for number in range(3)})
    tracemalloc.start()
    for content in (bomb, zipped):
        check_file("data.dat", Content.of(content))
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_a_file_is_read_in_small_pieces() -> None:
    """Of a large file, its beginning; of an archive, its list and its members' beginnings as well."""
    read: list[tuple[int, int]] = []
    large = io.BytesIO(b"text " * (4 << 20))

    def read_range(start: int, stop: int) -> bytes:
        read.append((start, stop))
        large.seek(start)
        return large.read(stop - start)

    check_file("data.txt", Content(read_range, 20 << 20))
    assert read == [(0, 1 << 14)]
