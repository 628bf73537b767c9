"""`lorahub schema`: what may stand in lorahub.toml, a merge's recipe, a lock and a training's settings, as JSON Schema.

Made of what reads these files, so that an editor completes and refuses what we do.
"""

import json
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import click

from lorahub.adapters.rules import RULES
from lorahub.cli.output import Result
from lorahub.cli.session import Session, command
from lorahub.hub.lock import LOCK, READ_VERSIONS, LockedAdapter
from lorahub.hub.outcomes import FAIL_ON
from lorahub.hub.project_checks import ENVIRONMENT_NAME, LEVELS
from lorahub.merging.combinations import COMBINATIONS, PARAMETERS, Parameter
from lorahub.merging.recipe import DTYPES, KIND, MOST_ADAPTERS, MOST_LAYERS, MOST_TEXT, MOST_WEIGHT, RECIPE
from lorahub.protocol.client_settings import SETTINGS, Setting
from lorahub.training.config import PRESETS, TrainConfig

Schema = dict[str, Any]
_DRAFT = "http://json-schema.org/draft-07/schema#"
"""The newest that editors' plug-ins for TOML read as well as those for YAML."""


# --- lorahub.toml -----------------------------------------------------------------------------------------------------


def of_project() -> Schema:
    ignore = _table(
        {
            "rule": {"enum": list(RULES)},
            "adapter": _string("A reference, or a folder; * stands for anything.", default="*"),
            "base": _string("A base's name; * stands for anything.", default="*"),
            "runtime": _string("vllm, or vllm@0.32; * stands for anything.", default="*"),
            "reason": {"type": "string", "pattern": r"\S"},
            "until": {"type": "string", "format": "date", "pattern": r"^\d{4}-\d\d-\d\d$"},
        },
        description="A rule that doesn't count for an adapter: why, and until when.",
        required=["rule", "reason", "until"],
    )
    level = {"enum": list(LEVELS), "description": "How deep to look."}
    check = _table(
        {
            "fail_on": {"enum": list(FAIL_ON), "description": "What is exit 1.", "default": "incompatible"},
            "level": {**level, "default": "shapes"},
            "baseline": _string("A file of findings that were there before: lorahub check --write-baseline."),
            "environments": _strings("Those that are checked where --env names none."),
            "ignore": {"type": "array", "items": ignore},
        }
    )
    environment = _table(
        {
            "bases": _strings("What adapters are checked against here."),
            "runtimes": _strings("What must load them: vllm@0.32, llama.cpp, …"),
            "max_lora_rank": _count("The highest rank that the server takes."),
            "max_adapters": _count("How many adapters it has room for."),
            "level": {**level, "description": "How deep to look at least."},
        }
    )
    settings = {name: _setting(setting) for name, setting in SETTINGS.items()}
    environments = {
        "type": "object",
        "description": "Where adapters are to run, by name.",
        "propertyNames": {"pattern": f"^{ENVIRONMENT_NAME.pattern}$"},
        "additionalProperties": environment,
    }
    return _object(
        "A project's settings of lorahub, and what its checks ask for and set aside",
        {**settings, "check": check, "environments": environments, "token": False},
        additionalProperties={"type": "object"},
    )


def _table(properties: Schema, **more: Any) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False, **more}


def _string(about: str, **more: Any) -> Schema:
    return {"type": "string", "description": about, **more}


def _strings(about: str) -> Schema:
    return {"type": "array", "items": {"type": "string", "minLength": 1}, "description": about}


def _count(about: str) -> Schema:
    return {"type": "integer", "minimum": 1, "description": about}


def _setting(setting: Setting) -> Schema:
    if setting.is_switch:
        shown: Schema = {"type": "boolean"}
    elif setting.choices:
        shown = {"enum": list(setting.choices)}
    else:
        shown = {"type": ["string", "number"] if (setting.built_in or "").isdigit() else "string"}
    built_in = {} if setting.built_in is None or setting.is_switch else {"default": setting.built_in}
    return {**shown, "description": setting.help, **built_in}


# --- lorahub-merge.yaml -----------------------------------------------------------------------------------------------


def of_recipe() -> Schema:
    source = {"type": "string", "minLength": 1, "maxLength": MOST_TEXT}
    weight = {"type": "number", "minimum": -MOST_WEIGHT, "maximum": MOST_WEIGHT, "default": 1}
    layers = {
        "type": ["object", "null"],
        "description": "Weights of the modules whose names a pattern matches.",
        "maxProperties": MOST_LAYERS,
        "additionalProperties": weight,
    }
    ingredient = {
        "type": "object",
        "required": ["source"],
        "properties": {"source": source, "weight": weight, "layers": layers},
        "additionalProperties": False,
    }
    adapters = {"type": "array", "minItems": 1, "maxItems": MOST_ADAPTERS, "items": {"anyOf": [source, ingredient]}}
    return _object(
        "A merge of adapters into a base",
        {
            "kind": {"const": KIND},
            "base": source,
            "adapters": adapters,
            "method": {"enum": list(COMBINATIONS), "default": "sum"},
            "dtype": {"enum": [*DTYPES, None], "description": "Of the result; without it the base's own."},
            **{name: _parameter(one) for name, one in PARAMETERS.items()},
        },
        required=["base", "adapters"],
        additionalProperties=False,
        allOf=[_of_method(method) for method in COMBINATIONS],
    )


def _parameter(one: Parameter) -> Schema:
    least = "exclusiveMinimum" if one.excludes_least else "minimum"
    kind = "integer" if one.kind is int else "number"
    return {"type": kind, least: one.least, "maximum": one.most, "description": f"{one.about}: {one.asks}"}


def _of_method(method: str) -> Schema:
    """Which parameters it asks for, and that it takes no others."""
    asked = COMBINATIONS[method].parameters
    refused = {name: False for name, one in PARAMETERS.items() if one not in asked}
    needed = ["method"] if method != "sum" else []  # the one that is meant where none is named
    return {
        "if": {"properties": {"method": {"const": method}}, "required": needed},
        "then": {"properties": refused, "required": [one.name for one in asked if one.is_required]},
    }


# --- lorahub.lock -----------------------------------------------------------------------------------------------------


def of_lock() -> Schema:
    texts = {field.name: {"type": "string"} for field in fields(LockedAdapter)}
    entry = {
        "type": "object",
        "properties": texts,
        "required": [field.name for field in fields(LockedAdapter) if field.default is MISSING],
    }
    head = {
        "version": {"enum": list(READ_VERSIONS)},
        "registry": _string("Where references without a host are."),
        "level": _string("How deep to look."),
        "runtimes": _strings("What must load them."),
    }
    return _object(
        "Which files the references of a project stand for; written by `lorahub lock`",
        {**head, "adapter": {"type": "array", "items": entry}},
        required=["version"],
    )


# --- a training's settings --------------------------------------------------------------------------------------------


def of_training() -> Schema:
    hints = get_type_hints(TrainConfig)
    settings = {field.name: {**_typed(hints[field.name]), **_default(field.default)} for field in fields(TrainConfig)}
    dashed = {name.replace("_", "-"): described for name, described in settings.items()}
    preset = {"enum": list(PRESETS), "description": "Settings that come first; what is given wins."}
    return _object(
        "Settings of `lorahub train --config`", {"preset": preset, **settings, **dashed}, additionalProperties=False
    )


def _typed(hint: Any) -> Schema:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    shown = [_one_type(option) for option in options if option is not type(None)]
    return shown[0] if len(shown) == 1 else {"anyOf": shown}


def _one_type(option: Any) -> Schema:
    if get_origin(option) is Literal:
        return {"enum": list(get_args(option))}
    if get_origin(option) is tuple:
        return {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}
    return {"type": {int: "integer", float: "number", str: "string", bool: "boolean"}[option]}


def _default(value: Any) -> Schema:
    return {} if value is None else {"default": list(value) if isinstance(value, tuple) else value}


# --- all of them ------------------------------------------------------------------------------------------------------


def _object(title: str, properties: Schema, **more: Any) -> Schema:
    return {"$schema": _DRAFT, "title": title, "type": "object", "properties": properties, **more}


SCHEMAS: Mapping[str, Callable[[], Schema]] = {
    "lorahub.toml": of_project,
    RECIPE: of_recipe,
    LOCK: of_lock,
    "run.toml": of_training,
}
"""The name of a file that is written by hand, or read by an editor → its schema."""


def text_of(name: str) -> str:
    return json.dumps(SCHEMAS[name](), indent=1, ensure_ascii=False) + "\n"


@command("schema")
@click.argument("file", type=click.Choice(list(SCHEMAS)))
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write it there.")
def schema(session: Session, file: str, *, output: Path | None) -> Result:  # noqa: ARG001
    """Print the JSON Schema of a FILE, for an editor that completes it and shows what is wrong.

    Write it beside the file and name it in the first line: `#:schema ./lorahub.schema.json` in TOML,
    `# yaml-language-server: $schema=./recipe.schema.json` in YAML.
    """
    document, text = SCHEMAS[file](), text_of(file)
    if output is None:
        return Result(document, text.rstrip(), ids=text.rstrip().split("\n"), rows=[[file, json.dumps(document)]])
    output.write_text(text)
    return Result(document, f"✓ {output}", ids=[str(output)], rows=[[file, output]])
