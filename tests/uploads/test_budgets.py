"""What a client brings or promises is counted before it is written or unpacked: a little never becomes a lot.

The attacks that these tests are named after were run against the registry before it counted: 240 bytes made two GiB,
and a quota of 20 MiB held 161.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest
import wire
from builders import weights_of_size
from lorahub.errors import PayloadTooLarge
from lorahub_registry.features.uploads import unpacking as unpacking_module
from lorahub_registry.features.uploads.shards import read_files
from lorahub_registry.features.uploads.unpacking import Unpacking
from registry_process import IN_A_FOLDER, LORAHUB, Registry, eventually
from services import production
from services.postgres import NAMESPACE, has_small_disks
from xet_wire import XetUpload, frame, lz4_frame, segment, shard

pytestmark = pytest.mark.xdist_group("upload-budgets")

MIB = 1 << 20
CHUNK = 128 << 10
PART = 16_000_000
PAST = "2020-01-01 00:00:00.000000"


@pytest.fixture(scope="module", params=["folder", "bucket"])
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    storage = IN_A_FOLDER if request.param == "folder" else production.storage_settings(production.s3())
    running = Registry(tmp_path_factory.mktemp("registry"), settings=storage).start()
    yield running
    running.stop()
    running.assert_sound()


@pytest.fixture
def upload(registry: Registry, user: tuple[str, str]) -> XetUpload:
    name, token = user
    with registry.client(token) as client:
        wire.create_repo(client, f"{name}/xet")
    return XetUpload(registry, token, f"{name}/xet")


def send(upload: XetUpload, name: str, body: bytes) -> int:
    """A xorb as stock clients send it: to where the storage takes it, or else through the registry; the status."""
    asked = upload.post(f"/v1/xorb-grants/default/{name}", json.dumps({"length": len(body)}).encode())
    if asked.status_code == 404:
        return upload.post(f"/v1/xorbs/default/{name}", body).status_code
    if asked.status_code != 201:
        return asked.status_code
    assert httpx2.put(asked.json()["url"], content=body, timeout=60).status_code == 200
    return upload.post(f"/v1/xorb-commits/default/{name}/grant/put", b"").status_code


def name_of(number: int) -> str:
    return f"{number:064x}"


def bytes_of(registry: Registry, user: tuple[str, str]) -> dict[str, Any]:
    with registry.client(user[1]) as client:
        quotas = client.get("/api/lorahub/v1/whoami").json()["quotas"]
    return dict(next(quota["bytes"] for quota in quotas if quota["namespace"] == user[0]))


def allow(registry: Registry, user: tuple[str, str], more: int) -> int:
    """The quota from now on: what is used, and so many bytes more."""
    quota = int(bytes_of(registry, user)["used"]) + more
    registry.admin_command("quota", user[0], "--bytes", str(quota))
    return quota


def cpu_seconds(registry: Registry) -> float:
    assert registry.process is not None
    used = psutil.Process(registry.process.pid).cpu_times()
    return float(used.user + used.system)


def random_xorb(chunks: int, seed: int) -> bytes:
    content = weights_of_size(chunks * CHUNK, seed=seed)
    return b"".join(frame(content[start : start + CHUNK]) for start in range(0, len(content), CHUNK))


# --- unpacking --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digest", [None, "ab" * 32], ids=["no digest", "another digest"])
def test_a_shard_of_240_bytes_never_becomes_gigabytes(
    registry: Registry, upload: XetUpload, digest: str | None
) -> None:
    bomb = lz4_frame(bytes(CHUNK)) * 8192  # 4.6 MB that unpack to a GiB
    assert send(upload, name_of(0), bomb) == 200
    there, spent, held = registry.objects.list(), cpu_seconds(registry), registry.rss_bytes()
    body = shard([segment(name_of(0), 1 << 30, 0, 8192)] * 2, digest)
    refused, again = upload.post("/v1/shards", body), upload.post("/v2/shards", body)
    assert (refused.status_code, refused.json()["code"]) == (413, "PayloadTooLarge")
    assert f"has sent {len(bomb)} bytes that would unpack to {2 << 30}" in again.json()["message"]
    assert cpu_seconds(registry) - spent < 1
    assert registry.rss_bytes() - held < 32 * MIB
    assert registry.objects.list() == there


def test_what_a_session_may_unpack_grows_with_what_it_sent_alone(upload: XetUpload) -> None:
    """Neither a promise, nor the same xorb again, nor a shard that was refused adds to it."""
    zeros = lz4_frame(bytes(CHUNK)) * 160  # 20 MiB out of 90 kB: more than is free, less than the ratio allows with it
    assert send(upload, name_of(1), zeros) == 200
    promised = json.dumps({"length": 60 * MIB}).encode()
    upload.post(f"/v1/xorb-grants/default/{name_of(2)}", promised)
    for _ in range(3):
        assert send(upload, name_of(1), zeros) == 200
        answer = upload.post("/v1/shards", shard([segment(name_of(1), 20 * MIB, 0, 160)], None))
        assert answer.status_code == 413, answer.text
    assert send(upload, name_of(3), random_xorb(1, seed=3)) == 200
    both = [segment(name_of(1), 20 * MIB, 0, 160), segment(name_of(3), CHUNK, 0, 1)]
    assert upload.post("/v1/shards", shard(both, None)).status_code == 200


def test_files_that_are_here_are_not_unpacked_again(
    registry: Registry, user: tuple[str, str], upload: XetUpload
) -> None:
    """The same tokenizer in each of forty checkpoints."""
    content = weights_of_size(8 * CHUNK, seed=4)
    assert send(upload, name_of(4), b"".join(frame(content[at : at + CHUNK]) for at in range(0, MIB, CHUNK))) == 200
    one = shard([segment(name_of(4), MIB, 0, 8)], wire.sha256(content))
    entries = one[48:-48]
    assert upload.post("/v1/shards", one[:48] + entries * 40 + one[-48:]).status_code == 200
    ((unpacked,),) = registry.sql(
        "SELECT unpacked_bytes FROM xet_sessions WHERE received_bytes > 0 AND taken_bytes = :size", size=MIB
    )
    assert unpacked == MIB
    with registry.client(user[1]) as client:
        lines = [wire.uploaded(f"{number}/tokenizer.safetensors", content) for number in range(40)]
        assert wire.commit(client, f"{user[0]}/xet", lines).status_code == 200


def test_what_a_stock_client_deduplicates_is_taken(registry: Registry, user: tuple[str, str], tmp_path: Path) -> None:
    """A training's folder as `hf upload` sends it: checkpoints that differ a little, copies, and half of zeros."""
    name, token = user
    folder, content = tmp_path / "checkpoints", weights_of_size(12_000_000, seed=17)
    files = {
        "model.safetensors": content,
        "zeros.bin": weights_of_size(6_000_000, seed=18) + bytes(6_000_000),
        **{f"{step}/tokenizer.model": content[: 4 * MIB] for step in range(12)},
        **{f"{step}/state.bin": content[:9_000_000] + bytes([step]) * 1000 + content[9_000_000:] for step in range(3)},
    }
    for path, of_file in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(of_file)
    with registry.client(token) as client:
        repo = wire.create_repo(client, f"{name}/trained")
        allow(registry, user, sum(map(len, files.values())))
        code = f"from huggingface_hub import HfApi; HfApi().upload_folder(repo_id='{repo}', folder_path='{folder}')"
        environment = {"HF_ENDPOINT": registry.url, "HF_TOKEN": token, "HF_HOME": str(tmp_path / "hf")}
        stock = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )
        assert stock.returncode == 0, stock.stderr
        found = wire.files(client, repo)
        assert {path: found[path] for path in files} == {path: wire.sha256(one) for path, one in files.items()}
    ((taken,),) = registry.sql(
        "SELECT sum(taken_bytes) FROM xet_sessions JOIN repositories ON repositories.id = repository_id"
        " WHERE repositories.name = 'trained' AND namespace = :name",
        name=name,
    )
    assert taken == sum(map(len, {wire.sha256(one): one for one in files.values()}.values())), "copies cost nothing"


def test_a_million_segments_cost_little(registry: Registry, upload: XetUpload) -> None:
    """48 MB of entries: refused, by what they would cost, without being held."""
    assert send(upload, name_of(5), frame(b"x")) == 200
    held, spent = registry.rss_bytes(), cpu_seconds(registry)
    answer = upload.post("/v1/shards", shard([segment(name_of(5), 1, 0, 1)] * 1_000_000, None))
    assert answer.status_code == 413, answer.text
    assert cpu_seconds(registry) - spent < 2, "most of it for receiving them"
    assert registry.rss_bytes() - held < 32 * MIB


def test_a_xorb_that_is_read_through_again_is_paid_for_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Segments that jump between more xorbs than are kept at hand: each jump reads one through."""
    monkeypatch.setattr(unpacking_module, "_AT_HAND", 2)
    names = [name_of(number) for number in (1, 2, 3)]
    body = frame(b"x" * 1000)
    paid: list[int] = []

    def pay(size: int) -> None:
        paid.append(size)
        if len(paid) > 3:
            raise PayloadTooLarge("enough")

    (tmp_path / "shard").write_bytes(shard([segment(name, 1000, 0, 1) for name in names * 5], None))
    unpacking = Unpacking(lambda _, start, stop: iter([body[start:stop]]), dict.fromkeys(names, len(body)), again=pay)
    with (tmp_path / "shard").open("rb") as file:
        (wanted,) = read_files(file)
        chunks = unpacking.chunks(wanted)
        assert [len(chunk) for chunk in (next(chunks), next(chunks), next(chunks))] == [1000] * 3
        assert paid == []
        with pytest.raises(PayloadTooLarge):
            list(chunks)
    assert paid == [len(body)] * 4


# --- room -------------------------------------------------------------------------------------------------------------


def test_xorbs_at_once_never_pass_the_quota(registry: Registry, user: tuple[str, str], upload: XetUpload) -> None:
    body = random_xorb(24, seed=6)
    quota = allow(registry, user, 5 * len(body) + 100)
    before = sum(len(registry.objects.read(key)) for key in registry.objects.list("xorbs/"))
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda number: send(upload, name_of(number), body), range(100, 112)))
    assert Counter(answers) == {200: 5, 413: 7}
    found = bytes_of(registry, user)
    assert found["used"] == quota - 100
    assert found["reserved"] == 5 * len(body)
    assert sum(len(registry.objects.read(key)) for key in registry.objects.list("xorbs/")) - before == 5 * len(body)


def test_a_file_needs_room_once_and_what_failed_gives_none_back(
    registry: Registry, user: tuple[str, str], upload: XetUpload
) -> None:
    """Its chunks are on the disk until their session is over: as long as no file was made of them, they count."""
    content = weights_of_size(16 * CHUNK, seed=7)
    body = b"".join(frame(content[at : at + CHUNK]) for at in range(0, len(content), CHUNK))
    used, headers = bytes_of(registry, user)["used"], len(body) - len(content)
    allow(registry, user, len(body))
    assert send(upload, name_of(7), body) == 200
    parts = [segment(name_of(7), len(content), 0, 16)]
    assert upload.post("/v1/shards", shard(parts, "cd" * 32)).status_code == 422
    assert bytes_of(registry, user)["reserved"] == len(body)
    assert send(upload, name_of(8), body) == 413
    assert upload.post("/v1/shards", shard(parts, wire.sha256(content))).status_code == 200
    assert bytes_of(registry, user)["reserved"] == len(content) + headers
    with registry.client(user[1]) as client:
        made = wire.commit(client, f"{user[0]}/xet", [wire.uploaded("w.safetensors", content)])
    assert made.status_code == 200, made.text
    found = bytes_of(registry, user)
    assert (found["used"] - used, found["reserved"]) == (len(content) + headers, headers)


def test_a_xorb_says_how_long_it_is(upload: XetUpload) -> None:
    """A body in chunks has no length, so no room could be kept for it."""
    headers = {"Authorization": f"Bearer {upload.token}"}
    pieces = iter([b"x" * 1000] * 3)
    answer = httpx2.post(f"{upload.url}/v1/xorbs/default/{name_of(9)}", content=pieces, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "MalformedBody")
    assert upload.post("/v1/shards", shard([segment(name_of(9), 1000, 0, 1)], None)).status_code == 400


def test_what_may_be_here_already_is_no_reason_to_refuse_a_push(registry: Registry, user: tuple[str, str]) -> None:
    """Before a push nothing is known of its files but their sizes; one as large as a file that is here may be that."""
    content = weights_of_size(300_000, seed=10)
    with registry.client(user[1]) as client:
        repo = wire.create_repo(client, f"{user[0]}/again")
        wire.upload(client, repo, content)
        assert wire.commit(client, repo, [wire.uploaded("w.safetensors", content)]).status_code == 200
        allow(registry, user, 1000)

        def asked(size: int) -> httpx2.Response:
            files = [{"path": "v.safetensors", "size": size, "sample": ""}]
            return client.post(f"/api/models/{repo}/preupload/main", json={"files": files})

        assert asked(len(content)).status_code == 200
        refused = asked(len(content) + 1)
        assert (refused.status_code, refused.json()["code"]) == (413, "QuotaExceeded")
        assert refused.json()["facts"]["asked"] == len(content) + 1


# --- time -------------------------------------------------------------------------------------------------------------


def expire(registry: Registry) -> None:
    """As if the hour were over of everything that is under way."""
    with registry.database() as database:
        for table in ("uploads", "reservations", "xet_sessions"):
            database.exec_driver_sql(f"UPDATE {table} SET expires_at = '{PAST}'")


def test_what_is_abandoned_is_freed_on_demand(registry: Registry, user: tuple[str, str], upload: XetUpload) -> None:
    repo = f"{user[0]}/xet"
    with registry.client(user[1]) as client:
        assert "actions" in wire.batch(client, repo, b"", oid="12" * 32, size=70_000_000)
    assert send(upload, name_of(11), random_xorb(2, seed=11)) == 200
    assert bytes_of(registry, user)["reserved"] > 70_000_000
    expire(registry)
    assert bytes_of(registry, user)["reserved"] == 0, "before anything is collected"
    report = registry.admin_command("gc")
    assert report["uploads"] >= 1
    assert registry.objects.list("xorbs/") == []
    assert registry.sql("SELECT count(*) FROM reservations") == [(0,)]
    answer = upload.post("/v1/shards", shard([segment(name_of(11), CHUNK, 0, 1)], None))
    assert answer.status_code == 400


def parts_of(client: httpx2.Client, repo: str, content: bytes) -> tuple[str, list[str]]:
    """Where to say that all are there, and the parts' addresses."""
    wanted = {"oid": wire.sha256(content), "size": len(content)}
    body = {"operation": "upload", "transfers": ["basic", "multipart"], "objects": [wanted], "hash_algo": "sha256"}
    answer = client.post(f"/{repo}.git/info/lfs/objects/batch", json=body).json()
    action = answer["objects"][0]["actions"]["upload"]
    numbered = {int(key): address for key, address in action["header"].items() if key.isdigit()}
    return action["href"], [numbered[number] for number in sorted(numbered)]


def test_an_upload_in_parts_is_kept_while_they_come(registry: Registry, user: tuple[str, str]) -> None:
    """On a bucket the registry sees no part arrive: it looks before it gives an upload up."""
    content = weights_of_size(70_000_000, seed=12)
    with registry.client(user[1]) as client:
        repo = wire.create_repo(client, f"{user[0]}/parts")
        complete, addresses = parts_of(client, repo, content)
        pieces = [content[start : start + PART] for start in range(0, len(content), PART)]
        assert httpx2.put(addresses[0], content=pieces[0], timeout=60).status_code == 200
        expire(registry)
        assert registry.admin_command("gc")["uploads"] == 0, "a part has just come"
        assert bytes_of(registry, user)["reserved"] == len(content), "and its room is kept again"
        for address, piece in zip(addresses[1:], pieces[1:], strict=True):
            assert httpx2.put(address, content=piece, timeout=60).status_code == 200
        done = httpx2.post(complete, json={"oid": wire.sha256(content), "parts": []}, timeout=120)
        assert done.status_code == 200, done.text
        assert wire.commit(client, repo, [wire.uploaded("w.safetensors", content)]).status_code == 200


def test_parts_that_nobody_goes_on_with_are_gone(
    registry: Registry, user: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = weights_of_size(70_000_000, seed=13)
    with registry.client(user[1]) as client:
        repo = wire.create_repo(client, f"{user[0]}/left")
        _, addresses = parts_of(client, repo, content)
        assert httpx2.put(addresses[0], content=content[:PART], timeout=60).status_code == 200
    expire(registry)
    monkeypatch.setenv("LORAHUB_UPLOAD_PATIENCE", "PT0.000001S")
    assert registry.admin_command("gc")["uploads"] == 1
    assert registry.objects.list("staging/") == []
    if registry.settings.get("LORAHUB_STORAGE"):
        bucket = registry.settings["LORAHUB_STORAGE"].removeprefix("s3://").partition("/")[0]
        assert "Uploads" not in production.s3().client().list_multipart_uploads(Bucket=bucket)


def test_who_comes_after_the_hour_needs_room_again(registry: Registry, user: tuple[str, str]) -> None:
    late, other = weights_of_size(400_000, seed=14), weights_of_size(400_000, seed=15)
    with registry.client(user[1]) as client:
        repo = wire.create_repo(client, f"{user[0]}/late")
        allow(registry, user, 500_000)
        href = wire.batch(client, repo, late)["actions"]["upload"]["href"]
        assert "error" in wire.batch(client, repo, other)
        expire(registry)
        wire.upload(client, repo, other)
        sent = httpx2.put(href, content=late)
        kept = client.post(f"/{repo}.git/info/lfs/verify", json={"oid": wire.sha256(late), "size": len(late)})
        assert 413 in (sent.status_code, kept.status_code)
        assert wire.commit(client, repo, [wire.uploaded("w.safetensors", late)]).status_code in (400, 413)
        assert wire.commit(client, repo, [wire.uploaded("w.safetensors", other)]).status_code == 200
        assert bytes_of(registry, user)["reserved"] == 0


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Registry]:
    running = Registry(tmp_path / "impatient", {**IN_A_FOLDER, "LORAHUB_UPLOAD_PATIENCE": "PT4S"}).start()
    yield running
    running.kill()


def test_an_upload_as_slow_as_it_likes_keeps_its_room(impatient: Registry) -> None:
    """A piece a second, for twice as long as the registry waits for one that sends none; it collects meanwhile."""
    content = weights_of_size(9 << 20, seed=16)
    with impatient.client() as client:
        repo = wire.create_repo(client, "owner/slow")
        address = urlsplit(wire.batch(client, repo, content)["actions"]["upload"]["href"])
    with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
        connection.sendall(f"PUT {address.path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode())
        for start in range(0, len(content), MIB):
            connection.sendall(content[start : start + MIB])
            time.sleep(1)
            impatient.admin_command("gc")
            ((reserved,),) = impatient.sql("SELECT bytes FROM reserved_totals")
            assert reserved == len(content)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    with impatient.client() as client:
        assert wire.commit(client, repo, [wire.uploaded("w.safetensors", content)]).status_code == 200
    impatient.assert_sound()


# --- how much at once -------------------------------------------------------------------------------------------------


def test_what_an_upload_costs_does_not_grow_with_those_that_are_open(folder_registry: Registry) -> None:
    """26,784 of them held a server at 63 % of a core for a day."""

    def spent(first: int) -> float:
        before = cpu_seconds(folder_registry)
        with folder_registry.client() as client:
            for number in range(first, first + 150):
                assert "error" not in wire.batch(client, "owner/many", b"", oid=name_of(number), size=100)
        return cpu_seconds(folder_registry) - before

    folder_registry.stop()
    folder_registry.start(LORAHUB_QUOTA_OPEN_UPLOADS="0")
    with folder_registry.client() as client:
        wire.create_repo(client, "owner/many")
    spent(1)
    alone = spent(1000)
    with folder_registry.database() as database:
        database.exec_driver_sql(
            "INSERT INTO uploads"
            " (id, repository_id, account_id, declared_sha256, declared_size, created_at, expires_at)"
            " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 26784)"
            " SELECT printf('%032x', i), u.repository_id, u.account_id, printf('%064x', i + 9000000), 7, u.created_at,"
            " u.expires_at FROM n, (SELECT * FROM uploads LIMIT 1) AS u"
        )
    folder_registry.admin_command("recount-quotas")
    spent(2000)
    assert spent(3000) < 1.5 * alone + 0.1
    with folder_registry.client() as client:
        assert client.get("/api/lorahub/v1/whoami").json()["openUploads"]["used"] == 26784 + 4 * 150
    folder_registry.assert_sound()


def test_fifty_slow_uploads_hold_neither_threads_nor_memory(folder_registry: Registry) -> None:
    """More than there are threads: everybody else is answered meanwhile, and each of them is taken in the end."""
    contents = [weights_of_size(200_000, seed=100 + number) for number in range(60)]
    connections = list[socket.socket]()
    with folder_registry.client() as client:
        repo = wire.create_repo(client, "owner/patient")
        addresses = [urlsplit(wire.batch(client, repo, one)["actions"]["upload"]["href"]) for one in contents]
        held = folder_registry.rss_bytes()
        try:
            for address, content in zip(addresses, contents, strict=True):
                connection = socket.create_connection((address.hostname or "", address.port or 0))
                connections.append(connection)
                head = f"PUT {address.path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
                connection.sendall(head.encode() + content[:100_000])
            eventually(lambda: len(list((folder_registry.home / "storage/staging").rglob(".writing-*"))) == 60)
            for path in ("/livez", "/api/models", f"/api/models/{repo}", "/readyz"):
                assert client.get(path).status_code == 200
            assert wire.commit(client, repo, [wire.inline("a.txt", b"a")]).status_code == 200
            assert folder_registry.rss_bytes() - held < 64 * MIB
            for connection, content in zip(connections, contents, strict=True):
                connection.sendall(content[100_000:])
            for connection in connections:
                assert connection.recv(100).startswith(b"HTTP/1.1 200")
        finally:
            for connection in connections:
                connection.close()
        lines = [wire.uploaded(f"{number}.safetensors", one) for number, one in enumerate(contents)]
        assert wire.commit(client, repo, lines).status_code == 200


# --- the disk ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Registry]:
    """A registry whose home is a disk of 64 MiB, a mount that only it sees."""
    home, program = tmp_path / "home", tmp_path / "lorahub"
    home.mkdir()
    mount = f'mount -t tmpfs -o size=64m small "{home}" && exec "{LORAHUB}" "$@"'
    program.write_text(f"#!/bin/sh\nexec {' '.join(NAMESPACE)} --mount --keep-caps sh -c '{mount}' sh \"$@\"\n")
    program.chmod(0o755)
    running = Registry(home, {**IN_A_FOLDER, "LORAHUB_DATABASE_URL": ""}, program=str(program)).start()
    yield running
    running.kill()


@pytest.mark.skipif(not has_small_disks(), reason="this system lets nobody mount a small disk")
def test_a_tenth_of_a_small_disk_stays_free(small: Registry) -> None:
    """What is too large is refused before a byte of it is sent; and what needs rows only can be done to the end."""
    with small.client() as client:
        repo = wire.create_repo(client, "owner/small")
        for number in range(4):
            wire.upload(client, repo, weights_of_size(12 * MIB, seed=200 + number))
        with pytest.raises(wire.Refused) as refused:
            wire.batch(client, repo, b"", oid="ab" * 32, size=12 * MIB)
        assert refused.value.status == 507
        answers = [wire.commit(client, repo, [wire.inline("n", os.urandom(MIB))]) for _ in range(12)]
        assert Counter(answer.status_code for answer in answers).keys() == {200, 507}
        assert answers[-1].json()["code"] == "DiskFull"
        assert client.get(f"/{repo}/resolve/main/n").status_code == 200
        assert client.get(f"/{repo}").status_code == 200
        gone = client.request("DELETE", "/api/repos/delete", json={"name": "small"})
        assert gone.status_code == 200


# --- what is there without being asked for ----------------------------------------------------------------------------


def test_a_namespace_has_a_quota_unless_it_is_of_who_started_the_registry(
    own_registry: Registry,
) -> None:
    token = own_registry.add_user("somebody")
    with own_registry.client() as client:
        assert client.get("/api/lorahub/v1/whoami").json()["quotas"][0]["bytes"]["limit"] is None
    with own_registry.client(token) as client:
        quota = client.get("/api/lorahub/v1/whoami").json()["quotas"][0]
        assert (quota["bytes"]["limit"], quota["repositories"]["limit"]) == (100_000_000_000, 10_000)
        repo = wire.create_repo(client, "somebody/large")
        assert "100000000000 bytes" in wire.batch(client, repo, b"", oid="ab" * 32, size=1 << 37)["error"]["message"]
        own_registry.admin_command("quota", "somebody", "--bytes", "none")
        assert client.get("/api/lorahub/v1/whoami").json()["quotas"][0]["bytes"]["limit"] is None


def test_organisations_are_no_way_around_it(own_registry: Registry) -> None:
    token = own_registry.add_user("founder")
    with own_registry.client(token) as client, ThreadPoolExecutor(4) as threads:
        bodies = [{"name": f"org-{number}"} for number in range(13)]
        answers = list(threads.map(lambda body: client.post("/api/lorahub/v1/organisations", json=body), bodies))
    assert Counter(answer.status_code for answer in answers) == {200: 10, 413: 3}
    refused = next(answer for answer in answers if answer.status_code == 413)
    assert refused.json()["error"] == "you have made 10 organisations, and may make 10"
    with own_registry.client() as client:
        assert client.post("/api/lorahub/v1/organisations", json={"name": "by-an-administrator"}).status_code == 200
