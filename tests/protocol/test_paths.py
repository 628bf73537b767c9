"""No path gets out of its folder, hides, or means two things on two file systems."""

import itertools
from urllib.parse import quote

import pytest
from lorahub.errors import InvalidPath
from lorahub.protocol.paths import FilePath, check_tree, parse_path

TRAVERSALS = [
    "..", "../x", "a/..", "a/../x", "../../etc/passwd", "./x", "a/./b", ".", "/x", "//x", "/etc/passwd", "a//b", "a/",
    "..\\x", "a\\..\\b", "C:\\x", "C:x", "\\\\server\\share", "a\\b", "file:x", "a:stream", "~:x", "",
]  # fmt: skip
CHARACTERS = [f"a{chr(code)}b" for code in [*range(32), 127, *range(128, 160)]]
INVISIBLE = [
    f"a{c}b"
    for c in "\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e"
    "\u2060\u2061\u2062\u2063\u2064\u2066\u2067\u2068\u2069\ufeff\ufff9\ue000\U000f0000\U000e0041"
]
DEVICES = [
    f"{folder}{name}{suffix}"
    for folder, name, suffix in itertools.product(
        ("", "a/"), ("con", "PRN", "Aux", "nul", "COM1", "lpt9"), ("", ".txt", ".tar.gz")
    )
]
SPECIAL = [f"a{c}b" for c in '*?"<>|']
ENDS = ["a.", "a ", " a", "a/b.", "a/b ", "a/ b", "a./b", "a /b", "...", "a/...", " "]
GIT = [".git", ".GIT", ".git/config", "a/.git/x", ".Git/hooks/post-checkout"]
UNICODE = ["e\u0301", "a/o\u0308", "\u1100\u1161"]
LONG = ["a" * 256, "é" * 128, "/".join(["a" * 200] * 6), "a/" * 600 + "a", "日" * 90]
REFUSED = [*TRAVERSALS, *CHARACTERS, *INVISIBLE, *DEVICES, *SPECIAL, *ENDS, *GIT, *UNICODE, *LONG]

ACCEPTED = [
    "README.md", "adapter_model.safetensors", ".gitattributes", ".gitignore", "1_Pooling/config.json",
    "my file (1).md", "日本語.txt", "naïve/é.json", "a/b/c/d.txt", "tokenizer.model", "checkpoint-100/x.json", "a..b",
    "..a", "...a", "a...b", "console.txt", "com10.txt", "nul1", "git/config", "%2e%2e/x", "~", "#1", "a&b=c", "-", "_",
]  # fmt: skip


@pytest.mark.parametrize("path", REFUSED, ids=ascii)
def test_a_dangerous_path_is_refused(path: str) -> None:
    with pytest.raises(InvalidPath) as refused:
        parse_path(path)
    assert refused.value.message.isascii(), "the message would carry the trick on"


@pytest.mark.parametrize("path", ACCEPTED)
def test_a_real_path_is_accepted(path: str) -> None:
    assert parse_path(path) == path


def test_the_corpus_is_large() -> None:
    assert len(set(REFUSED)) >= 150


def test_once_decoded_nothing_is_decoded_again() -> None:
    """`%2e%2e` is a harmless name once the address was decoded; decoding it again would leave the folder."""
    assert parse_path("%2e%2e%2fx") == "%2e%2e%2fx"
    assert quote("%2e", safe="") == "%252e"


@pytest.mark.parametrize(
    "paths",
    [
        ["README.md", "readme.md"],
        ["A/x", "a/y"],
        ["a/B/x", "a/b/y"],
        ["a", "a/b"],
        ["A", "a/b"],
        ["straße", "STRASSE"],
        ["a/b", "a/b/c/d"],
    ],
)
def test_a_tree_that_some_file_system_cannot_hold_is_refused(paths: list[str]) -> None:
    with pytest.raises(InvalidPath):
        check_tree(FilePath(path) for path in paths)


def test_an_ordinary_tree_is_accepted() -> None:
    check_tree(FilePath(path) for path in ["a", "b/a", "b/c", "B.txt", "b.md", "ab"])
