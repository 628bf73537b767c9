"""What the site's reference has of the code: every command, every operation of the API, every public name of the SDK.

`docs/build.py` writes each where a page says `<!-- made of the code: NAME -->`; none of it is kept in the repository.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import griffe
from lorahub.cli import main as command_line
from lorahub.cli.examples import SHOWN
from lorahub.cli.session import GLOBAL_OPTIONS

FOLDER = Path(__file__).parent
CLIENT = FOLDER.parent / "client"
_INSIDE = frozenset({"cache", "credential", "sources", "transport"})
"""Attributes of the SDK's classes that are no part of what it promises."""

# --- the command line -------------------------------------------------------------------------------------------------


def commands() -> str:
    """Each command with its options and examples, in the groups of `lorahub --help`."""
    context = click.Context(command_line.cli, info_name="lorahub")
    parts = ["## Global options\n\nBefore or after any command.\n", _options(GLOBAL_OPTIONS, context)]
    for title, names in command_line.GROUPS.items():
        parts.append(f"\n## {title}\n")
        for name in names:
            found = command_line.cli.get_command(context, name)
            assert found is not None
            parts += (_command(path, one) for path, one in command_line.leaves(found, name))
    return "\n".join(parts)


def _command(path: str, command: click.Command) -> str:
    context = click.Context(command, info_name=f"lorahub {path}")
    usage = " ".join(["lorahub", path, *command.collect_usage_pieces(context)])
    shown = SHOWN[path]
    examples = "\n".join(f"lorahub {example}" for example in shown.examples)
    own = [one for one in command.params if isinstance(one, click.Option) and one not in GLOBAL_OPTIONS]
    return "\n".join(
        [
            f"### `lorahub {path}` {{ #{path.replace(' ', '-')} }}\n",
            f"```text\n{usage}\n```\n",
            f"{_prose(command.help or '')}\n",
            _options(own, context) if own else "",
            f"```sh\n{examples}\n```\n",
            f"Read on: [{shown.page}.md]({shown.page}.md)\n",
        ]
    )


def _options(options: Any, context: click.Context) -> str:
    records = [record for option in options if (record := option.get_help_record(context)) is not None]
    rows = "".join(f"| `{_cell(names)}` | {_cell(_escaped(says))} |\n" for names, says in records)
    return f"| option | does |\n| --- | --- |\n{rows}"


def _prose(text: str) -> str:
    """A help text's paragraphs; those that click is told to leave alone keep their lines."""
    paragraphs = re.split(r"\n\s*\n", "\n".join(line.strip() for line in text.strip().splitlines()))
    kept = (f"```text\n{one[1:].strip()}\n```" if one.startswith("\b") else _escaped(one) for one in paragraphs)
    return "\n\n".join(kept)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Text for Markdown; what stands between backticks is left as it is."""
    parts = text.split("`")
    return "`".join(re.sub(r"([<*_\[\]])", r"\\\1", part) if at % 2 == 0 else part for at, part in enumerate(parts))


# --- the API ----------------------------------------------------------------------------------------------------------


def operations() -> str:
    """Each operation of openapi.json: what it takes and what it answers."""
    paths = _description()["paths"]
    groups: dict[str, list[str]] = {}
    for path, methods in sorted(paths.items()):
        for method, operation in methods.items():
            groups.setdefault(_group(path), []).append(_operation(method.upper(), path, operation))
    return "\n".join(f"### {title}\n\n" + "\n".join(made) for title, made in sorted(groups.items()))


def messages() -> str:
    """The bodies that operations name, with their fields."""
    parts = []
    for name, schema in sorted(_description()["components"]["schemas"].items()):
        needed = schema.get("required", ())
        rows = "".join(
            f"| `{field}` | {_cell(_type(one)) or 'anything'}{'' if field in needed else ', optional'} "
            f"| {_cell(_escaped(one.get('description', '')))} |\n"
            for field, one in schema.get("properties", {}).items()
        )
        text = _escaped(" ".join(schema.get("description", "").split()))
        table = f"| field | type | |\n| --- | --- | --- |\n{rows}" if rows else f"{_type(schema) or 'An object'}.\n"
        parts.append(f"#### `{name}` {{ #{_anchor(name)} }}\n\n{text}\n\n{table}")
    return "\n".join(parts)


def _description() -> Any:
    return json.loads((FOLDER / "openapi.json").read_text())


def _anchor(message: str) -> str:
    return f"message-{message.lower()}"


def _group(path: str) -> str:
    if path.startswith("/api/lorahub/v1/"):
        return f"lorahub: {path.split('/')[4]}"
    return f"the Hub's: {path.split('/')[2]}" if path.startswith("/api/") else "others"


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    anchor = re.sub(r"[^a-z0-9]+", "-", f"{method} {path}".lower()).strip("-")
    text = operation.get("description") or f"{operation['summary']}."
    lines = [f"#### `{method} {path}` {{ #{anchor} }}\n", f"{_escaped(' '.join(text.split()))}\n"]
    if rows := [*_parameters(operation)]:
        lines.append("| takes | in | type |\n| --- | --- | --- |\n" + "".join(rows))
    lines.append(f"Answers: {'; '.join(_answers(operation))}.\n")
    return "\n".join(lines)


def _parameters(operation: Mapping[str, Any]) -> Iterator[str]:
    for one in operation.get("parameters", ()):
        needed = "" if one.get("required") else ", optional"
        yield f"| `{one['name']}` | {one['in']}{needed} | {_cell(_type(one.get('schema', {})))} |\n"
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"| body | `{media}` | {_cell(_type(content.get('schema', {})))} |\n"


def _answers(operation: Mapping[str, Any]) -> Iterator[str]:
    for status, answer in sorted(operation["responses"].items()):
        shapes = {_type(content.get("schema", {})) for content in answer.get("content", {}).values()} - {""}
        is_problem = not status.startswith(("1", "2", "3"))
        said = answer["description"] if is_problem else ", ".join(sorted(shapes))
        yield f"{status} {said}".strip()


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[`{name}`](#{_anchor(name)})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(filter(None, map(_type, schema["anyOf"]))))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {})) or 'anything'}"
    return str(schema.get("type", ""))


# --- the SDK ----------------------------------------------------------------------------------------------------------


def public_names() -> str:
    """Each name of `lorahub.__all__`, with its public members; read from the sources, nothing is imported."""
    package = griffe.load("lorahub", search_paths=[CLIENT], resolve_aliases=True)
    exported = [str(name) for name in package.exports or ()]
    return "\n".join(_documented(name, _target(package, name), level=3) for name in sorted(exported, key=str.lower))


def _target(package: Any, name: str) -> Any:
    found = package.members[name]
    return found.final_target if found.is_alias else found


def _documented(name: str, found: Any, *, level: int) -> str:
    heading = f"{'#' * level} `{name}` {{ #{name.lower().replace('.', '-').strip('_')} }}\n"
    signature = _signature(name, found)
    parts = [heading, f"```text\n{signature}\n```\n" if signature else "", _docstring(found)]
    if found.is_class:
        parts.append(_fields(found))
        parts += (_documented(f"{name}.{path}", one, level=4) for path, one in _methods(found))
    return "\n".join(filter(None, parts))


def _members(found: Any) -> Iterator[Any]:
    for name, member in found.all_members.items():
        if not name.startswith("_"):
            yield member.final_target if member.is_alias else member


def _methods(found: Any) -> Iterator[tuple[str, Any]]:
    """By name, those of `hub.bases` and its like too, which are classes of their own."""
    for one in _members(found):
        if one.is_function:
            yield one.name, one
        elif one.is_attribute and (within := _verbs(one)) is not None:
            for name, inner in _methods(within):
                yield f"{one.name}.{name}", inner


def _verbs(attribute: Any) -> Any:
    """The class that is called for the attribute's value, where callers are meant to use its methods."""
    path = str(getattr(getattr(attribute.value, "function", None), "canonical_path", ""))
    if not path.startswith("lorahub.") or attribute.name in _INSIDE:
        return None
    found = attribute.modules_collection[path]
    return found if found.is_class else None


def _fields(found: Any) -> str:
    """Attributes that the class itself declares, and properties."""
    rows = [
        f"| `{one.name}` | {f'`{_cell(str(one.annotation))}`' if one.annotation is not None else ''} "
        f"| {_cell(_docstring(one))} |\n"
        for one in _members(found)
        if one.is_attribute and one.annotation is not None and one.name not in _INSIDE
    ]
    return "| attribute | type | |\n| --- | --- | --- |\n" + "".join(rows) if rows else ""


def _signature(name: str, found: Any) -> str:
    if found.is_function:
        return _call(name, found)
    if found.is_class:
        init = found.all_members.get("__init__")
        return f"class {_call(name, init.final_target if init.is_alias else init)}" if init is not None else ""
    return ""


def _call(name: str, function: Any) -> str:
    texts: list[str] = []
    for one in function.parameters:
        if one.name in ("self", "cls"):
            continue
        if one.kind is griffe.ParameterKind.keyword_only and not any(text.startswith("*") for text in texts):
            texts.append("*")
        stars = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(one.kind, "")
        kind = f": {one.annotation}" if one.annotation is not None else ""
        default = f" = {one.default}" if one.default is not None and not stars else ""
        texts.append(f"{stars}{one.name}{kind}{default}")
    returned = f" -> {function.returns}" if function.returns is not None and function.name != "__init__" else ""
    flat = f"{name}({', '.join(texts)}){returned}"
    if len(flat) <= 88:
        return flat
    return f"{name}(\n" + "".join(f"    {text},\n" for text in texts) + f"){returned}"


def _docstring(found: Any) -> str:
    text = found.docstring.value.strip() if found.docstring is not None else ""
    blocks = re.split(r"\n\s*\n", text)
    return "\n\n".join(f"```pycon\n{one}\n```" if one.startswith(">>>") else _escaped(one) for one in blocks) + "\n"


MADE: Mapping[str, Callable[[], str]] = {
    "commands": commands,
    "operations": operations,
    "messages": messages,
    "public names": public_names,
}
