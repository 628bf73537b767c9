"""The Helm chart, rendered by Helm's own library: what it makes is valid, and is what the plain manifests say."""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from lorahub_registry.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm"
GIVEN = {
    "publicUrl": "https://lorahub.example.com",
    "postgresql": {"host": "db.internal", "password": "p@ss/w rd"},
    "s3": {"bucket": "adapters", "accessKeyId": "id", "secretAccessKey": "key"},
    "secret": "0123456789abcdef",
}


@cache
def helm() -> Any:
    return pytest.importorskip(
        "helm_python", reason="pip install helm-python-sdk brings Helm's library, 75 MB, to render the chart"
    )


def rendered(values: Mapping[str, Any], name: str = "lorahub") -> dict[tuple[str, str], dict[str, Any]]:
    """(kind, name) → resource."""
    with helm().Chart.load(str(CHART)) as chart:
        made = chart.render(dict(values), name=name, namespace="registries")
    documents = (one for path, text in made.items() if path.endswith(".yaml") for one in yaml.safe_load_all(text))
    return {(one["kind"], one["metadata"]["name"]): one for one in documents if one}


def plain() -> dict[tuple[str, str], dict[str, Any]]:
    paths = [path for path in (ROOT / "deploy/kubernetes").glob("*.yaml") if path.name != "kustomization.yaml"]
    documents = (one for path in paths for one in yaml.safe_load_all(path.read_text()))
    return {(one["kind"], one["metadata"]["name"]): one for one in documents}


def pod(resource: dict[str, Any]) -> dict[str, Any]:
    """As the plain manifests and the chart both have it."""
    spec: dict[str, Any] = json.loads(json.dumps(resource["spec"]["template"]["spec"]))
    for container in spec["containers"]:
        container.pop("imagePullPolicy", None)
    spec["volumes"] = sorted(volume["name"] for volume in spec["volumes"])
    return spec


def test_the_defaults_are_of_the_schema_and_every_setting_exists() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.validate(values, schema)
    assert values.keys() == schema["properties"].keys() - {"global"}
    known = {f"LORAHUB_{name.upper()}" for name in Settings.model_fields}
    texts = [path.read_text() for path in CHART.rglob("*.yaml")]
    assert {name for text in texts for name in re.findall(r"LORAHUB_[A-Z_]+[A-Z]", text)} <= known


def test_what_it_makes_is_valid_and_what_the_plain_manifests_say() -> None:
    made, written = rendered(GIVEN), plain()
    for resource in made.values():
        kubernetes_validate.validate(resource, "1.31", strict=True)
    named = {(kind, re.sub(r"-\d+$", "", name)): resource for (kind, name), resource in made.items()}
    assert named.keys() == written.keys()
    for key in (("Deployment", "lorahub"), ("Deployment", "lorahub-worker"), ("Job", "lorahub-migrate")):
        assert pod(named[key]) == pod(written[key])
    for kind in ("Service", "PodDisruptionBudget", "Ingress"):
        assert made[kind, "lorahub"] == written[kind, "lorahub"]
    for kind, field in (("ConfigMap", "data"), ("Secret", "stringData")):
        assert made[kind, "lorahub"][field].keys() == written[kind, "lorahub"][field].keys()


def test_passwords_are_quoted_and_a_secret_may_be_ones_own() -> None:
    made = rendered(GIVEN | {"postgresql": {**GIVEN["postgresql"], "sslmode": "require"}}, name="acme")  # type: ignore[dict-item]
    url = made["Secret", "acme"]["stringData"]["LORAHUB_DATABASE_URL"]
    assert url == "postgresql+psycopg://lorahub:p%40ss%2Fw%20rd@db.internal:5432/lorahub?sslmode=require"
    own = rendered({**GIVEN, "postgresql": {}, "secret": "", "existingSecret": "vault"})
    assert ("Secret", "lorahub") not in own
    [container] = own["Deployment", "lorahub"]["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"][1] == {"secretRef": {"name": "vault"}}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({**GIVEN, "publicUrl": ""}, "publicUrl is missing"),
        ({**GIVEN, "secret": ""}, "secret is missing"),
        ({**GIVEN, "s3": {}}, "s3.bucket is missing"),
        ({**GIVEN, "postgres": {}}, "postgres"),
        ({**GIVEN, "settings": {"LORAHUB_SCRUB": 7}}, "LORAHUB_SCRUB"),
    ],
)
def test_what_is_missing_or_misspelt_is_told(values: dict[str, Any], said: str) -> None:
    with pytest.raises(helm().HelmError, match=re.escape(said)):
        rendered(values)


def test_helm_has_no_findings() -> None:
    assert [one for one in helm().lint(str(CHART), GIVEN)["messages"] if one["severity"] >= 2] == []
