"""The training report, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.conftest import check_accessible


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 320)])
def test_report_is_accessible_and_fits_the_window(
    browser: Browser, trained_models: Path, scheme: str, width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.goto((trained_models / "breast_cancer" / "1" / "report.html").as_uri())
    check_accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_report_prints_all_rows_in_light_colours(browser: Browser, trained_models: Path) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto((trained_models / "breast_cancer" / "1" / "report.html").as_uri())
    region = page.get_by_role("region", name="All weights")
    assert region.evaluate("e => e.scrollHeight > e.clientHeight")
    page.emulate_media(media="print", color_scheme="dark")
    assert region.evaluate("e => e.scrollHeight <= e.clientHeight")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.close()
