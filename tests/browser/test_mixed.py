"""The page of a model with columns of every kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tensorflow as tf
from playwright.sync_api import Locator, Page, Request, Route, expect

from tests.conftest import Starter
from tests.support.mixed import COLUMNS, MixedColumn, publish

CITIES = tuple(f"city {i}" for i in range(51))
CODES = tuple(str(i) for i in range(1000, 1051))
ATTACK = '<img src=x onerror="window.hacked=1">\'&amp;{{ 7*7 }}</script>'
# A field shadows the form's property of the same name.
NAMES = (ATTACK, "dataset", "querySelectorAll", "addEventListener", "__proto__", "a\r\n b")
MODELS = {
    "flats": COLUMNS,
    "cities": (
        MixedColumn("a city", tf.string, CITIES, missing=True, class_modes=(3, 50)),
        MixedColumn("code", tf.int64, CODES, class_modes=(1, 2)),
    ),
    "hostile": (
        *(MixedColumn(name, tf.float32, class_means=(1, 2)) for name in NAMES),
        MixedColumn(f"few {ATTACK}", tf.string, (ATTACK, "b"), class_modes=(0, 0)),
        MixedColumn(
            f"many {ATTACK}", tf.string, (ATTACK, *map(str, range(60))), class_modes=(0, 0)
        ),
    ),
}


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The page's address for each model."""
    starter = Starter(tmp_path_factory.mktemp("mixed"), [])
    configs = []
    for name, columns in MODELS.items():
        publish(starter.folder / name, columns=columns)
        path = f'name: "{name}" base_path: "{starter.folder / name}"'
        configs.append(f'config {{ {path} model_platform: "tensorflow" }}')
    config = starter.folder / "models.config"
    config.write_text(f"model_config_list {{ {' '.join(configs)} }}")
    server = starter.model_server(f"--model_config_file={config}")
    urls = {name: starter.client(server.address, CLIENT_MODEL=name).address for name in MODELS}
    refusing = starter.client(server.address, CLIENT_MODEL="flats", CLIENT_MISSING_VALUES="refuse")
    yield {**urls, "refusing": refusing.address}
    starter.stop()


@pytest.fixture
def flats(page: Page, urls: dict[str, str]) -> Page:
    page.goto(urls["flats"])
    expect(page.locator("#label")).to_have_text("stays")
    return page


def capture_row(page: Page, action: Callable[[], None]) -> dict[str, Any]:
    """Return the row of the request that an action triggers."""

    def is_prediction(request: Request) -> bool:
        is_exploration = "x-prediction-record" in request.headers
        return request.url.endswith("/predict") and not is_exploration

    with page.expect_request(is_prediction) as request:
        action()
    body = json.loads(request.value.post_data or "", parse_float=str)
    row: dict[str, Any] = body["instances"][0]
    return row


def predict(page: Page) -> dict[str, Any]:
    return capture_row(page, lambda: page.locator("form [name]").first.press("Enter"))


def contribution_of(page: Page, column: str) -> Locator:
    return page.locator("#contributions li", has_text=column).locator("b")


def test_each_column_kind_has_its_field_and_is_sent_as_its_type(flats: Page) -> None:
    page = flats
    city, district = page.locator("[name=city]"), page.locator("[name=district]")
    assert city.locator("option").all_text_contents() == ["Bern", "Basel", " Zug"]
    assert district.locator("option").all_text_contents() == ["7", "42", "13", "missing"]
    assert page.get_by_label("balcony").locator("option").all_text_contents() == ["false", "true"]
    expect(page.get_by_label("Age (years)")).to_have_value("50.5")
    expect(page.get_by_label("income")).to_have_attribute("placeholder", "missing")
    assert predict(page) == {
        "Age (years)": "50.5",
        "income": 4,
        "city": "Bern",
        "district": "42",
        "garden": "false",
        "rooms": 3,
        "balcony": True,
    }


def test_typical_row_has_class_means_and_most_frequent_values(flats: Page) -> None:
    page = flats
    row = capture_row(page, page.get_by_role("button", name="Typical leaves").click)
    assert row == {
        "Age (years)": "30.25",
        "income": 2,
        "city": " Zug",
        "district": "7",
        "garden": "false",
        "rooms": 9007199254740993,  # more digits than a JavaScript number holds
        "balcony": False,
    }
    expect(page.locator("#label")).to_have_text("leaves")
    expect(contribution_of(page, "city")).to_have_text("+2.00")
    expect(contribution_of(page, "Age (years)")).to_have_text("+0.30")
    page.get_by_role("button", name="Typical stays").click()
    expect(page.locator("#label")).to_have_text("stays")


def test_only_columns_with_missing_values_can_be_left_empty(flats: Page) -> None:
    page = flats
    page.get_by_label("income").fill("")
    page.get_by_label("district", exact=True).select_option("missing")
    row = predict(page)
    assert (row["income"], row["district"]) == (None, None)
    expect(contribution_of(page, "income")).to_have_text("−2.00")
    expect(contribution_of(page, "district")).to_have_text("−2.00")
    page.get_by_label("Age (years)").fill(" ")
    expect(page.locator(".field.invalid .fault")).to_have_text("expected a number")


def test_page_offers_no_missing_values_that_the_service_refuses(
    page: Page, urls: dict[str, str]
) -> None:
    page.goto(f"{urls['refusing']}/#whatif")
    expect(page.locator(".column svg").first).to_be_visible()
    expect(page.locator("#change p")).to_contain_text("makes it leaves")
    assert "missing" not in page.locator(".column option").all_text_contents()
    page.locator("#tabs a", has_text="Predict").click()
    assert "missing" not in page.locator("form option").all_text_contents()
    page.locator("[name=income]").fill("")
    expect(page.locator(".field.invalid .fault")).to_have_text("expected a number")


def test_large_vocabulary_takes_typed_and_unknown_values(page: Page, urls: dict[str, str]) -> None:
    page.goto(urls["cities"])
    expect(page.locator("#label")).to_be_visible()
    city, code = page.get_by_label("a city", exact=True), page.get_by_label("code", exact=True)
    for field, values in ((city, CITIES), (code, CODES)):
        assert field.evaluate("field => [...field.list.options].map(o => o.value)") == list(values)
    assert predict(page) == {"a city": "city 3", "code": 1001}
    city.fill("elsewhere")
    code.fill("7")
    assert predict(page) == {"a city": "elsewhere", "code": 7}
    expect(contribution_of(page, "a city")).to_have_text("−1.00")
    expect(contribution_of(page, "code")).to_have_text("−1.00")
    city.fill("")
    assert predict(page)["a city"] is None
    expect(contribution_of(page, "a city")).to_have_text("−2.00")
    for invalid in ("", "many", "1.5"):
        code.fill(invalid)
        expect(page.locator(".field.invalid .fault")).to_have_text("expected an integer")


def replace_in_page(page: Page, url: str, old: str, new: str) -> None:
    """Replace a text in the page that a service sends."""

    def replace(route: Route) -> None:
        response = route.fetch()
        route.fulfill(response=response, body=response.text().replace(old, new))

    page.route(f"{url}/", replace)


def test_columns_of_an_unknown_kind_are_shown(page: Page, urls: dict[str, str]) -> None:
    replace_in_page(page, urls["flats"], '"kind":"boolean"', '"kind":"ordinal"')
    page.goto(f"{urls['flats']}/#model")
    expect(page.locator("#view-model")).to_contain_text("ordinal")
    page.locator("#tabs a", has_text="Predict").click()
    expect(page.locator("form legend").last).to_have_text("ordinal")
    expect(page.get_by_label("balcony")).to_be_visible()


def test_booleans_in_a_tensor_are_python_in_the_code(page: Page, urls: dict[str, str]) -> None:
    replace_in_page(page, urls["flats"], '"type":"boolean"', '"type":"tensor"')
    page.goto(urls["flats"])
    page.locator("#code summary").click()
    page.locator("#code").get_by_role("button", name="Python").click()
    page.locator("[name=balcony]").fill("[[true, null], [false, 1.5]]")
    code = page.locator("#code pre")
    expect(code).to_contain_text("[[True, None], [False, 1.5]],")
    compile(code.text_content() or "", "row", "exec")


def test_names_and_values_that_look_like_markup_are_shown_as_text(
    page: Page, urls: dict[str, str]
) -> None:
    page.goto(urls["hostile"])
    expect(page.locator("#label")).to_be_visible()
    values = {**dict.fromkeys(NAMES, 1), f"few {ATTACK}": ATTACK, f"many {ATTACK}": ATTACK}
    assert predict(page) == values
    titles = page.locator("form label").all_text_contents()
    assert ATTACK in titles
    assert page.locator("#contributions .name").get_by_text(ATTACK).count() == 3
    page.get_by_label("dataset").fill("x")
    expect(page.locator(".field.invalid label")).to_have_text("dataset")
    assert page.locator("img").count() == 0
    assert page.evaluate("window.hacked") is None
