"""What no address leads to by itself: an empty registry, somebody new in it, a form's answers, every refusal."""

from collections.abc import Iterator
from pathlib import Path

import builders
import pytest
from pages.conftest import faults_of
from pages.test_journeys import follow, log_in
from playwright.sync_api import Browser, Page, expect
from registry_process import Registry

WRONG = "lh_" + "x" * 40
LIMITS = {"RATE_LIMIT_LOGIN": "3", "FORM_BODY_BYTES": "100000", "JSON_BODY_BYTES": "9000"}


@pytest.fixture
def strict(own_registry: Registry) -> Registry:
    """Where nothing is yet, and little is taken."""
    own_registry.stop()
    own_registry.settings = {**own_registry.settings, **{f"LORAHUB_{name}": value for name, value in LIMITS.items()}}
    return own_registry.start()


def test_axe_finds_nothing_in_any_state(strict: Registry, browser: Browser, tmp_path: Path) -> None:
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(10_000)
    faults, seen = [], []
    for state in walk(page, strict, tmp_path):
        seen.append(state)
        for width, scheme in ((1280, "light"), (360, "dark")):
            page.set_viewport_size({"width": width, "height": 800})
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # both are schemes
            faults += [f"{state}, {width} px: {fault}" for fault in faults_of(page)]
    context.close()
    assert not faults, "\n".join(faults)
    assert len(seen) == len(set(seen))


def walk(page: Page, strict: Registry, folder: Path) -> Iterator[str]:
    """Through all states; yields what is shown."""
    token = strict.add_user("newcomer")
    yield from of_nothing(page, strict.url)
    page.goto(strict.url)
    log_in(page, WRONG)
    expect(page.get_by_role("alert")).to_be_visible()
    yield "a token that isn't known"
    page.get_by_label("Token").fill(token)
    follow(page, page.locator("main").get_by_role("button", name="Log in"))
    yield from of_somebody_new(page, strict.url)
    yield from of_a_form(page, strict.url, builders.write_adapter(folder / "adapter"))
    yield from of_refusals(page, strict.url)


def of_nothing(page: Page, url: str) -> Iterator[str]:
    for path in ("/", "/search", "/search?search=nothing", "/bases", "/merges", "/compare"):
        page.goto(url + path)
        yield f"{path} of an empty registry"


def of_somebody_new(page: Page, url: str) -> Iterator[str]:
    for path in ("/settings", "/tokens", "/notifications", "/webhooks", "/merges", "/newcomer", "/new"):
        page.goto(url + path)
        yield f"{path} of somebody new"
    page.goto(f"{url}/settings")
    page.locator("main input[name=name]").fill("newcomers")
    page.locator("main").get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("newcomers")
    yield "an organisation of one member"
    for path in ("/settings", "/newcomers", "/tokens"):
        page.goto(url + path)
        yield f"{path} with an organisation"


def of_a_form(page: Page, url: str, adapter: Path) -> Iterator[str]:
    page.goto(f"{url}/new")
    page.locator("main input[name=name]").fill("first")
    follow(page, page.locator("main").get_by_role("button", name="Create"))
    yield "an upload's form"
    for path in ("", "/versions", "/tree/main", "/weights/main", "/training/main", "/lineage", "/compat"):
        page.goto(f"{url}/newcomer/first{path}")
        yield f"{path or '/'} of an empty repository"
    good = [adapter / "adapter_config.json", adapter / "adapter_model.safetensors"]
    for files, said in ((good, "It would be published"), ([adapter / "README.md"], "no whole adapter")):
        page.goto(f"{url}/newcomer/first/upload")
        page.get_by_label("Files").set_input_files(files)
        page.get_by_role("button", name="Check only").click()
        expect(page.get_by_role("status").first).to_contain_text(said)
        yield f"a check that says: {said}"
    (adapter / "adapter_model.safetensors").write_bytes(b"no weights")
    page.get_by_label("Files").set_input_files(good)
    page.get_by_role("button", name="Publish", exact=True).click()
    expect(page.get_by_role("heading", name="Nothing was published")).to_be_visible()
    yield "an upload that is refused"
    page.goto(f"{url}/newcomer/first/card")
    page.get_by_label("README.md").fill(
        "---\nlicense: mit\n---\n# Mine\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n- [x] done"
    )
    page.get_by_role("button", name="Preview").click()
    yield "a card's preview"
    page.get_by_label("README.md").fill("---\nlicense: [\n---\n")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_be_visible()
    yield "a card that is refused"


def of_refusals(page: Page, url: str) -> Iterator[str]:
    for path, status in (
        ("/admin", 403),
        ("/nobody/nothing", 404),
        ("/search?rank=high", 400),
        ("/compare?a=x&b=y", 400),
    ):
        answer = page.goto(url + path)
        assert answer is not None
        assert answer.status == status, path
        yield f"{status} at {path}"
    for path, body, status in (("/search", "", 405), ("/tokens", "x" * 10_000, 413)):
        yield posted(page, url, path, body, status)
    follow(page, page.get_by_role("button", name="Log out"))
    for _ in range(2 * int(LIMITS["RATE_LIMIT_LOGIN"]) + 1):  # a new window may begin on the way
        page.goto(f"{url}/login")
        page.get_by_label("Token").fill(WRONG)
        with page.expect_response(f"{url}/login") as answer:
            page.locator("main").get_by_role("button", name="Log in").click()
        if answer.value.status == 429:
            break
    expect(page.locator("main")).to_contain_text("more than 3 requests")
    yield "429 at /login"


def posted(page: Page, url: str, path: str, body: str, status: int) -> str:
    """The answer to a form that no page of ours has, as a page's."""
    headers = {"Origin": url, "Accept": "text/html", "Content-Type": "application/x-www-form-urlencoded"}
    page.route(
        url + path,
        lambda route: route.continue_(method="POST", post_data=body, headers={**route.request.headers, **headers}),
    )
    answer = page.goto(url + path)
    page.unroute(url + path)
    assert answer is not None
    assert answer.status == status, path
    return f"{status} at {path}"
