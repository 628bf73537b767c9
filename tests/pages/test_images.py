"""Images that an adapter made: shown from here only, as what they are, and covered where its card says so."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import httpx2
import lorahub
import pytest
from pages.conftest import Catalog
from playwright.sync_api import BrowserContext, Page, expect

NAME = "pages-owner/painter"
CARD = """---
base_model: pages-org/pages-base
instance_prompt: in the style of <b>zorn</b>
tags: [{tag}]
widget:
- text: a boat
  output:
    url: images/boat.png
- text: elsewhere
  output:
    url: https://evil.test/spy.png
---
Paints.
"""


def png(side: int = 64) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(v for x in range(side) for v in (90 + y, 120 + x, 160)) for y in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture
def push(catalog: Catalog, write_folder: Callable[[str], Path]) -> Callable[..., None]:
    def pushed(name: str, *, tag: str, private: bool = False) -> None:
        folder = write_folder(CARD.format(tag=tag))
        (folder / "images").mkdir()
        (folder / "images" / "boat.png").write_bytes(png())
        (folder / "images" / "lie.png").write_text("<script>document.title='owned'</script>")
        with lorahub.Hub(catalog.url, token=catalog.owner) as hub:
            hub.push(folder, name, private=private)

    return pushed


def loaded(page: Page) -> list[str]:
    page.locator("main img").first.scroll_into_view_if_needed()
    return [image.get_attribute("src") or "" for image in page.locator("main img").all()]


def test_images_and_trigger_words_are_shown(
    catalog: Catalog, context: BrowserContext, push: Callable[..., None]
) -> None:
    push(NAME, tag="art")
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url))
    page.goto(f"{catalog.url}/{NAME}")
    boat = page.get_by_role("img", name="a boat")
    expect(boat).to_be_visible()
    assert all(source.startswith(f"/{NAME}/image/") for source in loaded(page))
    expect(page.get_by_role("region", name="Trigger words 1")).to_have_text("in the style of <b>zorn</b>")
    page.wait_for_load_state("networkidle")
    assert any(url.endswith("/images/boat.png") for url in asked)
    assert all(url.startswith(catalog.url) for url in asked)
    assert page.title() != "owned"


def test_sensitive_images_are_covered_until_asked_for(
    catalog: Catalog, context: BrowserContext, push: Callable[..., None], request: pytest.FixtureRequest
) -> None:
    push("pages-owner/painter-of-nudes", tag="not-for-all-audiences")
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url))
    page.goto(f"{catalog.url}/pages-owner/painter-of-nudes")
    boat = page.get_by_role("img", name="a boat")
    expect(boat).not_to_be_visible()
    page.wait_for_load_state("networkidle")
    if "with scripts" in request.node.name:  # without, Chromium is never lazy
        assert not [url for url in asked if "/image/" in url]
    page.get_by_text("Sensitive images").click()
    expect(boat).to_be_visible()


def test_an_image_is_served_as_what_it_is_or_not_at_all(
    as_owner: httpx2.Client, as_stranger: httpx2.Client, push: Callable[..., None]
) -> None:
    name = "pages-owner/hidden-painter"
    push(name, tag="art", private=True)
    answer = as_owner.get(f"/{name}/image/main/images/boat.png")
    assert answer.content == png()
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    again = as_owner.get(f"/{name}/image/main/images/boat.png", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert as_owner.get(f"/{name}/image/main/images/lie.png").status_code == 415
    assert as_owner.get(f"/{name}/image/main/README.md").status_code == 415
    assert as_owner.get(f"/{name}/image/main/nothing.png").status_code == 404
    assert as_stranger.get(f"/{name}/image/main/images/boat.png").status_code == 404
