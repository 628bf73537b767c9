"""Conditional requests and ranges, as RFC 9110 has them, on every kind of content."""

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import httpx2
import pytest
import wire
from reading.conftest import KINDS, Shelf
from registry_process import Registry

pytestmark = pytest.mark.xdist_group("reading")

PAST, FUTURE = "Mon, 01 Jan 2001 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"
NOT_MODIFIED, FAILED = 304, 412

# {tag} is the ETag with its quotes, {bare} what is between them.
ON_THE_WHOLE: list[tuple[dict[str, str], int]] = [
    ({"If-None-Match": "{tag}"}, NOT_MODIFIED),
    ({"If-None-Match": "W/{tag}"}, NOT_MODIFIED),
    ({"If-None-Match": "{bare}"}, NOT_MODIFIED),
    ({"If-None-Match": "*"}, NOT_MODIFIED),
    ({"If-None-Match": '"another", W/"third" ,{tag}'}, NOT_MODIFIED),
    ({"If-None-Match": '"another"'}, 200),
    ({"If-None-Match": '"x,{bare}"'}, 200),
    ({"If-None-Match": '"{bare}'}, 200),
    ({"If-None-Match": ""}, 200),
    ({"If-None-Match": '"another"', "If-Modified-Since": FUTURE}, 200),
    ({"If-Modified-Since": FUTURE}, 200),
    ({"If-Unmodified-Since": PAST}, 200),
    ({"If-Match": "{tag}"}, 200),
    ({"If-Match": "{bare}"}, 200),
    ({"If-Match": '"another", {tag}'}, 200),
    ({"If-Match": "*"}, 200),
    ({"If-Match": "{tag}", "If-Unmodified-Since": PAST}, 200),
    ({"If-Match": "W/{tag}"}, FAILED),
    ({"If-Match": '"another"'}, FAILED),
    ({"If-Match": "nonsense, {{}}"}, FAILED),
    ({"If-Match": '"another"', "If-None-Match": "{tag}"}, FAILED),
    ({"If-Match": "{tag}", "If-None-Match": "{tag}"}, NOT_MODIFIED),
]
ON_A_RANGE: list[tuple[dict[str, str], int]] = [
    ({"Range": "bytes=1-3"}, 206),
    ({"Range": "BYTES=1-3"}, 206),
    ({"Range": "bytes=1-3", "If-Range": "{tag}"}, 206),
    ({"Range": "bytes=1-3", "If-Range": "{bare}"}, 206),
    ({"Range": "bytes=1-3", "If-Range": "W/{tag}"}, 200),
    ({"Range": "bytes=1-3", "If-Range": '"another"'}, 200),
    ({"Range": "bytes=1-3", "If-Range": PAST}, 200),
    ({"Range": "bytes=1-3", "If-Range": FUTURE}, 200),
    ({"Range": "bytes=1-3", "If-Range": '"another", {tag}'}, 200),
    ({"Range": "bytes=1-3", "If-Range": "yesterday"}, 200),
    ({"Range": "bytes=1-3", "If-None-Match": "{tag}"}, NOT_MODIFIED),
    ({"Range": "bytes=1-3", "If-None-Match": '"another"'}, 206),
    ({"Range": "bytes=1-3", "If-Match": '"another"'}, FAILED),
    ({"Range": "bytes=1-3", "If-Match": "{tag}", "If-Range": '"another"'}, 200),
    ({"Range": "bytes=0-0,2-3"}, 200),
    ({"Range": "bytes=3-1"}, 200),
    ({"Range": "lines=1-3"}, 200),
    ({"Range": "bytes=99999999-"}, 416),
    ({"Range": "bytes=99999999999999999999999-"}, 416),
    ({"Range": "bytes=-0"}, 416),
    ({"Range": "bytes=99999999-", "If-Range": "{tag}"}, 416),
    ({"Range": "bytes=99999999-", "If-Range": '"another"'}, 200),
    ({"Range": "bytes=99999999-", "If-Match": '"another"'}, FAILED),
    ({"Range": "bytes=99999999-", "If-None-Match": "{tag}"}, NOT_MODIFIED),
]


def tagged(headers: Mapping[str, str], tag: str) -> dict[str, str]:
    return {name: value.format(tag=tag, bare=tag.strip('"')) for name, value in headers.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_condition_is_answered_as_the_rfc_has_it(shelf: Shelf, kind: str) -> None:
    with shelf.client() as client:
        address = shelf.address(kind)
        whole, tag = client.get(address).content, client.head(address).headers["ETag"]
        for headers, status in ON_THE_WHOLE + ON_A_RANGE:
            got = client.get(address, headers=tagged(headers, tag))
            assert got.status_code == status, headers
            assert_is_what_it_says(got, whole, tag)


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_is_answered_as_the_get_of_the_whole(shelf: Shelf, kind: str) -> None:
    with shelf.client() as client:
        address = shelf.address(kind)
        whole = client.head(address)
        for headers, status in ON_THE_WHOLE + ON_A_RANGE:
            expected = status if status in (NOT_MODIFIED, FAILED) else 200
            head = client.head(address, headers=tagged(headers, whole.headers["ETag"]))
            assert (head.status_code, head.content) == (expected, b""), headers
            assert head.headers["ETag"] == whole.headers["ETag"]
            if expected == 200:
                assert head.headers["Content-Length"] == whole.headers["Content-Length"]
                assert "Content-Range" not in head.headers


def assert_is_what_it_says(got: httpx2.Response, whole: bytes, tag: str) -> None:
    match got.status_code:
        case 200:
            assert got.content == whole
        case 206:
            assert got.content == whole[1:4]
            assert got.headers["Content-Range"] == f"bytes 1-3/{len(whole)}"
        case 304:
            assert got.content == b""
            assert got.headers["ETag"] == tag
            assert got.headers["Cache-Control"] == "private, no-cache"
            assert got.headers["Vary"] == "Cookie, Authorization"
            assert "Content-Type" not in got.headers
            assert "Content-Length" not in got.headers
        case 412:
            assert got.headers["ETag"] == got.json()["facts"]["etag"] == tag
            assert got.json()["code"] == got.headers["X-Error-Code"] == "PreconditionFailed"
        case 416:
            assert got.headers["Content-Range"] == f"bytes */{len(whole)}"


def test_a_list_may_come_in_several_lines(shelf: Shelf) -> None:
    with shelf.client() as client:
        address = shelf.address("small")
        tag = client.head(address).headers["ETag"]
        for name, status in (("If-None-Match", NOT_MODIFIED), ("If-Match", 200)):
            got = client.get(address, headers=[(name, '"another"'), (name, tag), (name, '"third"')])
            assert got.status_code == status


@pytest.mark.parametrize(
    ("header", "expected"), [("bytes=-4", slice(-4, None)), ("bytes=-99999999", slice(0)), ("bytes=5-", slice(5, None))]
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_end_of_a_file_is_a_range(shelf: Shelf, kind: str, header: str, expected: slice) -> None:
    with shelf.client() as client:
        whole = client.get(shelf.address(kind)).content
        got = client.get(shelf.address(kind), headers={"Range": header})
    assert got.status_code == 206
    assert got.content == (whole[expected] or whole)


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-99", "bytes=-5"])
def test_a_range_of_an_empty_file_is_the_empty_file(shelf: Shelf, header: str) -> None:
    address = f"/{shelf.repo}/resolve/main/empty.txt"
    with shelf.client() as client:
        got = client.get(address, headers={"Range": header})
        assert (got.status_code, got.content, "Content-Range" in got.headers) == (200, b"", False)
        behind = client.get(address, headers={"Range": "bytes=1-"})
        assert (behind.status_code, behind.headers["Content-Range"]) == (416, "bytes */0")


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_true_of_the_old_content_is_not_of_the_new(shelf: Shelf, kind: str) -> None:
    with shelf.client() as client:
        address = shelf.address(kind)
        old, old_tag = client.get(address).content, client.head(address).headers["ETag"]
        shelf.push(2)
        new, new_tag = client.get(address).content, client.head(address).headers["ETag"]
        assert len(new) == len(old)
        assert (new, new_tag) != (old, old_tag)
        rest = {"Range": f"bytes={len(old) // 2}-"}
        resumed = client.get(address, headers={**rest, "If-Range": old_tag})
        assert (resumed.status_code, resumed.content) == (200, new)
        assert client.get(address, headers={**rest, "If-Match": old_tag}).status_code == FAILED
        changed = client.get(address, headers={"If-None-Match": old_tag})
        assert (changed.status_code, changed.content) == (200, new)
        pinned = client.get(shelf.address(kind, "v1"), headers={**rest, "If-Range": old_tag})
        assert (pinned.status_code, pinned.content) == (206, old[len(old) // 2 :])


def test_a_name_that_leads_back_gives_what_it_gave(shelf: Shelf) -> None:
    """A date would say that nothing has changed since."""
    shelf.push(2, "champion")
    with shelf.client() as client:
        address = shelf.address("small", "champion")
        tag = client.head(address).headers["ETag"]
        client.put(f"/api/lorahub/v1/models/{shelf.repo}/aliases/champion", json={"revision": "v1"}).raise_for_status()
        back = client.get(address, headers={"If-None-Match": tag, "If-Modified-Since": FUTURE})
        assert (back.status_code, back.text) == (200, "000001" * 50)


def test_what_is_not_there_or_not_for_everybody_is_said_before_any_condition(shelf: Shelf) -> None:
    missing = f"/{shelf.repo}/resolve/main/missing.txt"
    with shelf.client() as client, shelf.registry.client(None) as nobody:
        for headers in ({"If-Match": '"x"'}, {"If-None-Match": "*"}):
            assert client.get(missing, headers=headers).status_code == 404
        client.put(f"/api/models/{shelf.repo}/settings", json={"private": True}).raise_for_status()
        for headers in ({"If-Match": '"x"'}, {"If-None-Match": "*"}):
            assert nobody.get(shelf.address("small"), headers=headers).status_code in (401, 404)


def test_what_nobody_got_is_no_download(shelf: Shelf) -> None:
    address = shelf.address("large")
    with shelf.client() as client:

        def count() -> int:
            return int(client.get(f"/api/models/{shelf.repo}").json()["downloads"])

        tag, before = client.head(address).headers["ETag"], count()
        for headers in (
            {"If-None-Match": tag},
            {"If-Match": '"another"'},
            {"Range": "bytes=100-", "If-Range": tag},
            {"Range": "bytes=99999999-"},
        ):
            client.get(address, headers=headers)
            client.head(address, headers=headers)
        assert count() == before
        client.get(address, headers={"Range": "bytes=100-", "If-Range": '"another"'})
        assert count() == before + 1, "it got the whole file"


@pytest.mark.parametrize("kind", ["small", "large"])
def test_the_digest_of_the_whole_file_comes_with_each_part_of_it(shelf: Shelf, kind: str) -> None:
    with shelf.client() as client:
        address = shelf.address(kind)
        digest = base64.b64encode(hashlib.sha256(client.get(address).content).digest()).decode()
        tag = client.head(address).headers["ETag"]
        for headers in ({"If-Match": tag}, {"Range": "bytes=1-3", "If-Range": tag}):  # never from a bucket
            got = client.get(address, headers=headers)
            assert got.headers["Repr-Digest"] == f"sha-256=:{digest}:"
            assert got.headers["Digest"] == f"SHA-256={digest}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_says_where_this_very_content_is(shelf: Shelf, kind: str) -> None:
    """Where the Hub's clients go on."""
    with shelf.client() as client:
        before = client.head(shelf.address(kind))
        content = client.get(shelf.address(kind)).content
        shelf.push(2)
        assert client.get(shelf.address(kind)).content != content
        assert client.get(before.headers["Location"]).content == content
        assert before.headers["X-Repo-Commit"] in before.headers["Location"]


def test_no_client_is_led_to_a_host_that_it_does_not_know(tmp_path: Path) -> None:
    """The Hub's send it no token, so that what is private would not be there."""
    public = "http://registry.test"
    running = Registry(tmp_path / "registry", {"LORAHUB_PUBLIC_URL": public}).start()
    with running.client() as client:
        address = f"/{wire.create_repo(client, 'owner/known')}/resolve/main/.gitattributes"
        inside = client.head(address)
        outside = client.head(address, headers={"Host": "registry.test"})
    running.kill()
    assert (inside.status_code, "Location" in inside.headers) == (200, False)
    assert outside.headers["Location"] == public + address.replace("main", outside.headers["X-Repo-Commit"])


# --- what pages are made of -------------------------------------------------------------------------------------------

# What is found is of this test alone: the downloads of others' are counted after they are answered.
PAGES = ["/search?search={repo}", "/{repo}", "/{repo}/tree/v1", "/{repo}/image/main/a.png", "/favicon.ico", "{style}"]


@pytest.mark.parametrize("address", PAGES)
def test_pages_pictures_and_their_styles_know_the_same_conditions(shelf: Shelf, address: str) -> None:
    with shelf.client() as client:
        style = re.search(r"/static/[^\"]+\.css", client.get("/search").text)
        assert style is not None
        address = address.format(repo=shelf.repo, style=style[0])
        whole = client.get(address)
        tag = whole.headers["ETag"]
        bare = tag.removeprefix("W/").strip('"')
        for known in (tag, f'W/"{bare}"', f'"another", "{bare}"', "*", bare):
            for method in ("GET", "HEAD"):
                got = client.request(method, address, headers={"If-None-Match": known})
                assert (got.status_code, got.content) == (NOT_MODIFIED, b""), known
                for name in ("ETag", "Cache-Control", "Vary"):
                    assert got.headers.get(name) == whole.headers.get(name)
                assert "Content-Length" not in got.headers
        for known in ('"another"', f'"{bare}x"', f'"x{bare}"'):
            assert client.get(address, headers={"If-None-Match": known}).status_code == 200, known
        assert client.get(address, headers={"If-Match": '"another"'}).status_code == FAILED


@pytest.mark.parametrize("address", ["/search", "/favicon.ico"])
def test_a_tag_that_several_codings_share_is_a_weak_one(shelf: Shelf, address: str) -> None:
    with shelf.client() as client:
        for coding in ("br", "gzip", "identity"):
            answer = client.get(address, headers={"Accept-Encoding": coding})
            assert answer.headers["ETag"].startswith("W/")
