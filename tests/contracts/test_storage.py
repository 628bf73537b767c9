"""What every storage promises, asked of the folder and of a real S3 server alike."""

import hashlib
import random
import resource
import secrets
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from lorahub.errors import DiskFull
from lorahub_registry.infrastructure.storage import BlobStore, FolderBlobStore, ObjectNotFound
from lorahub_registry.infrastructure.storage.s3_blob_store import S3BlobStore, Sizes
from services import production

MiB = 1 << 20
SMALL = Sizes(part=5 * MiB, copy=6 * MiB)
"""The smallest that S3 allows, so that small objects take the ways of large ones."""


def in_folder(folder: Path) -> BlobStore:
    return FolderBlobStore(folder / "storage")


def in_bucket(_: Path) -> BlobStore:
    server = production.s3()
    return S3BlobStore(server.client(), server.new_bucket(), "some/prefix/")


def in_bucket_in_small_parts(_: Path) -> BlobStore:
    server = production.s3()
    return S3BlobStore(server.client(), server.new_bucket(), "", sizes=SMALL)


@pytest.fixture(params=[in_folder, in_bucket, in_bucket_in_small_parts])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    make: Callable[[Path], BlobStore] = request.param
    return make(tmp_path)


def put(store: BlobStore, key: str, content: bytes) -> None:
    with store.writer(key) as file:
        for start in range(0, len(content), MiB):
            file.write(content[start : start + MiB])


def read(store: BlobStore, key: str) -> bytes:
    size = store.size(key)
    assert size is not None
    return b"".join(store.open_range(key, 0, size))


def keys(store: BlobStore, prefix: str) -> list[str]:
    return sorted(stored.key for stored in store.list(prefix))


@pytest.mark.parametrize("size", [0, 1, 4095, MiB, 5 * MiB, 5 * MiB + 1, 11 * MiB + 13])
def test_what_is_written_is_read_whole_and_by_ranges(store: BlobStore, size: int) -> None:
    content = random.Random(size).randbytes(size)
    put(store, "blobs/aa/bb/one", content)
    assert store.size("blobs/aa/bb/one") == size
    assert read(store, "blobs/aa/bb/one") == content
    for start, stop in ((0, 1), (size // 3, size // 2), (size // 2, size + 10), (size, size + 1), (size + 5, size + 9)):
        assert b"".join(store.open_range("blobs/aa/bb/one", start, stop)) == content[start:stop]
    assert all(len(piece) <= MiB for piece in store.open_range("blobs/aa/bb/one", 0, size))
    [stored] = store.list("blobs/")
    assert (stored.key, stored.size) == ("blobs/aa/bb/one", size)
    assert abs(stored.modified_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_many_small_objects_are_written_and_read_together(store: BlobStore) -> None:
    contents = {f"blobs/aa/bb/{number:03d}": b"%d" % number * (number % 5) for number in range(150)}
    store.write_all(contents)
    assert keys(store, "blobs/") == sorted(contents)
    some = sorted(contents, reverse=True)[::2]
    assert list(store.read_all({key: len(contents[key]) for key in some})) == [contents[key] for key in some]
    [longer] = store.read_all({"blobs/aa/bb/004": 3})
    assert longer == contents["blobs/aa/bb/004"][:4], "bytes behind the end that was expected are seen"
    with pytest.raises(ObjectNotFound):
        list(store.read_all({"blobs/aa/bb/004": 4, "blobs/aa/bb/none": 1}))
    store.delete_all([*some, "blobs/aa/bb/none"])
    assert keys(store, "blobs/") == sorted(contents.keys() - some)


def test_a_folder_that_is_full_keeps_none_of_many_small_objects(tmp_path: Path) -> None:
    store = FolderBlobStore(tmp_path / "storage")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(DiskFull):
            store.write_all({"blobs/aa/bb/one": b"1", "blobs/aa/bb/two": bytes(8192), "blobs/aa/bb/three": b"3"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("size", [10, 12 * MiB])
def test_a_write_that_breaks_off_leaves_nothing(store: BlobStore, size: int) -> None:
    def break_off() -> None:
        with store.writer("staging/u/whole") as file:
            file.write(b"x" * size)
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        break_off()
    assert store.size("staging/u/whole") is None
    assert keys(store, "staging/") == []
    assert store.abort_unfinished(lambda _key, _begun_at: False) == 0


def test_a_write_is_not_visible_before_it_ends(store: BlobStore) -> None:
    put(store, "staging/u/whole", b"before")
    with store.writer("staging/u/whole") as file:
        file.write(b"x" * 11 * MiB)
        assert read(store, "staging/u/whole") == b"before"
    assert store.size("staging/u/whole") == 11 * MiB


def test_what_is_not_there_is_said_at_once(store: BlobStore) -> None:
    assert store.size("blobs/none") is None
    store.delete("blobs/none")
    for act in (
        lambda: store.open_range("blobs/none", 0, 1),
        lambda: store.open_range("blobs/none", 0, 0),
        lambda: store.move("blobs/none", "blobs/other"),
        lambda: store.join(["blobs/none"], "blobs/other"),
    ):
        with pytest.raises(ObjectNotFound):
            act()
    assert keys(store, "blobs/") == []


@pytest.mark.parametrize("size", [0, 1000, 20 * MiB + 1])
def test_a_move_may_be_repeated(store: BlobStore, size: int) -> None:
    content = random.Random(size).randbytes(size)
    put(store, "staging/u/whole", content)
    for _ in range(3):
        store.move("staging/u/whole", "blobs/aa/one")
    assert keys(store, "staging/") == []
    assert read(store, "blobs/aa/one") == content
    put(store, "staging/u/whole", b"other")
    store.move("staging/u/whole", "blobs/aa/one")
    assert read(store, "blobs/aa/one") == b"other"


@pytest.mark.parametrize("sizes", [[5], [1, 2, 3], [6 * MiB, 6 * MiB, 7], [5 * MiB, 3, 5 * MiB], [7 * MiB, 1]])
def test_parts_are_joined_in_order_and_stay(store: BlobStore, sizes: list[int]) -> None:
    parts = [random.Random(number).randbytes(size) for number, size in enumerate(sizes)]
    names = [f"staging/u/part-{number:05d}" for number in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        put(store, name, part)
    store.join(names, "staging/u/whole")
    assert read(store, "staging/u/whole") == b"".join(parts)
    assert keys(store, "staging/u/") == [*names, "staging/u/whole"]


def test_a_delete_takes_one_object_and_may_be_repeated(store: BlobStore) -> None:
    for key in ("staging/u/whole", "staging/u/whole-2", "staging/uu/whole"):
        put(store, key, b"x")
    for _ in range(2):
        store.delete("staging/u/whole")
    assert keys(store, "staging/") == ["staging/u/whole-2", "staging/uu/whole"]
    assert keys(store, "staging/u/") == ["staging/u/whole-2"]


@pytest.mark.parametrize("store", [in_folder, in_bucket], indirect=True)
def test_a_listing_has_every_object_of_a_long_prefix_once(store: BlobStore) -> None:
    expected = [f"xorbs/s/{number:04d}" for number in range(1003)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: put(store, key, b"x"), expected))
    put(store, "xorbs/t/other", b"x")
    found = [stored.key for stored in store.list("xorbs/s/")]
    assert sorted(found) == expected
    assert keys(store, "nothing/") == []


def test_many_threads_write_read_move_and_delete(store: BlobStore) -> None:
    def work(number: int) -> None:
        content = random.Random(number).randbytes(number * 1000)
        put(store, f"staging/{number}/whole", content)
        store.move(f"staging/{number}/whole", f"blobs/{number}")
        assert read(store, f"blobs/{number}") == content
        if number % 2:
            store.delete(f"blobs/{number}")

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(48)))
    assert keys(store, "blobs/") == sorted(f"blobs/{number}" for number in range(0, 48, 2))
    assert keys(store, "staging/") == []


def test_the_same_key_written_by_many_at_once_is_one_of_them(store: BlobStore) -> None:
    contents = [bytes([number]) * (number * 700_000 + 1) for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda content: put(store, "staging/u/whole", content), contents))
    assert read(store, "staging/u/whole") in contents
    assert keys(store, "staging/") == ["staging/u/whole"]


def test_a_large_object_passes_through_a_bounded_memory(store: BlobStore) -> None:
    piece, count = secrets.token_bytes(MiB), 80
    digest, found = hashlib.sha256(piece * count), hashlib.sha256()
    tracemalloc.start()
    try:
        with store.writer("staging/u/whole") as file:
            for _ in range(count):
                file.write(piece)
        for got in store.open_range("staging/u/whole", 0, count * MiB):
            found.update(got)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.hexdigest() == digest.hexdigest()
    assert peak < 40 * MiB, f"{peak / MiB:.0f} MiB"


def test_a_reader_that_stops_early_holds_nothing(store: BlobStore) -> None:
    put(store, "blobs/one", b"x" * 6 * MiB)
    for _ in range(80):  # more than there are connections
        reader: Iterator[bytes] = store.open_range("blobs/one", 0, 6 * MiB)
        next(reader)
        reader.close()  # type: ignore[attr-defined]
    assert read(store, "blobs/one") == b"x" * 6 * MiB


def test_an_unfinished_write_of_a_dead_process_is_aborted_once_nobody_knows_it() -> None:
    server = production.s3()
    client, bucket = server.client(), server.new_bucket()
    store = S3BlobStore(client, bucket, "p/")
    begun = client.create_multipart_upload(Bucket=bucket, Key="p/staging/u/whole")
    client.upload_part(
        Bucket=bucket, Key="p/staging/u/whole", UploadId=begun["UploadId"], PartNumber=1, Body=b"x" * 5 * MiB
    )
    assert keys(store, "staging/") == []
    last = store.last_arrival("staging/u/")
    assert last is not None
    assert abs(datetime.now(UTC) - last) < timedelta(minutes=1)
    assert store.abort_unfinished(lambda key, begun_at: (key, begun_at) > ("staging/u", last - timedelta(days=1))) == 0
    assert store.abort_unfinished(lambda key, _begun_at: key != "staging/u/whole") == 1
    assert store.last_arrival("staging/u/") is None
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)


def test_a_bucket_that_is_missing_is_made_and_one_that_is_there_is_kept() -> None:
    store = S3BlobStore(production.s3().client(), f"made-{secrets.token_hex(6)}", "")
    for _ in range(2):
        store.create()
        store.probe()
    put(store, "blobs/aa/bb/x", b"kept")
    store.create()
    assert read(store, "blobs/aa/bb/x") == b"kept"
