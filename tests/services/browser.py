"""A real Chromium: the one on this machine, else Playwright's own. There is no going without."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from playwright.sync_api import Error as NoBrowser

KNOWN = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def executable() -> str | None:
    """None: Playwright knows where its own is."""
    usual = Path("/usr/lib/chromium/headless_shell")
    return next(filter(None, map(shutil.which, KNOWN)), str(usual) if usual.exists() else None)


@contextmanager
def running() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=executable(), args=list(FLAGS))
        except NoBrowser as error:
            pytest.fail(f"there is no browser to test pages with; `make browser` installs one\n{error}")
        yield browser
        browser.close()
