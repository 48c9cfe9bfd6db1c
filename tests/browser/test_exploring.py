"""The What if and Model views, and suggested changes of the row."""

from __future__ import annotations

import json
import re
from urllib.parse import parse_qs, urlsplit

import requests
from playwright.sync_api import Page, Request, Route, expect

from tests.browser.conftest import wait_for_answer
from tests.support.tables import breast_cancer

COLUMNS = breast_cancer().columns


def open_halfway(page: Page, url: str, view: str = "predict") -> None:
    """Open a view with a row halfway between the classes, which every column can move."""
    page.goto(url)
    expect(page.locator("#label")).to_have_text("malignant")
    page.get_by_role("button", name="Halfway").click()
    expect(page.locator("#percent")).not_to_have_text("> 99.9%")
    expect(page.locator("#answer")).to_have_attribute("data-status", "current")
    page.locator("#tabs a", has_text={"predict": "Predict", "whatif": "What if"}[view]).click()


def predict_label(client_url: str, row: dict[str, float]) -> str:
    response = requests.post(f"{client_url}/predict", json={"instances": [row]}, timeout=10)
    label: str = response.json()["predictions"][0]["label"]
    return label


def read_row(page: Page) -> dict[str, float]:
    """Return the row in the form."""
    shown = page.locator("form [name]").evaluate_all("all => all.map(e => [e.name, e.value])")
    return {name: float(value) for name, value in shown}


def test_each_suggested_change_flips_the_label_and_a_smaller_one_does_not(
    page: Page, client_url: str
) -> None:
    open_halfway(page, client_url)
    suggestions = page.locator("#flips li").filter(has=page.get_by_role("button"))
    expect(suggestions.first).to_be_visible()
    row = read_row(page)
    initial_label = predict_label(client_url, row)
    for title, text in suggestions.evaluate_all(
        "all => all.map(e => [e.querySelector('.name').textContent,"
        " e.querySelector('b').textContent])"
    ):
        name, value = title.replace(" ", "_"), float(text)
        assert predict_label(client_url, {**row, name: value}) != initial_label, title
        less = row[name] + 0.95 * (value - row[name])
        assert predict_label(client_url, {**row, name: less}) == initial_label, title
    label = page.locator("#label").text_content()
    suggestions.first.get_by_role("button").click()
    expect(page.locator("#label")).not_to_have_text(label or "")


def test_flips_of_another_label_are_not_shown(page: Page, client_url: str) -> None:
    open_halfway(page, client_url)
    ways = page.locator("#flips li").filter(has=page.get_by_role("button"))
    expect(ways.first).to_be_visible()
    change = page.locator("#change")
    claim = change.locator("p").text_content() or ""
    label = page.locator("#label").text_content() or ""
    held: list[Route] = []

    def hold(route: Route) -> None:
        if "x-prediction-record" in route.request.headers:
            held.append(route)
        else:
            route.fallback()

    page.route("**/predict", hold)
    ways.first.get_by_role("button").click()
    expect(page.locator("#label")).not_to_have_text(label)
    expect(change.locator("p")).to_have_text("Loading")
    expect(ways).to_have_count(0)
    while not held:
        page.wait_for_timeout(20)
    held.pop().abort()
    expect(change.locator("p")).to_contain_text("retrying")
    expect(ways).to_have_count(0)
    page.unroute("**/predict")
    expect(change.locator("p")).to_contain_text(f"makes it {label}")
    expect(change.locator("p")).not_to_have_text(claim)


def test_no_single_column_changes_a_confident_answer(page: Page, client_url: str) -> None:
    page.goto(client_url)
    expect(page.locator("#change")).to_contain_text("No single column makes it benign")
    page.locator("#tabs a", has_text="What if").click()
    expect(page.locator("#view-whatif")).to_contain_text("no single column moves it")
    page.locator("#view-whatif").get_by_role("button", name="Halfway").click()
    expect(page.locator("#view-whatif")).to_contain_text("columns that move the result most")


def test_all_curves_come_from_one_request(page: Page, client_url: str) -> None:
    rows: list[int] = []

    def count(request: Request) -> None:
        if request.url.endswith("/predict"):
            rows.append(len(json.loads(request.post_data or "")["instances"]))

    page.on("request", count)
    page.goto(f"{client_url}/#whatif")
    expect(page.locator(".column")).to_have_count(len(COLUMNS))
    expect(page.locator(".column svg")).to_have_count(len(COLUMNS))
    assert rows[:2] == [1, len(COLUMNS) * 25]


def test_curve_is_described_and_its_table_agrees_with_predictions(
    page: Page, client_url: str
) -> None:
    open_halfway(page, client_url, "whatif")
    card = page.locator(".column").first
    label = card.locator("svg").get_attribute("aria-label") or ""
    assert re.search(r"the probability of benign goes from .* to .*; at the current value", label)
    expect(card.locator("tbody tr")).to_have_count(25)
    name = (card.locator("h3").text_content() or "").replace(" ", "_")
    row = read_row(page)
    last = card.locator("tbody tr").last.locator("td")
    row[name] = float((last.first.text_content() or "").replace(",", ""))
    body = requests.post(f"{client_url}/predict", json={"instances": [row]}, timeout=10).json()
    shown = (last.last.text_content() or "").strip("<>% ")
    assert abs(100 * body["predictions"][0]["probability"] - float(shown)) < 0.2


def test_distribution_with_many_values_at_the_minimum_is_drawn(page: Page, client_url: str) -> None:
    page.goto(client_url)
    heights = page.evaluate(
        """async () => {
          const { curveChart } = await import("/static/charts.js");
          const points = [{ position: 0, probability: 0 }, { position: 10, probability: 1 }];
          const reference = { edges: [0, 5], shares: [0.5, 0.3, 0.2] };
          const column = { range: [0, 10], type: "number" };
          const chart = curveChart({ column, title: "", points, classes: ["", ""], threshold: 0.5,
            reference, current: "", probability: 0, format: String });
          return [...chart.querySelectorAll(".training")].map((bar) => bar.getAttribute("height"));
        }"""
    )
    assert list(map(float, heights)) == [20, 5]


def test_slider_and_number_field_change_the_row(page: Page, client_url: str) -> None:
    open_halfway(page, client_url, "whatif")
    card = page.locator(".column").first
    slider = card.get_by_role("slider")
    slider.focus()
    slider.press("End")
    name = (card.locator("h3").text_content() or "").replace(" ", "_")
    facts = json.loads(page.locator("#model").text_content() or "")
    high = next(c["range"][1] for c in facts["columns"] if c["name"] == name)
    expect(card.locator("input:not([type=range])")).to_have_value(re.compile(r"\d"))
    shown = float(card.locator("input:not([type=range])").input_value())
    assert abs(shown - high) < high * 0.01
    text = card.locator("input:not([type=range])").input_value()
    expect(slider).to_have_attribute("aria-valuetext", text)
    card.locator("input:not([type=range])").fill(str(2 * high))
    expect(page.locator("#outside")).to_contain_text(name.replace("_", " "))
    expect(card.locator("svg .outside")).to_have_count(1)


def test_the_url_holds_the_row(page: Page, client_url: str) -> None:
    page.goto(client_url)
    expect(page.locator("#label")).to_have_text("malignant")
    page.locator("[name=mean_radius]").fill("7.5")
    page.wait_for_url(re.compile("mean_radius=7.5"))
    query = parse_qs(urlsplit(page.url).fragment.partition("?")[2])
    assert set(query) == set(COLUMNS)
    wait_for_answer(page)
    answer = page.locator("#percent").text_content()
    page.locator("#tabs a", has_text="Model").click()
    page.wait_for_url(re.compile("#model.*mean_radius=7.5"))
    page.reload()
    expect(page.locator("#view-model")).to_be_visible()
    page.locator("#tabs a", has_text="Predict").click()
    expect(page.locator("[name=mean_radius]")).to_have_value("7.5")
    expect(page.locator("#percent")).to_have_text(answer or "")


def test_row_can_be_pasted_as_csv_or_json(page: Page, client_url: str) -> None:
    page.goto(client_url)
    expect(page.locator("#label")).to_have_text("malignant")
    radius = page.locator("[name=mean_radius]")
    row = {name: index / 8 for index, name in enumerate(COLUMNS)}
    header, cells = ";".join(row), ";".join(map(str, row.values()))
    for number, pasted in (
        ("0.5", f'{{"mean_radius": 0.5, "{COLUMNS[1]}": 3}}'),
        ("0.0", json.dumps({"instances": [row]})),
        ("1.5", f"mean_radius,{COLUMNS[1]}\n1.5,2"),
        ("0.25", f"{header}\n0.25{cells.removeprefix('0.0')}"),
        ("7", "\t".join(["7", *["1"] * 29])),
    ):
        page.get_by_role("button", name="Paste a row").click()
        page.locator("#pasted").fill(pasted)
        page.get_by_role("button", name="Use this row").click()
        expect(radius).to_have_value(number)
        expect(page.locator("dialog")).to_be_hidden()
    page.get_by_role("button", name="Paste a row").click()
    expect(page.locator("#pasted")).to_have_js_property("spellcheck", False)
    page.locator("#pasted").fill("id,mean_radius\n1,9")
    page.get_by_role("button", name="Use this row").click()
    expect(page.locator("#paste-status")).to_have_text(re.compile("Unknown columns ignored: id$"))
    page.locator("#pasted").fill("1,2,3")
    page.get_by_role("button", name="Use this row").click()
    expect(page.locator("#paste-status")).to_contain_text("Expected a row with the model's columns")
    page.keyboard.press("Escape")
    expect(radius).to_have_value("9")


def test_row_as_code_gives_the_same_answer(page: Page, client_url: str) -> None:
    page.goto(client_url)
    expect(page.locator("#label")).to_have_text("malignant")
    page.locator("#code summary").click()
    expect(page.locator("#code pre")).to_contain_text(f"curl {client_url}/predict")
    shown = page.locator("#code pre").text_content() or ""
    body = shown.partition("-d '")[2].removesuffix("'")
    headers = {"Content-Type": "application/json"}
    response = requests.post(f"{client_url}/predict", body, headers=headers, timeout=10).json()
    assert response["predictions"][0]["label"] == "malignant"
    page.locator("#code").get_by_role("button", name="Python").click()
    code = page.locator("#code pre").text_content() or ""
    compile(code, "row", "exec")
    assert '"mean_radius": 17.48,' in code


def test_model_view_shows_versions_and_metrics(page: Page, client_url: str) -> None:
    page.goto(f"{client_url}/#model")
    view = page.locator("#view-model")
    expect(view.get_by_role("region", name="Versions")).to_contain_text("available")
    expect(view.locator(".card", has_text="held-out")).to_contain_text(re.compile(r"auc.*0\.9\d\d"))
    expect(view).to_contain_text("0.5: at or above it the answer is benign")
    assert view.locator("tbody tr", has_text="numeric").count() == 0
    for name in COLUMNS:
        expect(view.get_by_role("rowheader", name=name, exact=True)).to_be_visible()
    expect(view.get_by_role("link", name="API documentation")).to_have_attribute("href", "/docs/")
