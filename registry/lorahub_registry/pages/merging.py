"""The merge composer: what a merge costs, starting it, and how far it is."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from fastapi import Request, Response
from lorahub.errors import InvalidRecipe, Refusal
from lorahub.merging.combinations import COMBINATIONS, PARAMETERS, Parameter, methods_with
from lorahub.merging.recipe import Recipe, recipe_of
from lorahub.protocol.messages.message import as_json, wire_time
from lorahub.protocol.names import RepositoryName

from lorahub_registry.core.accounts.viewer import FormDep, View, ViewDep
from lorahub_registry.core.workers import service as workers
from lorahub_registry.features.merged import service as merged
from lorahub_registry.features.merges import service as merges
from lorahub_registry.features.merges.service import Shown
from lorahub_registry.infrastructure.threads import STORAGE
from lorahub_registry.infrastructure.web.pages import PageRouter
from lorahub_registry.pages import compare, drawn

router = PageRouter()
LINES = 6
"""Adapters that the form has room for."""
MOST_ASKED = 300
"""Letters of a field."""


@router.page("/merges")
@STORAGE.serves
def compose(view: ViewDep, request: Request) -> Response:
    """What was filled in comes by the address, so that a merge can be shared before it is started."""
    asked = _asked(request.query_params)
    data: dict[str, Any] = {
        "asked": asked,
        "plan": None,
        "error": None,
        "note": workers.note(view.backend),
        "methods": _methods(),
        "parameters": _parameters(),
        "jobs": [],
        "overlaps": [],
    }
    if not view.principal.is_anonymous:
        data["jobs"] = [_job(shown) for shown in merges.own_jobs(view.backend, view.principal)[:20]]
    if asked["base"] and any(line["source"] for line in asked["adapters"]):
        data |= _planned(view, asked)
    names = [line["source"] for line in asked["adapters"] if line["source"]]
    alike = drawn.of_pairs(names, data["overlaps"])
    return view.render("pages/merges.html", data, html={"alike": alike})


def _methods() -> dict[str, str]:
    return {name: made.preserves for name, made in COMBINATIONS.items()}


def _parameters() -> list[dict[str, Any]]:
    """What the form has a field for, and the methods that ask for it."""
    return [{"name": one.name, "whole": one.kind is int, "methods": methods_with(one)} for one in PARAMETERS.values()]


def _asked(fields: Mapping[str, str]) -> dict[str, Any]:
    lines = [
        {
            "source": fields.get(f"adapter{number}", "").strip()[:MOST_ASKED],
            "weight": fields.get(f"weight{number}", "1").strip()[:20],
        }
        for number in range(1, LINES + 1)
    ]
    return {
        "base": fields.get("base", "").strip()[:MOST_ASKED],
        "method": fields.get("method", "sum"),
        **{name: fields.get(name, "").strip()[:20] for name in PARAMETERS},
        "adapters": lines,
    }


def _recipe(asked: Mapping[str, Any]) -> Recipe:
    lines = [line for line in asked["adapters"] if line["source"]]
    parameters = COMBINATIONS[asked["method"]].parameters if asked["method"] in COMBINATIONS else ()
    return recipe_of(
        {
            "base": asked["base"],
            "method": asked["method"],
            "adapters": [{"source": line["source"], "weight": _number(line["weight"])} for line in lines],
            **{one.name: _of_kind(one, asked[one.name]) for one in parameters if asked[one.name]},
        }
    )


def _of_kind(parameter: Parameter, text: str) -> float:
    """A whole number where the parameter is one; what is none, the recipe refuses."""
    number = _number(text)
    return int(number) if parameter.kind is int and number.is_integer() else number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidRecipe(f"{text[:20]!r} is no number") from None


def _planned(view: View, asked: Mapping[str, Any]) -> dict[str, Any]:
    try:
        made = merges.plan(view.backend, view.principal, _recipe(asked))
    except Refusal as error:
        return {"error": {"message": error.message, "hint": error.hint}}
    plan = {
        **as_json(merges.message_of(made)),
        "yaml": made.recipe.as_yaml(),
        "madeByWorkers": merged.is_left_to_workers(made),
    }
    sources = [one.source for one in made.recipe.adapters]
    return {
        "plan": plan,
        "revision": _without_a_job(made.recipe),
        "overlaps": compare.overlaps_of(view.backend, view.principal, sources),
    }


def _without_a_job(recipe: Recipe) -> dict[str, str] | None:
    """One adapter at full weight is a revision that is there already."""
    only = recipe.adapters[0]
    if len(recipe.adapters) != 1 or only.weight != 1 or only.layers:
        return None
    name, _, revision = only.source.partition("@")
    return {"repository": name, "revision": f"merged/{revision}" if revision else "merged"}


@router.form("/merges")
@STORAGE.serves
def start(form: FormDep) -> Response:
    view = form.view
    name = RepositoryName.parse(form.text("target"))
    is_private = form.text("visibility") == "private"
    shown = merges.start(view.backend, view.principal, _recipe(_asked(form.fields)), name, is_private=is_private)
    return view.redirect(f"/merges/{shown.job.id}")


@router.form("/merges/overlaps")
def want_overlaps(form: FormDep) -> Response:
    """Has each two of the chosen adapters compared, where that isn't done yet."""
    view, asked = form.view, _asked(form.fields)
    sources = [line["source"] for line in asked["adapters"] if line["source"]]
    compare.want_overlaps(view.backend, view.principal, sources)
    chosen = {name: value for name, value in form.fields.items() if name != "csrf"}
    return view.redirect(f"/merges?{urlencode(chosen)}")


@router.page("/merges/{job}")
def progress(view: ViewDep, job: str) -> Response:
    """Raises `NotFound`, for others' jobs too."""
    shown = _job(merges.find(view.backend, view.principal, job))
    note = workers.note(view.backend) if shown["open"] else None
    return view.render("pages/merge.html", {"job": shown, "note": note})


@router.form("/merges/{job}/cancel")
def cancel(form: FormDep, job: str) -> Response:
    merges.cancel(form.view.backend, form.view.principal, job)
    return form.view.redirect(f"/merges/{job}", "cancelled")


def _job(shown: Shown) -> dict[str, Any]:
    job = shown.job
    return {
        "id": job.id,
        "status": job.status,
        "open": job.is_open,
        "target": shown.target,
        "reference": shown.reference,
        "version": job.version,
        "recipe": job.sources["recipe"],
        "bytes": job.bytes,
        "done": job.done,
        "error": job.error,
        "createdAt": wire_time(job.created_at),
        "finishedAt": None if job.finished_at is None else wire_time(job.finished_at),
    }
