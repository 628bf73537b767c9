"""What a registry is deployed with: their tools accept the files, the settings exist, nothing is open to the world."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose
from lorahub_registry.settings import Settings
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
MANIFESTS = sorted(path for path in (ROOT / "deploy/kubernetes").glob("*.yaml") if path.name != "kustomization.yaml")


class _WithoutAliases(yaml.SafeDumper):
    def ignore_aliases(self, _data: Any) -> bool:
        return True


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def resources() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in MANIFESTS:
        for resource in yaml.safe_load_all(path.read_text()):
            yield f"{path.name}: {resource['kind']}", resource


def test_the_dockerfile_has_no_findings() -> None:
    command = [Path(sys.executable).parent / "hadolint", ROOT / "Dockerfile"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_the_compose_file_is_of_the_specification() -> None:
    whole = yaml.safe_load(COMPOSE.read_text())
    del whole["x-lorahub"]  # merged into the services
    PyCompose.from_yaml(yaml.dump(whole, Dumper=_WithoutAliases)).validate()


def test_compose_opens_ports_on_this_machine_only() -> None:
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", ["migrate", "api", "worker"])
def test_our_containers_are_locked(name: str) -> None:
    service = services()[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("resource", [pytest.param(resource, id=name) for name, resource in resources()])
def test_a_manifest_is_of_its_schema(resource: dict[str, Any]) -> None:
    kubernetes_validate.validate(resource, "1.31", strict=True)


def test_pods_are_locked_and_bounded() -> None:
    pods = [
        resource["spec"]["template"]["spec"] for _, resource in resources() if "template" in resource.get("spec", {})
    ]
    assert len(pods) == 3
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        [container] = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]


def test_every_setting_that_a_deployment_names_exists() -> None:
    known = {f"LORAHUB_{name.upper()}" for name in Settings.model_fields}
    texts = [COMPOSE, ROOT / "Dockerfile", ROOT / "deploy/env.example", *MANIFESTS]
    named = {name for path in texts for name in re.findall(r"LORAHUB_[A-Z_]+", path.read_text())}
    assert named <= known


def test_the_image_has_no_torch() -> None:
    """The `server` extra is all that it installs."""
    assert {"numpy", "sqlalchemy", "boto3"} <= set(needed("lorahub-registry", "server"))
    assert not {"torch", "transformers", "peft"} & set(needed("lorahub-registry", "server"))


def needed(distribution: str, extra: str = "", seen: dict[str, None] | None = None) -> dict[str, None]:
    """Names of all that is installed with it, by what the installed distributions say."""
    seen = {} if seen is None else seen
    for text in requires(distribution) or []:
        requirement = Requirement(text)
        name = requirement.name.lower().replace("_", "-")
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if wanted and name not in seen:
            seen[name] = None
            needed(requirement.name, ",".join(requirement.extras), seen)
    return seen
