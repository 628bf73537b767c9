"""What `.gitignore` leaves out is what git leaves out, and no rule of a client costs more than its bound."""

import itertools
import random
import subprocess
import time
from pathlib import Path

import pytest
from lorahub.errors import InvalidInput
from lorahub_registry.features.publishing.ignore_rules import is_ignored, parse_rules

RULES = (
    r"""
*.py[cod]|__pycache__/|*.so|.Python|build/|/dist|*.egg-info/|.env|checkpoint-*|!checkpoint-9/|runs/**|!runs/keep.txt
**/logs|**/logs/*.txt|logs/**/debug.log|/*|!/a|/a/*|!/a/b|a/**/b|a/**|**|***|a/***/b|x**y|x**/y|a**/b|/a**b|foo//
//foo|\#note|#note|\!important|!important|trailing\ |trailing  |tab	|dos.txt|[a|a\|a\\b|\a|?|??|a?b|a/?|*/b|*/*/c
[ab].txt|[!ab].txt|[^ab].txt|[a-c]x|[]x]y|[!]]y|[a-]z|[-a]z|[a\-c]z|[\]]y|[[:digit:]]n|[[:alpha:][:digit:]]n
[[:none:]]n|[[:digit]n|[z-a]q|a/*|!a/b|**/a/**/b|é.txt|?.txt|[é].txt|*é*|/|!|//|a b|.*|!.gitignore|[!a-z]|[a-c-e]f
[[-a]x|[[]x|[a/b]c|a[/]b|a[!x]b|*[!x]|\*|a\*b|foo\|foo\/|**foo|foo**|a/**b|a/b**/c|**/**/c|a/**/**/b|*.|.|?**/b
/**|/**/b|!/**|/***|[a-[:digit:]]x|[a-\]]x|[\|[a-\
""".strip("\n")
    .replace("\n", "|")
    .split("|")
)
PATHS = """
m.pyc m.pyx a/m.pyd __pycache__ a/__pycache__/x build b/build/x build/x dist a/dist .env a/.env checkpoint-10
checkpoint-9/x runs runs/keep.txt runs/a/b logs a/logs a/logs/x.txt logs/x.txt logs/debug.log logs/a/b/debug.log
a a/b a/b/c a/x/b a/x/y/b a/c xy xay x/y xa/y xa/b/y ab aab foo foo/x #note !important important dos.txt a.txt b.txt
c.txt é.txt ax bx dx ]y -z az cz bz 1n zn :n dn tn q a|b a\\b bb b/b c/d/c b/c x/y/c .x .gitignore f -f ef cf [x -x
a*b axb foo\\ afoo fooz c a/b/xb A M.PYC checkpoint-10/a/b 日本.txt a[b fooz/x xa/x
""".split()
PATHS += ["trailing ", "trailing", "tab\t", "tab", "a b", "a /b", " a"]


def _of_git(folder: Path, sets: list[str], paths: list[str]) -> list[set[str]]:
    """What git itself ignores, with each set of rules in a folder of its own."""
    for number, rules in enumerate(sets):
        (folder / str(number)).mkdir()
        (folder / str(number) / ".gitignore").write_text(rules)
    subprocess.run(["git", "init", "-q", folder], check=True)
    asked = "".join(f"{number}/{path}\0" for number in range(len(sets)) for path in paths)
    plain = ["-c", "core.excludesFile=", "-c", "core.ignoreCase=false"]
    found = subprocess.run(
        ["git", *plain, "check-ignore", "--no-index", "--stdin", "-z"],
        cwd=folder,
        input=asked.encode(),
        capture_output=True,
        check=True,
    )
    ignored: list[set[str]] = [set() for _ in sets]
    for line in found.stdout.decode().split("\0")[:-1]:
        number, _, path = line.partition("/")
        ignored[int(number)].add(path)
    return ignored


def test_ignored_is_what_git_ignores(tmp_path: Path) -> None:
    """Each rule alone, and 1,500 files of several rules of which some take back what others say."""
    rules = [*RULES, "a|b", "[a|b]c"]
    chosen = random.Random(16)
    sets = [*rules, "dos.txt\r\n*.x\r\n", "\ufeff*.txt\n"]
    for _ in range(1500):
        some = chosen.choices(rules, k=chosen.randint(2, 7))
        sets.append("\n".join(chosen.choice(["", "", "!"]) + rule + chosen.choice(["", "", "/"]) for rule in some))
    expected = _of_git(tmp_path, sets, PATHS)
    for text, ignored in zip(sets, expected, strict=True):
        own = parse_rules(text)
        assert {path for path in PATHS if is_ignored(path, own)} == ignored, text
    assert sum(map(len, expected)) > 10_000


HOSTILE = {
    "folders": ["/".join(["**/a"] * 50) + "/x"] * 1000,
    "stars": ["*a" * 120 + "x"] * 1000,
    "taking back": [("!" if number % 2 else "") + f"**/*{number}*a*a*a*a*x" for number in range(1000)],
    "spaces": ["*" + " " * 250 + "x" for _ in range(1000)],
    "words": [f"folder{number}/**/*.{number}x" for number in range(1000)],
    "brackets": ["[!b]" * 60 + "x"] * 1000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_rules_of_a_client_cost_no_more_than_their_bound(kind: str) -> None:
    """Ten thousand paths and as many rules as are read: answered, or refused, in seconds of a processor."""
    paths = ["/".join(["a" * 40] * 5) + f"{number}/f" for number in range(10_000)]
    begun = time.process_time()
    rules = parse_rules("\n".join(HOSTILE[kind]))
    with pytest.raises(InvalidInput, match="too many paths"):
        all(is_ignored(path, rules) is not None for path in paths)
    assert time.process_time() - begun < 20


def test_a_project_of_ten_thousand_files_is_sorted_out_at_once() -> None:
    lines = [f"*.{a}{b}" for a, b in itertools.product("abc", "vwxyz")] + [
        "build/",
        "!build/keep",
        "/runs/**",
        "*.py[co]",
    ]
    rules = parse_rules("\n".join(lines * 5))
    begun = time.process_time()
    ignored = [
        is_ignored(f"src/part{number // 100}/file{number}.{'pyc' if number % 2 else 'py'}", rules)
        for number in range(10_000)
    ]
    assert ignored == [bool(number % 2) for number in range(10_000)]
    assert time.process_time() - begun < 3
