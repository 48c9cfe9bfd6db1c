"""Take the documentation's pictures of the page and a report, from a running service.

make run &
python -m examples.pictures http://127.0.0.1:8080
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from playwright.sync_api import Page, ViewportSize, sync_playwright

DOCS = Path(__file__).resolve().parents[1] / "docs"
SIZE: ViewportSize = {"width": 1200, "height": 800}
REPORT_SIZE: ViewportSize = {"width": 1000, "height": 1222}


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="address of the page")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="path of a Chromium")
    options = parser.parse_args()
    # Chromium's sandbox needs a user that is not root.
    flags = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=flags)
        page = browser.new_page(viewport=SIZE, color_scheme="light", reduced_motion="reduce")
        page.goto(f"{options.url}/?lang=en")
        _settle(page)
        # Halfway between the classes' typical rows, every column can change the answer.
        page.get_by_role("button", name="Halfway").click()
        page.locator("h1").click()
        _settle(page)
        page.screenshot(path=DOCS / "page.png")
        page.get_by_role("link", name="What if").click()
        page.locator(".column").last.wait_for()
        _settle(page)
        page.screenshot(path=DOCS / "whatif.png")
        page.locator("#tabs").get_by_role("link", name="Model").click()
        page.get_by_role("link", name="Report").first.click()
        page.set_viewport_size(REPORT_SIZE)
        page.get_by_role("heading", name="Precision and recall").wait_for()
        page.screenshot(path=DOCS / "report.png")
        browser.close()


def _settle(page: Page) -> None:
    """Wait until the answer is current and the network is idle."""
    page.locator('#answer[data-status="current"]').wait_for()
    page.wait_for_load_state("networkidle")


if __name__ == "__main__":
    main()
