"""Builds the site of the documents into the registry's package, which serves it at /docs. Run: make site

What is made of the code is filled in, links out of docs/ are mended, and Zensical builds it; every warning is an error.
The scripts that its pages have inside become files: the registry lets no page run a script that isn't one.
"""

import hashlib
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

import reference

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
TARGET = ROOT / "registry" / "lorahub_registry" / "site"
MARK = ROOT / "registry" / "lorahub_registry" / "assets" / "mark.svg"

OF_THE_ROOT = {name: name.lower() for name in ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md")}
"""Documents of the root that are pages too."""
LISTED = ("rules", "extending", "decisions")
"""Folders whose pages are all in the navigation, in order of their names."""
_LEFT_OUT = ("docs/decisions/template.md",)
_SUFFIXES = (".md", ".png", ".svg", ".css", ".json")
_MADE = re.compile(r"<!-- made of the code: ([a-z ]+) -->")
_LINK = re.compile(r"\[([^\]\n]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")
_MENTION = re.compile(r"(?P<code>```.*?```|`[^`\n]*`|\]\([^)\n]*\))|\bdocs/[a-zA-Z0-9/-]+\.md", re.DOTALL)
"""A document that is named in a text; what is code or a link's address is left alone."""
_CODE_IN_A_ROW = re.compile(r"(?<=[| ])`[^`\n]*\\\|[^`\n]*`")
"""With a line that GitHub wants escaped in tables, and Python-Markdown doesn't."""
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def build(target: Path = TARGET) -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        found = pages()
        for path, content in found.items():
            place = work / "pages" / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        (work / "zensical.toml").write_text(_configuration(found))
        program = Path(sys.executable).with_name("zensical")
        subprocess.run([program, "build", "--strict"], cwd=work, check=True)  # noqa: S603 (our own)
        _scripts_to_files(work / "built")
        shutil.rmtree(target, ignore_errors=True)
        shutil.move(work / "built", target)


# --- what is built ----------------------------------------------------------------------------------------------------


def pages() -> Mapping[str, bytes]:
    """Every file of the site's sources, by its path below docs/."""
    files = {path.relative_to(ROOT).as_posix(): path for path in sorted(FOLDER.rglob("*")) if path.suffix in _SUFFIXES}
    files = {name: path for name, path in files.items() if name not in _LEFT_OUT}
    files |= {name: ROOT / name for name in OF_THE_ROOT}
    places = {source: OF_THE_ROOT.get(source, source.removeprefix("docs/")) for source in files}
    found = {places[source]: path.read_bytes() for source, path in files.items()}
    texts = {place: found[place].decode() for place in found if place.endswith(".md")}
    titles = {place: text.lstrip("# ").partition("\n")[0] for place, text in texts.items()}
    for source, place in places.items():
        if place in texts:
            found[place] = _filled(texts[place], source, places, titles).encode()
    return {**found, "assets/mark.svg": MARK.read_bytes()}


def _filled(text: str, source: str, places: Mapping[str, str], titles: Mapping[str, str]) -> str:
    """With what is made of the code, and with links that are right in the site and have the titles of pages."""
    here = posixpath.dirname(places[source])

    def link(found: re.Match[str]) -> str:
        label, path, anchor = found[1], found[2], found[3] or ""
        if not path or re.match(r"[a-z]+:", path):
            return found[0]
        leads_to = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if leads_to not in places:  # a file of the sources that is no page: named, from their root
            return label if label.strip("`") == leads_to else f"{label} (`{leads_to}`)"
        shown = titles[places[leads_to]] if label.endswith(".md") else label
        return f"[{shown}]({posixpath.relpath(places[leads_to], here or '.')}{anchor})"

    def mention(found: re.Match[str]) -> str:
        if found["code"] or found[0] not in places:
            return found[0]
        return f"[{titles[places[found[0]]]}]({posixpath.relpath(places[found[0]], here or '.')})"

    made = _MADE.sub(lambda found: reference.MADE[found[1]](), text)
    linked = _MENTION.sub(mention, _LINK.sub(link, made))
    return _CODE_IN_A_ROW.sub(lambda code: code[0].replace(r"\|", "|"), linked)


def _configuration(found: Mapping[str, bytes]) -> str:
    text = (FOLDER / "zensical.toml").read_text()
    for folder in LISTED:
        listed = sorted(name for name in found if re.fullmatch(rf"{folder}/[^/]*\.md", name))
        listed.sort(key=lambda name: not name.endswith("README.md"))
        text = text.replace(f'"{folder}/"', "[" + ", ".join(f'"{name}"' for name in listed) + "]")
    return text.replace("{version}", version())


# --- afterwards -------------------------------------------------------------------------------------------------------


def _scripts_to_files(site: Path) -> None:
    """The few scripts that stand inside of pages are the same on many of them."""
    for page in site.rglob("*.html"):
        depth = os.path.relpath(site, page.parent)

        def named(found: re.Match[str], depth: str = depth) -> str:
            name = f"assets/javascripts/{hashlib.sha256(found[1].encode()).hexdigest()[:16]}.js"
            (site / name).write_text(found[1])
            return f'<script src="{depth}/{name}"></script>'

        page.write_text(_SCRIPT.sub(named, page.read_text()))


def version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


if __name__ == "__main__":
    build(*map(Path, sys.argv[1:]))
