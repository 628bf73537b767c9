"""Files of rows as people have them: what each holds, one row after the other, whatever it is written in.

.jsonl .ndjson .json   one object a line, or one list; UTF-8 with a byte order mark or without, or UTF-16 with one
.csv .tsv              a header, and one row a line
.parquet .arrow .feather   by pyarrow, some rows at a time
.txt .md               one text
a folder               all of these in it; what `datasets` saved; of its splits the one for training
each of the first five may be compressed: .gz .bz2 .xz .zst
"""

import bz2
import codecs
import csv
import gzip
import hashlib
import io
import json
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

from lorahub.adapters.strict_json import parse_json
from lorahub.errors import InvalidConfiguration, InvalidTrainingData, InvalidUsage

Unit = Literal["line", "row"]
Numbered = tuple[int, Any]
"""A line or row, counted from 1: the row, or the bytes of a line of JSON, which are parsed one by one."""

_COMPRESSED: Mapping[str, Callable[[BufferedReader], Any]] = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": lambda raw: _pyarrow(".zst").CompressedInputStream(raw, "zstd"),
}
_DELIMITERS = (",", "\t", ";", "|")
_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_WRAPPERS = ("data", "rows", "train", "examples", "instances")
_EACH_WRAPPER = [[name] for name in _WRAPPERS]
"""What a JSON document calls the list of its rows."""
_TRAINING = re.compile(r"(^|[^a-z])train", re.IGNORECASE)
_HELD_OUT = re.compile(r"(^|[^a-z])(test|valid|validation|val|eval|dev)([^a-z]|$)", re.IGNORECASE)
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file, not read yet. Its format goes by its name; what has an unknown one is taken for JSON."""

    path: Path

    @property
    def unit(self) -> Unit:
        return "line" if self._kind in (".jsonl", ".csv", ".tsv") else "row"

    def rows(self) -> Iterator[Numbered]:
        """Raises `InvalidUsage` where the file can't be opened, `InvalidTrainingData` for what it isn't."""
        yield from _READERS.get(self._kind, _json)(self)

    def digest(self) -> tuple[int, str]:
        """Bytes, sha256."""
        with _reading(self.path), self.path.open("rb") as file:
            return self.path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def _kind(self) -> str:
        suffixes = [suffix.lower() for suffix in self.path.suffixes]
        if suffixes and suffixes[-1] in _COMPRESSED:
            suffixes.pop()
        found = suffixes[-1] if suffixes else ""
        return found if found in _READERS else ".jsonl"

    @contextmanager
    def opened(self) -> Iterator[BufferedReader]:
        """Its bytes, decompressed."""
        unpack = _COMPRESSED.get(self.path.suffix.lower())
        with _reading(self.path), ExitStack() as stack:
            raw = stack.enter_context(self.path.open("rb"))
            yield stack.enter_context(BufferedReader(unpack(raw))) if unpack else raw


def files_of(path: Path) -> list[DataFile]:
    """The files of rows in a folder, or the file itself. Raises `InvalidUsage`."""
    if not path.is_dir():
        return [DataFile(path)]
    found = _saved(path) or _in_repository(path)
    if not found:
        raise InvalidUsage(f"{path} holds no file of rows", hint=f"rows are in {', '.join(_READERS)}")
    return [DataFile(file) for file in found]


# --- folders ----------------------------------------------------------------------------------------------------------


def _saved(folder: Path) -> list[Path]:
    """What `Dataset.save_to_disk` left: the files that state.json names, of the split for training."""
    splits = _document(folder / "dataset_dict.json").get("splits")
    if isinstance(splits, list) and splits:
        names = [str(name) for name in splits]
        return _saved(folder / ("train" if "train" in names else names[0]))
    files = _document(folder / "state.json").get("_data_files")
    if not isinstance(files, list):
        return []
    return [
        folder / Path(str(file["filename"])).name for file in files if isinstance(file, dict) and "filename" in file
    ]


def _document(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _in_repository(folder: Path) -> list[Path]:
    """Files of the commonest kind that the folder holds, texts last; those for training where some are named so."""
    inside = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_hidden(path, folder)]
    rows = [path for path in inside if _is_named(path) and path.name.lower() != "readme.md"]
    tables = [path for path in rows if DataFile(path)._kind not in (".txt", ".md")]  # noqa: SLF001 (this module's own)
    tables = [path for path in tables if path.name != "dataset_info.json"]
    chosen = tables or rows
    named = [path for path in chosen if _TRAINING.search(str(path.relative_to(folder)))]
    return named or [path for path in chosen if not _HELD_OUT.search(str(path.relative_to(folder)))]


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _is_named(path: Path) -> bool:
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return bool(suffixes) and (suffixes[-1] in _READERS or (suffixes[-1] in _COMPRESSED and suffixes[0] in _READERS))


# --- formats ----------------------------------------------------------------------------------------------------------


def _json(file: DataFile) -> Iterator[Numbered]:
    """Lines, each to be parsed on its own; or the objects of one list, where the file begins with one."""
    with file.opened() as raw:
        lines = _in_utf8(raw)
        first = next((line for line in lines if line.strip()), b"")
        if first.lstrip()[:1] == b"[" or _goes_on(first):
            yield from enumerate(_listed(file.path, first + b"".join(lines)), start=1)
            return
        if _wrapped(first) and not any(line.strip() for line in lines):
            yield from enumerate(_listed(file.path, first), start=1)
            return
    with file.opened() as raw:
        yield from enumerate(_in_utf8(raw), start=1)


def _in_utf8(raw: BufferedReader) -> Iterator[bytes]:
    mark = raw.peek(3)[:3]
    if encoding := _MARKS.get(mark[:2]):
        yield from (line.encode() for line in io.TextIOWrapper(raw, encoding=encoding, newline="\n"))
        return
    if mark == codecs.BOM_UTF8:
        raw.read(3)
    yield from raw


def _goes_on(first: bytes) -> bool:
    """Whether an object begins in this line and doesn't end in it."""
    try:
        json.loads(first)
    except ValueError as error:
        return first.lstrip()[:1] == b"{" and getattr(error, "pos", 0) >= len(first.rstrip().decode(errors="replace"))
    return False


def _wrapped(line: bytes) -> bool:
    """Whether it is an object that holds the rows, rather than a row: nothing in it is a list but the rows."""
    try:
        value = parse_json(line, error=InvalidTrainingData)
    except InvalidTrainingData:
        return False
    return isinstance(value, dict) and [name for name in value if isinstance(value[name], list)] in _EACH_WRAPPER


def _listed(path: Path, content: bytes) -> list[Any]:
    try:
        value = parse_json(content, error=InvalidTrainingData)
    except InvalidTrainingData as error:
        raise InvalidTrainingData(f"{path}: {error.message}", hint="one object a line, or a list of them") from None
    if isinstance(value, dict):
        lists = [value[name] for name in _WRAPPERS if isinstance(value.get(name), list)]
        value = lists[0] if len(lists) == 1 else [value]
    if not isinstance(value, list):
        raise InvalidTrainingData(f"{path} is JSON, and no list of rows", hint="one object a line, or a list of them")
    return value


def _csv(file: DataFile) -> Iterator[Numbered]:
    csv.field_size_limit(sys.maxsize)
    with file.opened() as raw:
        try:
            text = io.TextIOWrapper(io.BytesIO(b"".join(_in_utf8(raw))), encoding="utf-8", newline="")
            header = text.readline()
            text.seek(0)
            delimiter = max(_DELIMITERS, key=header.count)
            reader = csv.DictReader(text, delimiter=delimiter, strict=True)
            for row in reader:
                if row.pop(None, None) is not None or None in row.values():  # its rest
                    raise InvalidTrainingData(
                        f"line {reader.line_num} of {file.path} has another number of columns than the header",
                        hint="put quotes around what holds the delimiter or a line break",
                    )
                yield reader.line_num, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise InvalidTrainingData(
                f"{file.path} is no CSV: {error}", hint="write it as UTF-8, with a header"
            ) from None


def _parquet(file: DataFile) -> Iterator[Numbered]:
    arrow = _pyarrow(".parquet")
    import pyarrow.parquet

    with file.opened() as raw, _arrow_errors(file.path, arrow):
        yield from _numbered(pyarrow.parquet.ParquetFile(_seekable(raw)).iter_batches(_BATCH))


def _arrow(file: DataFile) -> Iterator[Numbered]:
    arrow = _pyarrow(".arrow")
    import pyarrow.feather
    import pyarrow.ipc

    with file.opened() as raw, _arrow_errors(file.path, arrow):
        begin = raw.peek(6)
        if begin.startswith(b"ARROW1"):
            reader = pyarrow.ipc.open_file(_seekable(raw))
            yield from _numbered(reader.get_batch(number) for number in range(reader.num_record_batches))
        elif begin.startswith(b"FEA1"):
            yield from _numbered(pyarrow.feather.read_table(_seekable(raw)).to_batches())
        else:
            yield from _numbered(pyarrow.ipc.open_stream(raw))


def _seekable(raw: BufferedReader) -> Any:
    return raw if raw.seekable() else io.BytesIO(raw.read())


def _numbered(batches: Any) -> Iterator[Numbered]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield number, row


def _text(file: DataFile) -> Iterator[Numbered]:
    with file.opened() as raw:
        content = b"".join(_in_utf8(raw))
    try:
        yield 1, {"text": content.decode()}
    except UnicodeDecodeError as error:
        raise InvalidTrainingData(f"{file.path} is not UTF-8: byte {error.start}", hint="write it as UTF-8") from None


_READERS: Mapping[str, Callable[[DataFile], Iterator[Numbered]]] = {
    ".jsonl": _json,
    ".ndjson": _json,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
    ".txt": _text,
    ".md": _text,
}


# --- what can go wrong ------------------------------------------------------------------------------------------------


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError, zlib.error) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise InvalidUsage(f"can't read {path}: {said}", hint="name a file of rows, or a folder of some") from None


@contextmanager
def _arrow_errors(path: Path, arrow: Any) -> Iterator[None]:
    try:
        yield
    except arrow.ArrowException as error:
        first = str(error).partition("\n")[0]
        raise InvalidTrainingData(f"{path} can't be read: {first[:200]}", hint="write it again with pyarrow") from None


def _pyarrow(suffix: str) -> Any:
    try:
        import pyarrow as pa
    except ModuleNotFoundError:
        raise InvalidConfiguration(
            f"files of {suffix} need pyarrow, which is not installed", hint="pip install 'lorahub-registry[train]'"
        ) from None
    return pa
