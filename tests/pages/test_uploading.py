"""A version, a first repository and a card, by nothing but a browser."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import builders
import httpx2
import lorahub
import pytest
from lorahub.protocol.digests import sha256_of
from pages.conftest import Catalog, csrf
from pages.test_journeys import follow, log_in, path_of
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture
def adapter(catalog: Catalog, tmp_path: Path) -> Path:
    return builders.write_adapter(tmp_path / "adapter", base=catalog.base)


def chosen(folder: Path) -> list[Path]:
    return [folder / CONFIG, folder / WEIGHTS]


def versions(catalog: Catalog, name: str) -> list[str]:
    with lorahub.Hub(catalog.url, token=catalog.owner) as hub:
        return [version.name for version in hub.versions(name)]


@contextmanager
def unchanged(catalog: Catalog) -> Iterator[None]:
    count = "SELECT (SELECT count(*) FROM commits), (SELECT count(*) FROM audit_events)"
    before = catalog.registry.sql(count)
    yield
    assert catalog.registry.sql(count) == before


def in_page(catalog: Catalog, context: BrowserContext) -> Page:
    page = context.new_page()
    page.goto(catalog.url)
    log_in(page, catalog.owner)
    return page


def test_from_no_repository_to_a_second_version(  # noqa: PLR0915 (one journey)
    catalog: Catalog, context: BrowserContext, adapter: Path, request: pytest.FixtureRequest
) -> None:
    name = "by-browser-" + ("js" if "with scripts" in request.node.name else "plain")
    page = in_page(catalog, context)
    page.goto(f"{catalog.url}/pages-owner")
    page.get_by_role("link", name="New adapter").click()
    page.get_by_role("textbox", name="Name", exact=False).last.fill(name)
    follow(page, page.get_by_role("button", name="Create"))
    assert path_of(page) == f"/pages-owner/{name}/upload"

    (adapter / WEIGHTS).write_bytes(builders.lora_weights(width=24))
    page.get_by_label("Files").set_input_files(chosen(adapter))
    with unchanged(catalog):
        page.get_by_role("button", name="Check only").click()
        expect(page.get_by_role("alert")).to_contain_text("doesn't fit")
    findings = page.get_by_role("region", name="Findings")
    expect(findings).to_contain_text("LH2")
    with unchanged(catalog):
        page.get_by_label("Files").set_input_files(chosen(adapter))
        page.get_by_role("button", name="Publish", exact=True).click()
        expect(page.get_by_role("heading", name="Nothing was published")).to_be_visible()
    assert versions(catalog, f"pages-owner/{name}") == []
    page.get_by_role("region", name="Findings").get_by_role("link").first.click()
    expect(page.get_by_role("heading", name="Cure")).to_be_visible()

    (adapter / WEIGHTS).write_bytes(builders.lora_weights(seed=3))
    page.goto(f"{catalog.url}/pages-owner/{name}/upload")
    page.get_by_label("Files").set_input_files(chosen(adapter))
    page.get_by_label("What changed").fill("the right width")
    with unchanged(catalog):
        page.get_by_role("button", name="Check only").click()
        expect(page.get_by_role("status")).to_contain_text("It would be published")
    page.get_by_role("button", name="Publish these files").click()
    page.wait_for_url(f"**/pages-owner/{name}/v/v1")
    expect(page.get_by_role("status").first).to_have_text("Published as v1.")
    expect(page.locator("main").get_by_text("modules match").first).to_be_visible()

    (adapter / WEIGHTS).write_bytes(builders.lora_weights(seed=4))
    page.get_by_role("navigation", name="Parts").get_by_role("link", name="Upload").click()
    page.get_by_label("Files").set_input_files([adapter / WEIGHTS])
    page.get_by_role("button", name="Publish", exact=True).click()
    page.wait_for_url(f"**/pages-owner/{name}/v/v2")
    with lorahub.Hub(catalog.url, token=catalog.owner) as hub:
        got = hub.pull(f"pages-owner/{name}").path
        assert hub.revision(f"pages-owner/{name}").version == "v2"
    assert (got / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()
    assert (got / CONFIG).read_bytes() == (adapter / CONFIG).read_bytes()


def test_dropped_files_are_chosen(catalog: Catalog, browser: Browser) -> None:
    context = browser.new_context()
    page = in_page(catalog, context)
    page.goto(f"{catalog.url}/{catalog.other}/upload")
    page.evaluate(
        """() => {
          const data = new DataTransfer();
          data.items.add(new File(["{}"], "<img src=x onerror=document.title='owned'>\\u202e.json"));
          const form = document.querySelector("form[data-upload]");
          form.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
        }"""
    )
    expect(page.locator("[data-chosen] li")).to_contain_text("<img src=x")
    expect(page.get_by_role("alert")).to_contain_text("<img src=x")
    with unchanged(catalog):
        page.get_by_role("button", name="Publish", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("<img src=x")
    assert page.title() != "owned"
    assert page.locator("main img").count() == 0
    context.close()


def test_what_is_chosen_is_checked_at_once_and_sent_once(
    catalog: Catalog, browser: Browser, adapter: Path, tmp_path: Path
) -> None:
    context = browser.new_context()
    page = in_page(catalog, context)
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    bodies: list[bytes] = []
    page.on("request", lambda made: bodies.append(made.post_data_buffer or b"") if made.method == "POST" else None)
    page.goto(f"{catalog.url}/{catalog.other}/upload")
    page.evaluate(
        """() => {
          window.shown = [];
          const bar = document.querySelector("[data-sending]");
          new MutationObserver(() => shown.push(bar.textContent)).observe(bar, {childList: true, subtree: true});
        }"""
    )
    (adapter / WEIGHTS).write_bytes(builders.lora_weights(width=24))
    with unchanged(catalog):
        page.get_by_label("Files").set_input_files(chosen(adapter))
        expect(page.get_by_role("region", name="Findings")).to_contain_text("LH2")
        adapter = builders.write_adapter(tmp_path / "better", seed=21, base=catalog.base)
        page.get_by_label("Files").set_input_files(chosen(adapter))
        expect(page.get_by_role("status")).to_contain_text("It would be published")
    assert page.evaluate("shown.some(text => text.includes('% sent')) && shown.at(-1).includes('being checked')")
    expect(page.get_by_label("Bytes sent")).to_be_hidden()
    page.get_by_label("What changed").fill("chosen once")
    page.get_by_role("button", name="Publish", exact=True).click()
    page.wait_for_url(f"**/{catalog.other}/v/*")
    name = path_of(page).rpartition("/")[2]
    with lorahub.Hub(catalog.url, token=catalog.owner) as hub:
        got = hub.pull(f"{catalog.other}@{name}").path
    assert (got / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()
    assert "chosen once" in page.request.get(f"{catalog.url}/{catalog.other}/commits/main").text()
    assert [b'name="kept"' in body for body in bodies] == [False, False, True]
    assert b'name="files"' not in bodies[-1]
    assert not complaints
    context.close()


def test_publishing_waits_for_its_check(catalog: Catalog, browser: Browser, adapter: Path) -> None:
    context = browser.new_context()
    page = in_page(catalog, context)
    page.goto(f"{catalog.url}/{catalog.other}/upload")
    (adapter / WEIGHTS).write_bytes(builders.lora_weights(seed=22))
    held: list[Route] = []
    page.route("**/upload", lambda route: held.append(route) if not held else route.continue_())
    page.get_by_label("Files").set_input_files(chosen(adapter))
    page.get_by_role("button", name="Publish", exact=True).click(no_wait_after=True)
    expect(page.get_by_label("Bytes sent")).to_be_visible()
    held[0].continue_()
    page.wait_for_url(f"**/{catalog.other}/v/*")
    context.close()


def test_too_much_is_not_sent_at_all(catalog: Catalog, browser: Browser, adapter: Path) -> None:
    context = browser.new_context()
    page = in_page(catalog, context)
    page.goto(f"{catalog.url}/{catalog.other}/upload")
    page.evaluate("document.querySelector('[data-upload]').dataset.upload = '100'")
    sent_bodies: list[str] = []
    page.on("request", lambda made: sent_bodies.append(made.url) if made.method == "POST" else None)
    page.get_by_label("Files").set_input_files(chosen(adapter))
    expect(page.get_by_role("alert")).to_contain_text("lorahub push")
    assert not sent_bodies
    context.close()


def sent(client: httpx2.Client, path: str, fields: dict[str, Any], **more: Any) -> httpx2.Response:
    files = [("files", (CONFIG, b"{}", "application/json"))]
    return client.post(path, data={"csrf": csrf(client, "/tokens"), **fields}, files=files, **more)


@pytest.mark.parametrize(
    ("fields", "headers"),
    [({"csrf": ""}, {}), ({"csrf": "0" * 40}, {}), ({}, {"Origin": "https://evil.test"}), ({}, {"Origin": ""})],
    ids=["no secret", "another secret", "another origin", "no origin"],
)
def test_an_upload_by_somebody_elses_page_is_refused(
    catalog: Catalog, as_owner: httpx2.Client, fields: dict[str, str], headers: dict[str, str]
) -> None:
    with unchanged(catalog):
        assert sent(as_owner, f"/{catalog.other}/upload", fields, headers=headers).status_code == 403


def test_who_may_not_write_sees_no_form_and_sends_nothing(catalog: Catalog, as_stranger: httpx2.Client) -> None:
    for name, status in ((catalog.other, 403), (catalog.private, 404)):
        with unchanged(catalog):
            for page in ("upload", "card"):
                assert as_stranger.get(f"/{name}/{page}").status_code == status
            assert sent(as_stranger, f"/{name}/upload", {}).status_code == status
            fields = {"csrf": csrf(as_stranger, "/tokens"), "text": "mine", "parent": "0" * 40}
            assert as_stranger.post(f"/{name}/card", data=fields).status_code == status
    assert "/upload" not in as_stranger.get(f"/{catalog.other}").text
    with httpx2.Client(base_url=catalog.url, headers={"Accept": "text/html"}) as nobody:
        assert nobody.get(f"/{catalog.other}/upload").headers["Location"].startswith("/login?next=")


def test_a_form_names_no_bytes_that_others_brought(catalog: Catalog, as_stranger: httpx2.Client) -> None:
    """The digest of a private file is worth nothing without its bytes, small or large."""
    with lorahub.Hub(catalog.url, token=catalog.owner) as hub:
        folder = hub.pull(catalog.private).path
    secret = csrf(as_stranger, "/tokens")
    fields = {"csrf": secret, "namespace": "pages-stranger", "name": "thief", "visibility": "private"}
    assert as_stranger.post("/new", data=fields).status_code == 303
    for file in ("README.md", WEIGHTS):
        content = (folder / file).read_bytes()
        digest = sha256_of(content)
        kept = f"{digest} {len(content)} {file}"
        with unchanged(catalog):
            answer = as_stranger.post(
                "/pages-stranger/thief/upload",
                data={"csrf": secret, "kept": kept},
                files=[("files", ("", b"", "application/octet-stream"))],
            )
            assert answer.status_code == 400, answer.text
            assert "Nothing was published" in answer.text


@pytest.mark.parametrize(
    "body", [b"", b"--x\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\n\r\n--x--", b"\0" * 99]
)
def test_a_broken_form_is_refused(catalog: Catalog, as_owner: httpx2.Client, body: bytes) -> None:
    with unchanged(catalog):
        for kind in ("multipart/form-data; boundary=x", "multipart/form-data", "text/plain"):
            answer = as_owner.post(f"/{catalog.other}/upload", content=body, headers={"Content-Type": kind})
            assert 400 <= answer.status_code < 500, (kind, answer.status_code)


def test_what_training_left_behind_is_left_out_and_named(catalog: Catalog, as_owner: httpx2.Client) -> None:
    secret = csrf(as_owner, "/tokens")
    fields = {"csrf": secret, "namespace": "pages-owner", "name": "by-products", "visibility": "private"}
    assert as_owner.post("/new", data=fields).status_code == 303
    upload = "/pages-owner/by-products/upload"
    files = [("files", ("training_args.bin", b"\x80\4.")), ("files", ("notes.bin", b"a text"))]
    with unchanged(catalog):
        checked = as_owner.post(upload, data={"csrf": secret, "check": "1"}, files=files)
    assert "Left out, as by-products of training: <code>training_args.bin</code>." in checked.text
    assert as_owner.post(upload, data={"csrf": secret}, files=files).status_code == 303
    with lorahub.Hub(catalog.url, token=catalog.owner) as hub:
        pulled = hub.pull("pages-owner/by-products@v1").path
    assert {path.name for path in pulled.iterdir() if path.is_file()} >= {"notes.bin"}
    assert not (pulled / "training_args.bin").exists()


def test_a_card_is_previewed_saved_and_never_lost(  # noqa: PLR0915 (one journey)
    catalog: Catalog, context: BrowserContext, write_folder: Callable[[str], Path], request: pytest.FixtureRequest
) -> None:
    name = "pages-owner/card-" + ("js" if "with scripts" in request.node.name else "plain")
    with lorahub.Hub(catalog.url, token=catalog.owner) as hub:
        hub.push(write_folder("---\nlicense: mit\n---\nfirst words"), name)
    page = in_page(catalog, context)
    page.goto(f"{catalog.url}/{name}/card")
    page.get_by_label("README.md").fill("---\nlicense: mit\n---\n# Mine\n\n<script>document.title='owned'</script>")
    with unchanged(catalog):
        page.get_by_role("button", name="Preview").click()
        expect(page.get_by_role("region", name="Preview of the card").get_by_role("heading")).to_have_text("Mine")
    with lorahub.Hub(catalog.url, token=catalog.owner) as hub:
        hub.push(write_folder("---\nlicense: mit\n---\ntheir words"), name)
    with unchanged(catalog):
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("alert")).to_contain_text("nothing was saved")
        expect(page.get_by_role("region", name="What is there now")).to_contain_text("their words")
        expect(page.get_by_label("Your card")).to_have_value(
            "---\nlicense: mit\n---\n# Mine\n\n<script>document.title='owned'</script>"
        )
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status").first).to_have_text("The card is saved.")
    expect(page.get_by_role("region", name="Model card").get_by_role("heading", name="Mine")).to_be_visible()
    page.goto(f"{catalog.url}/{name}")
    expect(page.get_by_role("region", name="Model card").get_by_role("heading", name="Mine")).to_be_visible()
    assert page.title() != "owned"
    with catalog.registry.client(catalog.owner) as api:
        text = api.get(f"/{name}/resolve/main/README.md").text
    assert text == "---\nlicense: mit\n---\n# Mine\n\n<script>document.title='owned'</script>"
    (made,) = catalog.registry.sql(
        "SELECT count(*) FROM audit_events WHERE action = 'revision.publish' AND subject = :name", name=name
    )[0]
    assert made == 3
    page.goto(f"{catalog.url}/{name}/card")
    page.get_by_label("README.md").fill("---\nlicense: [\n---\n")
    with unchanged(catalog):
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("alert")).to_contain_text("metadata")
