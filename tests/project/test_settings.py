"""Wrong settings are refused at the start, each in a sentence, all of them at once; right ones are taken."""

import io
import json
import os
import re
import subprocess
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from lorahub.cli.main import main as lorahub
from lorahub.protocol import client_settings
from lorahub_registry.settings import Settings
from registry_process import LORAHUB

ROOT = Path(__file__).resolve().parents[2]
DURATION = "it has to be a duration, such as PT15M or P1D"

WRONG = {
    "RATE_WINDOW=banana": f"LORAHUB_RATE_WINDOW is 'banana'; {DURATION}",
    "RATE_WINDOW=PT0S": "it has to be longer than nothing",
    "GC_INTERVAL=-P1D": "it has to be PT0S, or longer",
    "URL_LIFETIME=3600": DURATION,
    "WORKER_LOST_AFTER=PT0S": "it has to be at least 1 second",
    "WORKER=flase": "it has to be true or false",
    "LOG_FORMAT=xml": "it has to be 'text' or 'json'",
    "QUOTA_BYTES=-1": "it has to be at least 0",
    "PART_BYTES=0": "it has to be at least 1",
    "OBJECT_BYTES=1e12": "it has to be a whole number",
    "DRAIN_SECONDS=nan": "it has to be a number",
    "DATABASE_WAIT_SECONDS=-1": "it has to be more than 0",
    "PUBLIC_URL=lorahub.acme.com": "it has to be an address like https://host",
    "PUBLIC_URL=https://lorahub.acme.com:port": "it has to be an address like https://host",
    "STORAGE_ENDPOINT=s3.acme.com:9000": "it has to be an address like https://host",
    "STORAGE=gs://bucket": "it has to be the path of a folder, or s3://bucket/prefix",
    "METRICS_ADDRESS=9090": "it has to be HOST:PORT",
    "METRICS_ADDRESS=localhost:99999": "it has to be HOST:PORT",
    "TRUSTED_PROXIES=10.0.0.1/8": "it has to be addresses and networks with commas between",
    "OUTBOUND_HOSTS=huggingface.co": "it has to be a JSON list of texts",
    'OUTBOUND_HOSTS=["https://huggingface.co"]': "'https://huggingface.co' is none",
    'OUTBOUND_INTERNAL=["*.corp"]': "each internal one is named",
    'ALLOWED_HOSTS=["hub.acme.com:8017"]': "it has to be a list of host, or *.host for all below it, without a port",
    'ALLOWED_HOSTS=["https://hub.acme.com"]': "without a port",
    "HEADER_SECONDS=0": "it has to be more than 0",
    "CONNECTIONS=0": "it has to be at least 1",
    'OIDC_ISSUERS=["gitlab.com"]': "it has to be an address like https://host",
    "BUNDLE_KEY=/nowhere.pem": "it has to be a file of an Ed25519 or EC public key in PEM",
    "OUTBOUND_AUTHORITIES=/etc/hostname": "it has to be a file of certificates in PEM",
    "RATE_WINDW=PT5M": "no setting is called LORAHUB_RATE_WINDW; is LORAHUB_RATE_WINDOW meant?",
    "XYZZY=1": "no setting is called LORAHUB_XYZZY",
    "SECRET=CHANGE-ME": "LORAHUB_SECRET still has its placeholder",
}
CONTRADICTIONS = {
    "LORAHUB_STORAGE_ENDPOINT is of an S3 server": {"LORAHUB_STORAGE_ENDPOINT": "http://127.0.0.1:9"},
    "LORAHUB_URL_LIFETIME is longer than P7D": {"LORAHUB_URL_LIFETIME": "P8D", "LORAHUB_STORAGE": "s3://bucket"},
    "LORAHUB_OIDC_ISSUERS needs LORAHUB_PUBLIC_URL": {"LORAHUB_OIDC_ISSUERS": '["https://gitlab.com"]'},
    "LORAHUB_MIRROR_INTERVAL is set, and": {"LORAHUB_MIRROR_INTERVAL": "PT6H"},
    "LORAHUB_COMMIT_LINE_BYTES is below": {"LORAHUB_INLINE_FILE_BYTES": str(64 << 20)},
    "LORAHUB_COMMIT_BODY_BYTES is below": {"LORAHUB_COMMIT_BODY_BYTES": "1000"},
}


def started(home: Path, **settings: str) -> Any:
    """What a command of the registry says, as JSON; in this process, since a start takes seconds."""
    said = io.StringIO()
    with mock.patch.dict(os.environ, settings), redirect_stdout(said), suppress(SystemExit):
        lorahub(["admin", "migrate", "--check", "--home", str(home), "--json"])
    return json.loads(said.getvalue())


def refused(home: Path, **settings: str) -> str:
    error = started(home, **settings)["error"]
    assert error["code"] == "InvalidConfiguration"
    assert not (home / "registry.db").exists()
    return str(error["message"])


@pytest.mark.parametrize(("setting", "sentence"), WRONG.items(), ids=WRONG)
def test_one_that_is_wrong_is_a_sentence(tmp_path: Path, setting: str, sentence: str) -> None:
    name, _, value = setting.partition("=")
    said = refused(tmp_path / "home", **{f"LORAHUB_{name}": value})
    assert f"LORAHUB_{name}" in said
    assert sentence in said
    assert "\n" not in said


@pytest.mark.parametrize(("sentence", "settings"), CONTRADICTIONS.items(), ids=CONTRADICTIONS)
def test_what_can_t_be_together_is_said(tmp_path: Path, sentence: str, settings: dict[str, str]) -> None:
    assert sentence in refused(tmp_path / "home", **settings)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    alone = dict(setting.split("=", 1) for setting in WRONG)
    said = refused(tmp_path / "home", **{f"LORAHUB_{name}": value for name, value in alone.items()})
    assert f"{len(alone)} settings can't be used" in said
    assert len(said.splitlines()) == len(alone) + 1


def test_no_secret_is_repeated(tmp_path: Path) -> None:
    said = refused(
        tmp_path / "home",
        LORAHUB_DATABASE_URL="postgres://lorahub:hunter2@db/lorahub",
        LORAHUB_PUBLIC_URL="https://lorahub:hunter2@acme.com",
        LORAHUB_SECRET="change-me-hunter2",
    )
    assert said.startswith("3 settings")
    assert "hunter2" not in said
    assert "hunter2" not in refused(
        tmp_path / "home", LORAHUB_DATABASE_URL="postgresql+psycopg://lorahub:hunter2@db:x/y"
    )


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("worker",), ("admin", "doctor")], ids=" ".join)
def test_no_program_starts(tmp_path: Path, command: tuple[str, ...]) -> None:
    environment = {**os.environ, "LORAHUB_RATE_WINDOW": "banana", "LORAHUB_WROKER": "false"}
    ended = subprocess.run(
        [LORAHUB, *command, "--home", str(tmp_path / "home")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "is LORAHUB_WORKER meant?" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "home").exists()


def test_no_step_is_called_so(tmp_path: Path) -> None:
    command = [LORAHUB, "serve", "--port", "0", "--home", str(tmp_path)]
    environment = {**os.environ, "LORAHUB_FAILPOINT": "nowhere"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, "LORAHUB_FAILPOINT is 'nowhere'" in ended.stderr) == (2, True)


# --- what is taken ----------------------------------------------------------------------------------------------------


def test_what_is_another_s_is_left_alone(tmp_path: Path) -> None:
    """The client's settings; Kubernetes' variables beside a service that is called like us; an empty one."""
    of_the_client = {**dict.fromkeys(client_settings.VARIABLES, "x"), "LORAHUB_FORMAT": "json"}
    of_a_service = {
        "LORAHUB_SERVICE_HOST": "10.0.0.7",
        "LORAHUB_SERVICE_PORT": "80",
        "LORAHUB_SERVICE_PORT_HTTP": "80",
        "LORAHUB_PORT": "tcp://10.0.0.7:80",
        "LORAHUB_PORT_80_TCP": "tcp://10.0.0.7:80",
        "LORAHUB_PORT_80_TCP_ADDR": "10.0.0.7",
        "LORAHUB_WORKER_SERVICE_HOST": "10.0.0.8",
    }
    empty = {f"LORAHUB_{name.upper()}": "" for name in Settings.model_fields if name != "registry_home"}
    assert started(tmp_path, **of_the_client, **of_a_service, **empty)["result"]["missing"]


def test_what_the_documents_show_is_taken(tmp_path: Path) -> None:
    shown = {
        "LORAHUB_METRICS_ADDRESS": "[::1]:9090",
        "LORAHUB_TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8,fd00::/8",
        "LORAHUB_OUTBOUND_HOSTS": '["huggingface.co", "*.hf.co", "hub.acme.com:8443"]',
        "LORAHUB_OUTBOUND_INTERNAL": '["10.0.0.7", "[fd00::7]:8080"]',
        "LORAHUB_PUBLIC_URL": "https://acme.com/lorahub/",
        "LORAHUB_ALLOWED_HOSTS": '["lorahub", "*.svc.cluster.local", "[fd00::7]"]',
        "LORAHUB_OIDC_ISSUERS": '["https://token.actions.githubusercontent.com"]',
        "LORAHUB_MIRROR_INTERVAL": "PT6H",
        "LORAHUB_GC_INTERVAL": "PT0S",
        "LORAHUB_RATE_LIMIT_API": "0",
    }
    assert started(tmp_path, **shown)["result"]["missing"]


def deployed(name: str) -> dict[str, str]:
    if name == "compose":
        text = (ROOT / "docker-compose.yml").read_text()
        found = yaml.safe_load(re.sub(r"\$\{\w+:(?:-([^}]*)|\?[^}]*)\}", r"\1", text))["x-lorahub"]["environment"]
        return {key: str(value) or "given" for key, value in found.items()}
    documents = yaml.safe_load_all((ROOT / "deploy/kubernetes/settings.yaml").read_text())
    return {
        key: value for one in documents for key, value in {**one.get("data", {}), **one.get("stringData", {})}.items()
    }


@pytest.mark.parametrize("name", ["compose", "kubernetes"])
def test_what_we_deploy_with_is_taken(tmp_path: Path, name: str) -> None:
    settings = {key: value.replace("CHANGE-ME", "acme") for key, value in deployed(name).items()}
    settings |= {"LORAHUB_DATABASE_URL": f"sqlite:///{tmp_path / 'registry.db'}"}
    assert started(tmp_path, **settings)["result"]["missing"]


def test_a_deployment_that_nobody_filled_in_is_refused(tmp_path: Path) -> None:
    said = refused(tmp_path / "home", **deployed("kubernetes"))
    for name in ("PUBLIC_URL", "STORAGE", "DATABASE_URL", "SECRET"):
        assert f"LORAHUB_{name} still has its placeholder" in said
    assert "AWS_SECRET_ACCESS_KEY still has its placeholder" in said


def test_every_variable_that_is_read_or_told_of_is_known() -> None:
    own = {f"LORAHUB_{name.upper()}" for name in Settings.model_fields}
    documents = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "action.yml"]
    named = {name for path in documents for name in re.findall(r"LORAHUB_[A-Z_]*[A-Z]\b", path.read_text())}
    for path in (ROOT / "client").rglob("*.py"):
        named |= set(re.findall(r'environ.{0,5}"(LORAHUB_[A-Z_]+)"', path.read_text()))
    assert {"LORAHUB_TOKEN", "LORAHUB_HOME"} <= named
    formats, mistyped = {"LORAHUB_BITFIT", "LORAHUB_BOTTLENECK"}, {"LORAHUB_WROKER"}
    assert named - own - client_settings.VARIABLES <= formats | mistyped
