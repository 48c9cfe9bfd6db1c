"""A browser, and checks of the page in it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

# Machines may be busy.
TIMEOUT_MS = 60_000
expect.set_options(timeout=TIMEOUT_MS)

# Repeated elements to skip: axe-core takes seconds for a few thousand elements.
REPEATED = (
    ".column:nth-of-type(n+3)",
    ".field:nth-of-type(n+5)",
    "tbody tr:nth-of-type(n+4)",
    ".needs li:nth-of-type(n+4)",
)


# Playwright runs an event loop in this thread, which must end before other tests begin. Hence the
# package scope, for which this folder is a package.
@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator[Browser]:
    # Chromium's sandbox needs a user that is not root.
    flags = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1100, "height": 1300})
    page.set_default_timeout(TIMEOUT_MS)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    # Shown if the test fails.
    page.on("requestfailed", lambda request: print("failed:", request.url, request.failure))
    page.on("console", lambda message: print(f"console {message.type}: {message.text}"))
    yield page
    # End polls, whose route handlers would outlive the page.
    page.goto("about:blank")
    page.unroute_all(behavior="ignoreErrors")
    page.close()
    assert errors == []


def wait_for_answer(page: Page) -> None:
    """Wait until the answer is current."""
    expect(page.locator("#answer")).to_have_attribute("data-status", "current")


def check_accessible(page: Page) -> None:
    """Check WCAG 2.2 AA, as far as axe-core can."""
    _check(page, ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"])


def check_contrast(page: Page) -> None:
    """Check contrast, which depends on the theme."""
    _check(page, ["color-contrast"])


def _check(page: Page, rules: list[str]) -> None:
    context = {"include": [["html"]], "exclude": [[selector] for selector in REPEATED]}
    options = {"runOnly": rules, "resultTypes": ["violations"]}
    results = Axe().run(page, context=context, options=options)
    assert results.violations_count == 0, results.generate_report()
