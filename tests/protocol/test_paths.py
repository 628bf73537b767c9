"""No path gets out of its folder or is read as another one; what the Hub takes is taken."""

from urllib.parse import quote

import pytest
from lorahub.errors import InvalidPath
from lorahub.protocol.paths import FilePath, check_tree, parse_path

TRAVERSALS = [
    "..", "../x", "a/..", "a/../x", "../../etc/passwd", "./x", "a/./b", ".", "/x", "//x", "/etc/passwd", "a//b", "a/",
    "..\\x", "a\\..\\b", "C:\\x", "\\\\server\\share", "a\\b", "",
]  # fmt: skip
CHARACTERS = [f"a{chr(code)}b" for code in [*range(32), 127, *range(128, 160)]]
REORDERING = [f"a{c}b" for c in "\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"]
LONE = ["a\ud800b", "\udfff"]
GIT = [".git", ".GIT", ".git/config", "a/.git/x", ".Git/hooks/post-checkout"]
LONG = ["a" * 256, "é" * 128, "/".join(["a" * 200] * 6), "a/" * 600 + "a", "日" * 90]
REFUSED = [*TRAVERSALS, *CHARACTERS, *REORDERING, *LONE, *GIT, *LONG]

ACCEPTED = [
    "README.md", "adapter_model.safetensors", ".gitattributes", ".gitignore", "1_Pooling/config.json",
    "my file (1).md", "日本語.txt", "naïve/é.json", "a/b/c/d.txt", "tokenizer.model", "checkpoint-100/x.json", "a..b",
    "..a", "...a", "a...b", "console.txt", "com10.txt", "nul1", "git/config", "%2e%2e/x", "~", "#1", "a&b=c", "-", "_",
    "what?.md", "10:30.png", 'say "hi".txt', "a<b>c|d*e.txt", "ends in a dot.", "ends in a space ", " begins with one",
    "con", "a/PRN.txt", "C:x", "a:stream", "~:x", "...", "e\u0301.txt", "\u1100\u1161", "\u05d0\u200f.txt",
    "\U0001f469\u200d\U0001f4bb.png", "\ue000",
]  # fmt: skip


@pytest.mark.parametrize("path", REFUSED, ids=ascii)
def test_a_dangerous_path_is_refused(path: str) -> None:
    with pytest.raises(InvalidPath) as refused:
        parse_path(path)
    assert refused.value.message.isascii(), "the message would carry the trick on"


@pytest.mark.parametrize("path", ACCEPTED)
def test_a_real_path_is_accepted(path: str) -> None:
    assert parse_path(path) == path


def test_once_decoded_nothing_is_decoded_again() -> None:
    """`%2e%2e` is a harmless name once the address was decoded; decoding it again would leave the folder."""
    assert parse_path("%2e%2e%2fx") == "%2e%2e%2fx"
    assert quote("%2e", safe="") == "%252e"


@pytest.mark.parametrize("paths", [["a", "a/b"], ["a/b", "a/b/c/d"]])
def test_a_file_is_no_folder(paths: list[str]) -> None:
    with pytest.raises(InvalidPath):
        check_tree(FilePath(path) for path in paths)


def test_names_that_some_file_system_takes_for_one_are_a_tree() -> None:
    """A folder that can't hold both says so when they are written: `test_local_names.py`."""
    check_tree(FilePath(path) for path in ["README.md", "readme.md", "A", "a/b", "\u00e9", "e\u0301"])
