"""The page's live view, and feedback on an answer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import APIResponse, Browser, Page, Request, Route, expect

from tests.browser.conftest import check_accessible
from tests.conftest import Starter
from tests.support.tables import breast_cancer

ROW = breast_cancer().features[0].tolist()
SET_HIDDEN = """isHidden => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => isHidden });
  document.dispatchEvent(new Event("visibilitychange"));
}"""

# Four of five requests have two rows; a poll in flight may have counted some of them.
ROWS_FIT_REQUESTS = """() => {
  const number = title => {
    const cards = [...document.querySelectorAll(".now > div")];
    const card = cards.find(card => card.textContent.includes(title));
    return parseFloat(card?.querySelector("dd").textContent);
  };
  const ratio = number("Rows") / number("Requests");
  return Math.abs(ratio / 1.6 - 1) < 0.2 && number("Refused (4xx)") > 0;
}"""


def post_rows(url: str, times: int) -> None:
    for _ in range(times):
        response = requests.post(f"{url}/predict", json={"instances": [ROW, ROW]}, timeout=10)
        assert response.status_code == 200


def post_invalid(url: str, times: int) -> None:
    for _ in range(times):
        requests.post(f"{url}/predict", data="{", timeout=10)


def read_number(page: Page, title: str) -> float:
    text = page.locator(".now > div", has_text=title).locator("dd").first.text_content() or ""
    match = re.search(r"[\d.]+", text)
    return float(match[0]) if match else 0.0


def test_numbers_change_with_the_traffic(page: Page, model_server: str, client_url: str) -> None:
    url = client_url
    page.goto(f"{url}/#live")
    expect(page.locator(".charts .card")).to_have_count(4)
    # The page's own requests are over; all others must come between two polls.
    expect(page.locator(".now > div", has_text="Requests").locator("dd")).to_have_text("0/s")
    page.evaluate(SET_HIDDEN, True)
    expect(page.locator("#view-live [role=status]")).to_have_text("Paused")
    post_rows(url, 8)
    post_invalid(url, 2)
    page.evaluate(SET_HIDDEN, False)
    page.wait_for_function(ROWS_FIT_REQUESTS)
    assert read_number(page, "Failed (5xx)") == 0
    assert 0 < read_number(page, "Median") <= read_number(page, "99th percentile")
    expect(page.locator(".details")).to_contain_text(model_server)
    expect(page.locator(".details section").first).to_contain_text("1 available")
    label = page.locator(".charts svg").first.get_attribute("aria-label") or ""
    assert re.match(r"Requests: [\d.]+/s now, peak [\d.]+/s\.", label)


def test_hidden_page_stops_polling_and_resumes_when_visible(page: Page, client_url: str) -> None:
    polls: list[str] = []

    def record(request: Request) -> None:
        if request.url.endswith("/stats"):
            polls.append(request.url)

    page.on("request", record)
    page.clock.install()
    page.goto(f"{client_url}/#live")
    expect(page.locator(".charts .card")).to_have_count(4)
    page.evaluate(SET_HIDDEN, True)
    expect(page.locator("#view-live [role=status]")).to_have_text("Paused")
    polls.clear()
    page.clock.run_for(10_000)
    assert polls == []
    with page.expect_request("**/stats"):
        page.evaluate(SET_HIDDEN, False)
    expect(page.locator("#view-live [role=status]")).to_contain_text("As of")
    page.get_by_role("link", name="Predict").click()
    polls.clear()
    page.clock.run_for(10_000)
    assert polls == []


def test_late_response_does_not_clear_the_charts(page: Page, client_url: str) -> None:
    page.goto(f"{client_url}/#live")
    rows = page.locator(".charts .card").first.locator("tbody tr")
    expect(rows).to_have_count(2)
    held: list[tuple[Route, APIResponse]] = []

    def hold_first(route: Route) -> None:
        response = route.fetch()
        if held:
            route.fulfill(response=response)
        else:
            held.append((route, response))

    page.route("**/stats", hold_first)
    while not held:
        page.wait_for_timeout(20)
    page.evaluate(SET_HIDDEN, True)
    page.evaluate(SET_HIDDEN, False)
    expect(rows).to_have_count(3)
    route, response = held[0]
    route.fulfill(response=response)
    page.wait_for_timeout(200)
    assert rows.count() >= 3


def test_unreachable_service_is_reported_until_it_returns(page: Page, client_url: str) -> None:
    page.goto(f"{client_url}/#live")
    expect(page.locator(".charts .card")).to_have_count(4)
    error = page.locator("#view-live [role=alert]")
    page.route("**/stats", lambda route: route.abort())
    expect(error).to_have_text("The service cannot be reached.")
    check_accessible(page)
    page.unroute("**/stats")
    expect(error).to_be_hidden()


def stats_with_rollout_and_monitoring(url: str) -> dict[str, Any]:
    """Return the real statistics with a rollout, drift and a log."""
    stats: dict[str, Any] = requests.get(f"{url}/stats", timeout=10).json()
    stats["arms"] = [
        {"version": 2, "arm": "canary", "requests": 40, "failed": 4, "p50": 0.002, "p99": 0.03},
        {"version": 1, "arm": "control", "requests": 0, "failed": 0, "p50": None, "p99": None},
    ]
    stats["rollout"] = {
        "phase": "canary",
        "stable": 1,
        "canary": 2,
        "percent": 5.0,
        "shadow": None,
        "reason": "10% of the canary's calls fail",
    }
    column = {"column": "<b>worst</b>", "psi": 0.31, "limit": 0.1, "verdict": "alarm"}
    too_few = {"column": "mean_area", "psi": None, "limit": 0.1, "verdict": "too few rows"}
    stats["drift"] = {"rows": 1200, "columns": [too_few, column]}
    stats["log"] = {
        "rows": 1100,
        "dropped": {"full": 3, "failed": 4},
        "bytes": 1_012_000,
        "feedback": {"accepted": 17, "refused": 2},
    }
    return stats


def test_rollout_drift_and_log_are_shown_if_enabled(
    page: Page, browser: Browser, client_url: str
) -> None:
    stats = stats_with_rollout_and_monitoring(client_url)
    phone = browser.new_page(viewport={"width": 320, "height": 640}, color_scheme="dark")
    for window in (page, phone):
        window.route("**/stats", lambda route: route.fulfill(json=stats))
        window.goto(f"{client_url}/#live")
        details = window.locator(".details")
        expect(details).to_contain_text("10% of the canary's calls fail")
        expect(details.get_by_text("Reason", exact=True)).to_be_visible()
        expect(details.get_by_role("row", name="canary")).to_contain_text("10.0%")
        drifted = details.locator("tbody tr", has_text="<b>worst</b>")
        expect(drifted).to_contain_text("drifted")
        expect(details.locator("tbody tr", has_text="mean_area")).to_contain_text("too few rows")
        expect(details).to_contain_text("Drift, rows: 1,200")
        expect(details.locator("dl").last.locator("dd")).to_have_text(["1,100", "7", "1 MB", "17"])
    check_accessible(phone)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 320
    phone.close()


def test_answer_can_be_rated_if_feedback_is_enabled(
    page: Page, model_server: str, client_url: str, starter: Starter, tmp_path: Path
) -> None:
    page.goto(client_url)
    expect(page.locator("#label")).to_have_text("malignant")
    expect(page.get_by_role("button", name="Wrong")).to_have_count(0)  # feedback is off here
    page.goto(starter.client(model_server, CLIENT_LOG=str(tmp_path / "log")).address)
    page.get_by_role("button", name="Wrong").click()
    status = page.locator(".feedback [role=status]")
    expect(status).to_have_text("Thank you. Recorded as benign.")
    expect(page.get_by_role("button", name="Right")).to_be_disabled()
    check_accessible(page)
    page.get_by_role("button", name="Typical benign").click()
    expect(page.locator("#label")).to_have_text("benign")
    expect(page.get_by_role("button", name="Right")).to_be_enabled()
    page.get_by_role("button", name="Right").click()
    expect(status).to_have_text("Thank you. Recorded as benign.")
    # Feedback that is still being sent does not change the next answer's.
    held: list[Route] = []
    page.route("**/feedback", lambda route: held.append(route))
    page.get_by_role("button", name="Typical malignant").click()
    expect(page.locator("#label")).to_have_text("malignant")
    page.get_by_role("button", name="Wrong").click()
    page.get_by_role("button", name="Typical benign").click()
    expect(page.locator("#label")).to_have_text("benign")
    expect(status).to_have_text("")
    with page.expect_response("**/feedback"):
        held[0].continue_()
    page.wait_for_timeout(200)
    expect(status).to_have_text("")
    expect(page.get_by_role("button", name="Right")).to_be_enabled()
    segments = [file.read_text() for file in tmp_path.glob("log/feedback/*")]
    records = [json.loads(line) for line in "".join(segments).splitlines()]
    assert [(record["row"], record["label"]) for record in records] == [(0, "benign")] * 3
    assert len({record["id"] for record in records}) == 3
