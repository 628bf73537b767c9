"""What the log says of requests, and that no secret gets out anywhere."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy
import wire
from builders import weights_of_size, write_adapter
from lorahub_registry.infrastructure.logs import blot
from registry_process import IN_A_FOLDER, LORAHUB, Registry, eventually
from services.ports import free_port


@pytest.fixture
def logging(tmp_path: Path) -> Iterator[Registry]:
    """It says all it can, as JSON."""
    settings = {
        "LORAHUB_LOG_FORMAT": "json",
        "LORAHUB_LOG_LEVEL": "debug",
        "LORAHUB_METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
        "LORAHUB_TRUSTED_PROXIES": "127.0.0.1",
        **IN_A_FOLDER,
    }
    running = Registry(tmp_path / "logging", settings, log=tmp_path / "log").start()
    yield running
    running.kill()


def lines(registry: Registry) -> list[dict[str, Any]]:
    assert registry.log is not None
    return [json.loads(line) for line in registry.log.read_text().splitlines()]


def line_of(registry: Registry, request_id: str) -> dict[str, Any]:
    def found() -> list[dict[str, Any]]:
        return [line for line in lines(registry) if line["request"] == request_id and line["message"] == "request"]

    eventually(found)
    [line] = found()
    return line


def test_a_request_is_one_line_with_all_that_matters(logging: Registry) -> None:
    with logging.client() as client:
        repo = wire.create_repo(client, "owner/logged")
        asked = client.get(
            f"/{repo}/resolve/main/.gitattributes?token=lh_no&x=1", headers={"X-Forwarded-For": "203.0.113.9"}
        )
        line = line_of(logging, asked.headers["X-Request-Id"])
    assert line["milliseconds"] > 0
    assert {name: line[name] for name in ("level", "method", "route", "path", "status", "received", "sent")} == {
        "level": "info",
        "method": "GET",
        "route": "/{namespace}/{name}/resolve/{rev}/{path:path}",
        "path": f"/{repo}/resolve/main/.gitattributes",
        "status": 200,
        "received": 0,
        "sent": len(asked.content),
    }
    assert line["account"] == line["token"] == 1
    assert line["address"] == "203.0.113.9", "the proxy on this machine is believed"


@pytest.mark.parametrize("trusted", ["", "192.0.2.0/24"])
def test_only_trusted_proxies_are_believed(tmp_path: Path, trusted: str) -> None:
    settings = {"LORAHUB_LOG_FORMAT": "json", "LORAHUB_TRUSTED_PROXIES": trusted}
    registry = Registry(tmp_path / "registry", settings, log=tmp_path / "log").start()
    said = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
    try:
        asked = [httpx2.get(f"{registry.url}/api/models", headers=said) for _ in range(3)]
        assert line_of(registry, asked[0].headers["X-Request-Id"])["address"] == "127.0.0.1"
        assert httpx2.get(f"{registry.url}/login", headers=said).headers["set-cookie"].count("Secure") == 0
        told = [line["message"] for line in lines(registry) if "LORAHUB_TRUSTED_PROXIES" in line["message"]]
        assert len(told) == 1, "once, whoever it is that nobody named"
    finally:
        registry.kill()


def test_a_bug_is_logged_under_its_request_and_told_to_its_caller(logging: Registry) -> None:
    with logging.database() as database:
        database.exec_driver_sql("UPDATE tokens SET scope = 'nonsense'")
    with logging.client() as client:
        answer = client.get("/api/whoami-v2", headers={"X-Request-Id": "the-caller-s-own"})
    assert (answer.status_code, answer.headers["X-Request-Id"]) == (500, "the-caller-s-own")
    assert answer.json()["code"] == "Bug"
    assert line_of(logging, "the-caller-s-own")["status"] == 500
    [bug] = [line for line in lines(logging) if line["level"] == "error"]
    assert bug["request"] == "the-caller-s-own"
    assert "KeyError" in bug["exception"]


def test_people_read_text(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry", {"LORAHUB_LOG_LEVEL": "info"}, log=tmp_path / "log").start()
    try:
        httpx2.get(f"{registry.url}/livez", headers={"X-Request-Id": "mine"})
        assert registry.log is not None
        eventually(lambda: "request=mine" in (tmp_path / "log").read_text())
        assert (
            "INFO lorahub.requests request method=GET route=/livez path=/livez status=200" in registry.log.read_text()
        )
    finally:
        registry.kill()


# --- secrets ----------------------------------------------------------------------------------------------------------


class Canaries:
    """Every secret that passed in a journey, and everything that came back where none may be."""

    def __init__(self) -> None:
        self.secrets: set[str] = set()
        self.answers: list[str] = []

    def keep(self, response: httpx2.Response) -> httpx2.Response:
        """An answer that has no business with secrets: its body and its headers."""
        self.answers.append(f"{response.headers} {response.text}")
        return response


def journey(registry: Registry, canaries: Canaries, tmp_path: Path) -> None:
    """Logs in, makes tokens, pushes by LFS and Xet, pulls, and does most of it wrong too."""
    canaries.secrets |= {registry.token, registry.add_user("canary")}
    content = weights_of_size(2 << 20, seed=3)
    with registry.client() as client:
        repo = wire.create_repo(client, "owner/secretive", private=True)
        for scope in ("read", "write", "admin"):
            made = client.post("/api/lorahub/v1/tokens", json={"name": f"for {scope}", "scope": scope}).json()
            canaries.secrets.add(made["token"])
        credential = wire.batch(client, repo, content)["actions"]["upload"]["href"].split("/lfs/")[1].split("/")[0]
        canaries.secrets.add(credential)
        address = f"{registry.url}/lfs/{credential}"
        canaries.keep(httpx2.put(f"{address}/whole", content=content[:-1]))
        canaries.keep(httpx2.put(f"{address}/parts/7", content=b"x"))
        canaries.keep(httpx2.get(f"{address}/whole"))
        canaries.keep(httpx2.put(f"{address}/nowhere", content=b"x"))
        canaries.keep(httpx2.put(f"{address}x/whole", content=content))
        wire.upload(client, repo, content)
        assert wire.commit(client, repo, [wire.uploaded("w.safetensors", content)]).status_code == 200
        xet = client.get(f"/api/models/{repo}/xet-write-token/main").json()
        canaries.secrets.add(xet["accessToken"])
        session = {"Authorization": f"Bearer {xet['accessToken']}"}
        canaries.keep(httpx2.post(f"{xet['casUrl']}/v1/shards", content=b"no shard", headers=session))
        canaries.keep(httpx2.post(f"{xet['casUrl']}/v1/nothing", content=b"", headers=session))
        canaries.keep(client.get("/api/whoami-v2"))
        canaries.keep(client.get(f"/{repo}/resolve/main/none?token={registry.token}"))
        canaries.keep(client.post("/api/repos/create", content=b"{"))
        canaries.keep(client.post("/api/lorahub/v1/tokens", json={"name": "\x00", "scope": "all"}))
    with_wrong_tokens(registry, repo, canaries)
    through_clients(registry, canaries, tmp_path)


def with_wrong_tokens(registry: Registry, repo: str, canaries: Canaries) -> None:
    for wrong in ("lh_wrongwrongwrongwrongwrongwrongwrongwrong", registry.token + "x", registry.token[:-1]):
        canaries.secrets.add(wrong)
        for header in (f"Bearer {wrong}", f"Basic {wrong}", wrong):
            canaries.keep(httpx2.get(f"{registry.url}/api/models/{repo}", headers={"Authorization": header}))


def through_clients(registry: Registry, canaries: Canaries, tmp_path: Path) -> None:
    """Ours, and the Hub's, which uploads by Xet."""
    write_adapter(tmp_path / "adapter")
    environment = {**os.environ, "LORAHUB_TOKEN": registry.token, "LORAHUB_ENDPOINT": registry.url}
    for command in (["push", str(tmp_path / "adapter"), "owner/pushed"], ["pull", "owner/pushed"]):
        done = subprocess.run(
            [LORAHUB, *command], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        canaries.answers.append(done.stdout + done.stderr)
    code = (
        "from huggingface_hub import HfApi; api = HfApi();"
        "api.create_repo('owner/stock'); api.upload_file(path_or_fileobj=b'x' * 2_000_000, path_in_repo='a.bin.txt',"
        " repo_id='owner/stock'); print(api.hf_hub_download('owner/stock', 'a.bin.txt'))"
    )
    environment = {
        **os.environ,
        "HF_TOKEN": registry.token,
        "HF_ENDPOINT": registry.url,
        "HF_HOME": str(registry.home / "hf"),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def everything_said(registry: Registry, canaries: Canaries) -> dict[str, str]:
    """By where it was said."""
    assert registry.log is not None
    rows = io.StringIO()
    with registry.database() as database:
        tables = sqlalchemy.MetaData()
        tables.reflect(database)
        for table in tables.sorted_tables:
            for row in database.execute(table.select()):
                rows.write(f"{tuple(row)}\n")
    files = (
        path.read_bytes().decode("latin-1")
        for path in registry.home.rglob("*")
        if path.is_file() and path.name not in ("secret", "admin-token") and "hf" not in path.parts
    )
    return {
        "log": registry.log.read_text(),
        "answers": "\n".join(canaries.answers),
        "database": rows.getvalue(),
        "home": "\n".join(files),
        "metrics": httpx2.get(f"http://{registry.settings['LORAHUB_METRICS_ADDRESS']}/metrics").text,
    }


def test_no_secret_is_ever_said(logging: Registry, tmp_path: Path) -> None:
    canaries = Canaries()
    journey(logging, canaries, tmp_path)
    said = everything_said(logging, canaries)
    assert all(len(text) > 1000 for text in said.values()), "there is something to search"
    assert len(canaries.secrets) >= 10
    for where, text in said.items():
        for secret in canaries.secrets:
            body = secret.removeprefix("lh_")[:24]
            at = text.find(body)
            assert at < 0, f"{where} has a secret: …{text[max(0, at - 100) : at]}"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("token lh_0123456789abcdefghijABCDEFGHIJ0123456789abcdef!", "token lh_…!"),
        ("{'Authorization': 'Bearer abc.def-ghi'}", "{'Authorization': 'Bearer …'}"),
        (
            "GET https://s3/b/k?X-Amz-Credential=AK&X-Amz-Signature=00ff&partNumber=1",
            "GET https://s3/b/k?X-Amz-Credential=…&X-Amz-Signature=…&partNumber=1",
        ),
        ("postgresql://lorahub:pass@db:5432/x", "postgresql://…@db:5432/x"),
        ("PUT /lfs/eyJ1cGxvYWQiOiIwIn0.aZ.x-y/whole", "PUT /lfs/…/whole"),
        ("jwt eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJ4In0.c2ln", "jwt …"),
    ],
)
def test_what_looks_like_a_credential_is_blotted_out(said: str, shown: str) -> None:
    assert blot(said) == shown
