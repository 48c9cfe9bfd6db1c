"""The page when the service is unreachable, busy or late, or rejects a row."""

from __future__ import annotations

from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import wait_for_answer


def is_exploration(route: Route) -> bool:
    """Return whether a request predicts variations of the row for charts and suggestions."""
    return "x-prediction-record" in route.request.headers


def test_unreachable_service_makes_the_answer_stale_until_it_returns(
    page: Page, client_url: str
) -> None:
    page.goto(client_url)
    wait_for_answer(page)
    page.route("**/predict", lambda route: route.abort())
    page.locator("[name=mean_radius]").fill("7")
    expect(page.locator("#error")).to_have_text("The service cannot be reached.")
    expect(page.locator("#status")).to_have_text("Retrying automatically.")
    expect(page.locator("#answer")).to_have_class("stale")
    expect(page.locator("#label")).to_have_text("malignant")
    page.unroute("**/predict")
    expect(page.locator("#error")).to_be_hidden()
    expect(page.locator("#answer")).not_to_have_class("stale")


def test_page_whose_scripts_did_not_load_asks_for_a_reload(page: Page, client_url: str) -> None:
    page.route("**/api.js", lambda route: route.abort())
    page.goto(client_url)
    notice = page.get_by_text("The page has not loaded completely. Please reload it.")
    expect(notice).to_be_hidden()
    expect(notice).to_be_visible()
    page.unroute("**/api.js")
    page.reload()
    wait_for_answer(page)
    expect(notice).to_be_hidden()


def test_busy_service_is_retried(page: Page, client_url: str) -> None:
    page.goto(client_url)
    wait_for_answer(page)

    rejected: list[Route] = []

    def busy(route: Route) -> None:
        if rejected or is_exploration(route):
            route.fallback()
            return
        rejected.append(route)
        route.fulfill(status=429, headers={"Retry-After": "1"}, json={"error": "too many"})

    page.route("**/predict", busy)
    page.locator("[name=mean_radius]").fill("7")
    expect(page.locator("#error")).to_have_text("The service is busy.")
    expect(page.locator("#error")).to_be_hidden()
    expect(page.locator("#answer")).to_have_attribute("data-status", "current")


def test_error_that_names_a_column_is_shown_at_its_field(page: Page, client_url: str) -> None:
    page.goto(client_url)
    wait_for_answer(page)
    error = "instances[0].mean_area: 7 is outside of training's range"
    page.route("**/predict", lambda route: route.fulfill(status=400, json={"error": error}))
    page.locator("[name=mean_radius]").fill("7")
    invalid_field = page.locator(".field.invalid")
    expect(invalid_field.locator("label")).to_have_text("mean area")
    expect(invalid_field.locator(".fault")).to_have_text("7 is outside of training's range")
    page.unroute("**/predict")
    page.route("**/predict", lambda route: route.fulfill(status=500, body="<b>no JSON</b>"))
    page.locator("[name=mean_radius]").fill("8")
    expect(page.get_by_role("alert")).to_have_text("<b>no JSON</b>")
    page.route("**/predict", lambda route: route.fulfill(status=403, json={"message": "a proxy's"}))
    page.locator("[name=mean_radius]").fill("9")
    expect(page.get_by_role("alert")).to_contain_text("a proxy's")


def test_last_request_wins(page: Page, client_url: str) -> None:
    page.goto(client_url)
    wait_for_answer(page)
    held: list[Route] = []

    def hold_first(route: Route) -> None:
        if held or is_exploration(route):
            route.fallback()
        else:
            held.append(route)

    page.route("**/predict", hold_first)
    page.get_by_role("button", name="Typical benign").click()
    while not held:
        page.wait_for_timeout(20)
    page.get_by_role("button", name="Typical malignant").click()
    expect(page.locator("#label")).to_have_text("malignant")
    expect(page.locator("#answer")).to_have_attribute("data-status", "current")
    late = {"predictions": [{"probability": 1.0, "label": "benign", "logit": 9}], "version": 1}
    held[0].fulfill(json=late)
    page.wait_for_timeout(100)
    expect(page.locator("#label")).to_have_text("malignant")


def test_refused_variations_of_the_row_are_not_retried(page: Page, client_url: str) -> None:
    refused: list[Route] = []

    def refuse(route: Route) -> None:
        if not is_exploration(route):
            route.fallback()
            return
        refused.append(route)
        route.fulfill(status=400, json={"error": "row 3 is refused"})

    page.route("**/predict", refuse)
    page.goto(f"{client_url}/#whatif")
    expect(page.locator("#view-whatif [role=status]")).to_have_text("row 3 is refused")
    expect(page.locator("#change p")).to_have_text("row 3 is refused")
    page.wait_for_timeout(2500)  # longer than the delay before a retry
    assert len(refused) == 1


def test_variations_of_the_row_are_retried_while_unreachable(page: Page, client_url: str) -> None:
    page.route(
        "**/predict",
        lambda route: route.abort() if is_exploration(route) else route.fallback(),
    )
    page.goto(f"{client_url}/#whatif")
    status = page.locator("#view-whatif [role=status]")
    expect(status).to_have_text("The effects could not be computed; retrying.")
    page.unroute("**/predict")
    expect(status).not_to_contain_text("retrying")
    expect(page.locator(".column svg").first).to_be_visible()
