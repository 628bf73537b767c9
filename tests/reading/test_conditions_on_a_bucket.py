"""Conditions on files that a bucket hands out: they hold by the registry's tags, wherever the bytes come from.

A bucket has a tag and a date of its own for the same bytes, and this one doesn't know `If-Range`.
"""

from collections.abc import Iterator

import httpx2
import pytest
from reading.conftest import Shelf
from registry_process import Registry
from services import production

pytestmark = pytest.mark.xdist_group("storage-addresses")

PAST, FUTURE = "Mon, 01 Jan 2001 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    settings = production.storage_settings(production.s3())
    running = Registry(tmp_path_factory.mktemp("registry"), settings=settings).start()
    yield running
    running.stop()
    running.assert_sound()


@pytest.fixture
def client(shelf: Shelf) -> Iterator[httpx2.Client]:
    """As curl -L does it: what it is told to send goes to the bucket too."""
    bearer = {"Authorization": f"Bearer {shelf.token}"}
    with httpx2.Client(base_url=shelf.registry.url, headers=bearer, follow_redirects=True) as running:
        yield running


def was_redirected(answer: httpx2.Response) -> bool:
    return [one.status_code for one in answer.history] == [302]


def test_without_a_condition_the_bucket_hands_out_the_range(shelf: Shelf, client: httpx2.Client) -> None:
    whole = client.get(shelf.address("large"))
    part = client.get(shelf.address("large"), headers={"Range": "bytes=100-"})
    assert was_redirected(whole)
    assert was_redirected(part)
    assert (part.status_code, part.content) == (206, whole.content[100:])


def test_a_range_goes_on_with_the_content_that_it_began_with_or_not_at_all(shelf: Shelf, client: httpx2.Client) -> None:
    address = shelf.address("large")
    whole = client.get(address)
    tag = client.head(address).headers["ETag"]
    rest = {"Range": "bytes=100-"}
    same = client.get(address, headers={**rest, "If-Range": tag})
    assert (same.status_code, same.content) == (206, whole.content[100:])
    shelf.push(2)
    new = client.get(address).content
    assert len(new) == len(whole.content)
    assert new != whole.content
    for stale in (tag, whole.headers["ETag"], whole.headers["Last-Modified"], FUTURE):
        got = client.get(address, headers={**rest, "If-Range": stale})
        assert (got.status_code, got.content) == (200, new), stale
    assert client.get(address, headers={**rest, "If-Match": tag}).status_code == 412


def test_what_a_bucket_would_take_otherwise_is_answered_by_the_registry(shelf: Shelf, client: httpx2.Client) -> None:
    address = shelf.address("large")
    whole, tag = client.get(address), client.head(address).headers["ETag"]
    assert whole.headers["ETag"] != tag, "the bucket's own"
    for headers in (
        {"If-Match": tag},
        {"If-Unmodified-Since": PAST},
        {"If-Modified-Since": FUTURE},
        {"If-None-Match": '"another"', "If-Modified-Since": FUTURE},
    ):
        got = client.get(address, headers=headers)
        assert (got.status_code, got.content) == (200, whole.content), headers
        assert got.headers["ETag"] == tag


def test_whoever_has_it_gets_it_from_neither(shelf: Shelf, client: httpx2.Client) -> None:
    address = shelf.address("large")
    whole, tag = client.get(address), client.head(address).headers["ETag"]
    ours = client.get(address, headers={"If-None-Match": tag})
    theirs = client.get(address, headers={"If-None-Match": whole.headers["ETag"]})
    assert (ours.status_code, ours.history, ours.headers["ETag"]) == (304, [], tag)
    assert (theirs.status_code, was_redirected(theirs)) == (304, True)
    shelf.push(2)
    for known in (tag, whole.headers["ETag"]):
        new = client.get(address, headers={"If-None-Match": known})
        assert (new.status_code, was_redirected(new)) == (200, True), "weights go past the registry"
        assert new.content != whole.content


def test_a_name_that_leads_back_gives_what_it_gave(shelf: Shelf, client: httpx2.Client) -> None:
    """The older object has an older date, by which nothing has changed."""
    shelf.push(2, "champion")
    address = shelf.address("large", "champion")
    newer = client.get(address)
    client.put(f"/api/lorahub/v1/models/{shelf.repo}/aliases/champion", json={"revision": "v1"}).raise_for_status()
    back = client.get(address, headers={"If-Modified-Since": newer.headers["Last-Modified"]})
    assert back.status_code == 200
    assert back.content == client.get(shelf.address("large", "v1")).content != newer.content
