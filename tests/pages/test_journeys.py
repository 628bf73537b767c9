"""What people do in the catalog, in a real browser, with scripts and without."""

from urllib.parse import urlsplit

from pages.conftest import Catalog
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect


def path_of(page: Page) -> str:
    return urlsplit(page.url).path


def follow(page: Page, target: Locator) -> None:
    """Clicks, and goes on only when the page behind has come: what is asked at once may still see the one before."""
    with page.expect_navigation():
        target.click()


def test_from_a_search_to_an_adapters_file(catalog: Catalog, context: BrowserContext) -> None:
    page = context.new_page()
    page.goto(catalog.url)
    page.get_by_role("searchbox").fill("sql-writer")
    page.get_by_role("searchbox").press("Enter")
    follow(page, page.locator("main").get_by_role("link", name="pages-org/sql-writer"))
    assert path_of(page) == f"/{catalog.adapter}"
    expect(page.get_by_role("heading", level=1)).to_have_text("pages-org/sql-writer")
    expect(page.locator("main").get_by_text("same base").first).to_be_visible()
    page.get_by_role("navigation", name="Parts").get_by_role("link", name="Files").click()
    page.get_by_role("link", name="notes/").click()
    page.get_by_role("link", name="data.md", exact=True).click()
    expect(page.get_by_role("region", name="notes/data.md")).to_contain_text("Where it learned")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.path().read_text() == "# Where it learned\n"


def test_from_a_search_to_what_loads_the_adapter(catalog: Catalog, context: BrowserContext) -> None:
    page = context.new_page()
    page.goto(f"{catalog.url}/search?search=sql-writer")
    page.locator("main").get_by_role("link", name="pages-org/sql-writer").click()
    use = page.get_by_role("region", name="Use it")
    use.get_by_text("PEFT", exact=True).first.click()
    shown = use.locator("pre:visible", has_text="PeftModel.from_pretrained")
    expect(shown).to_have_count(1)
    expect(shown).to_contain_text(catalog.base)
    use.get_by_text("vLLM", exact=True).first.click()
    expect(use.locator("pre:visible", has_text=f"vllm serve {catalog.base}")).to_have_count(1)


def test_two_versions_are_compared(catalog: Catalog, context: BrowserContext) -> None:
    page = context.new_page()
    page.goto(f"{catalog.url}/compare")
    page.get_by_label("First").fill(f"{catalog.adapter}@v1")
    page.get_by_label("Second").fill(f"{catalog.adapter}@v2")
    page.get_by_role("button", name="Compare").click()
    facts = page.get_by_role("region", name="Facts")
    expect(facts.get_by_role("row", name="Method")).to_contain_text("yes")
    follow(page, facts.get_by_role("link", name="sql-writer@v1"))
    assert path_of(page) == f"/{catalog.adapter}/v/v1"


def test_filters_are_chosen_and_taken_away(catalog: Catalog, context: BrowserContext) -> None:
    page = context.new_page()
    page.goto(f"{catalog.url}/search?author=pages-org")
    results = page.locator("main .list > li")
    expect(results).to_have_count(3)  # the base and two adapters; the third is private
    filters = page.get_by_role("complementary", name="Filters")
    filters.locator("a[href*='method=lora']").click()
    expect(results).to_have_count(2)
    page.get_by_role("list", name="Chosen filters").get_by_role("link", name="Method").click()
    expect(results).to_have_count(3)
    page.goto(f"{catalog.url}/search?author=pages-org&rank=65..")
    page.get_by_role("link", name="rank: 65 and more").last.click()
    expect(results).to_have_count(3)


def test_on_a_phone_filters_unfold_above_the_results(catalog: Catalog, context: BrowserContext) -> None:
    page = context.new_page()
    page.set_viewport_size({"width": 360, "height": 800})
    page.goto(f"{catalog.url}/search?author=pages-org")
    filters, results = page.get_by_role("complementary", name="Filters"), page.locator("main .list > li")
    choice = filters.locator("a[href*='method=lora']")
    expect(choice).to_be_hidden()
    filters.get_by_text("Filters", exact=True).click()
    expect(choice).to_be_visible()
    above, below = choice.bounding_box(), results.first.bounding_box()
    assert above is not None
    assert below is not None
    assert above["y"] < below["y"]
    choice.click()
    expect(results).to_have_count(2)


def log_in(page: Page, token: str) -> None:
    page.get_by_role("link", name="Log in").first.click()
    page.get_by_label("Token").fill(token)
    follow(page, page.locator("main").get_by_role("button", name="Log in"))


def test_a_private_adapter_is_not_there_until_one_logs_in(catalog: Catalog, context: BrowserContext) -> None:
    page = context.new_page()
    answer = page.goto(f"{catalog.url}/{catalog.private}")
    assert answer is not None
    assert answer.status == 404
    expect(page.get_by_role("heading", level=1)).to_have_text("Not here, or not visible to you")
    log_in(page, "lh_" + "x" * 40)
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_label("Token").fill(catalog.owner)
    follow(page, page.locator("main").get_by_role("button", name="Log in"))
    assert path_of(page) == f"/{catalog.private}"
    expect(page.get_by_role("heading", level=1)).to_have_text(catalog.private)
    follow(page, page.get_by_role("button", name="Log out"))
    answer = page.goto(f"{catalog.url}/{catalog.private}")
    assert answer is not None
    assert answer.status == 404


def test_a_token_is_made_shown_once_used_and_revoked(catalog: Catalog, context: BrowserContext) -> None:
    page = context.new_page()
    page.goto(catalog.url)
    log_in(page, catalog.owner)
    page.goto(f"{catalog.url}/tokens")
    page.get_by_role("textbox", name="Name").fill("for this test")
    page.get_by_label("Scope").select_option("read")
    page.get_by_role("button", name="Create").click()
    made = page.get_by_role("region", name="The new token").inner_text().strip()
    with catalog.registry.client(made) as client:
        assert client.get("/api/whoami-v2").json()["auth"]["accessToken"]["displayName"] == "for this test"
    page.goto(f"{catalog.url}/tokens")
    assert made not in page.content()
    page.get_by_role("row", name="for this test").get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("row", name="for this test")).to_have_count(0)
    with catalog.registry.client(made) as client:
        assert client.get("/api/whoami-v2").status_code == 401


def test_a_theme_is_kept_and_is_there_before_the_first_script(catalog: Catalog, context: BrowserContext) -> None:
    page = context.new_page()
    page.goto(f"{catalog.url}/search?search=sql-writer")
    page.get_by_role("button", name="Dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    expect(page).to_have_url(f"{catalog.url}/search?search=sql-writer")
    page.get_by_role("button", name="Auto").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "auto")


def test_a_slash_searches_and_a_button_copies(catalog: Catalog, browser: Browser) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(f"{catalog.url}/{catalog.adapter}")
    page.get_by_role("button", name="Copy").first.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert catalog.adapter in page.evaluate("navigator.clipboard.readText()")
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    context.close()
