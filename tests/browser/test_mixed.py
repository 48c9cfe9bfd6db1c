"""The page of a model with columns of every kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from playwright.sync_api import Locator, Page, expect

from tests.conftest import Starter
from tests.support.mixed import COLUMNS, MixedColumn, publish

Open = Callable[[Sequence[MixedColumn]], Page]


@pytest.fixture
def open_page(page: Page, tmp_path: Path, starter: Starter) -> Open:
    """Open the page of a model with some columns."""

    def open_page(columns: Sequence[MixedColumn]) -> Page:
        publish(tmp_path / "flats", columns=columns)
        flag = f"--model_base_path={tmp_path / 'flats'}"
        server = starter.model_server("--model_name=flats", flag)
        page.goto(starter.client(server.address, CLIENT_MODEL="flats").address)
        return page

    return open_page


def row_sent(page: Page, act: Callable[[], None]) -> dict[str, Any]:
    """Return the row of the request that an action brings about."""
    with page.expect_request("**/predict") as request:
        act()
    body = json.loads(request.value.post_data or "", parse_float=str)
    row: dict[str, Any] = body["instances"][0]
    return row


def predict(page: Page) -> dict[str, Any]:
    return row_sent(page, page.get_by_role("button", name="Predict").click)


def share_of(page: Page, column: str) -> Locator:
    return page.locator("#contributions li", has_text=column).locator("b")


def test_each_kind_of_column_has_its_field_and_is_sent_as_its_type(open_page: Open) -> None:
    page = open_page(COLUMNS)
    expect(page.locator("#label")).to_have_text("stays")
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


def test_a_typical_row_has_the_class_s_means_and_most_frequent_values(open_page: Open) -> None:
    page = open_page(COLUMNS)
    expect(page.locator("#label")).to_have_text("stays")
    row = row_sent(page, page.get_by_role("button", name="Typical leaves").click)
    assert row == {
        "Age (years)": "30.25",
        "income": 2,
        "city": " Zug",
        "district": "7",
        "garden": "false",
        "rooms": 9007199254740993,  # more digits than a number of JavaScript has
        "balcony": False,
    }
    expect(page.locator("#label")).to_have_text("leaves")
    expect(share_of(page, "city")).to_have_text("+2.00")
    expect(share_of(page, "Age (years)")).to_have_text("+0.30")
    page.get_by_role("button", name="Typical stays").click()
    expect(page.locator("#label")).to_have_text("stays")


def test_what_may_be_missing_can_be_left_empty_and_nothing_else(open_page: Open) -> None:
    page = open_page(COLUMNS)
    expect(page.locator("#label")).to_have_text("stays")
    page.get_by_label("income").fill("")
    page.get_by_label("district").select_option("missing")
    row = predict(page)
    assert (row["income"], row["district"]) == (None, None)
    expect(share_of(page, "income")).to_have_text("−2.00")
    expect(share_of(page, "district")).to_have_text("−2.00")
    page.get_by_label("Age (years)").fill(" ")
    page.get_by_role("button", name="Predict").click()
    expect(page.get_by_role("alert")).to_have_text(
        'instances[0].Age (years): expected a number, got the string ""'
    )


def test_of_many_values_one_is_typed_and_may_be_unknown(open_page: Open) -> None:
    cities = tuple(f"city {i}" for i in range(51))
    codes = tuple(str(i) for i in range(1000, 1051))
    page = open_page(
        [
            MixedColumn("a city", tf.string, cities, missing=True, class_modes=(3, 50)),
            MixedColumn("code", tf.int64, codes, class_modes=(1, 2)),
        ]
    )
    expect(page.locator("#label")).to_be_visible()
    city, code = page.get_by_label("a city"), page.get_by_label("code")
    for field, values in ((city, cities), (code, codes)):
        assert field.evaluate("field => [...field.list.options].map(o => o.value)") == list(values)
    assert predict(page) == {"a city": "city 3", "code": 1001}
    city.fill("elsewhere")
    code.fill("7")
    assert predict(page) == {"a city": "elsewhere", "code": 7}
    expect(share_of(page, "a city")).to_have_text("−1.00")
    expect(share_of(page, "code")).to_have_text("−1.00")
    city.fill("")
    assert predict(page)["a city"] is None
    expect(share_of(page, "a city")).to_have_text("−2.00")
    code.fill("")
    assert code.evaluate("field => field.validity.valueMissing")
    code.fill("many")
    page.get_by_role("button", name="Predict").click()
    expect(page.get_by_role("alert")).to_have_text(
        'instances[0].code: expected an integer, got the string "many"'
    )


def test_names_and_values_that_look_like_markup_or_code_are_only_text(open_page: Open) -> None:
    attack = '<img src=x onerror="window.hacked=1">\'&amp;{{ 7*7 }}</script>'
    # A form's properties can be hidden by fields of the same name.
    names = (attack, "dataset", "querySelectorAll", "addEventListener", "__proto__", "a\r\n b")
    page = open_page(
        [
            *(MixedColumn(name, tf.float32, class_means=(1, 2)) for name in names),
            MixedColumn(f"few {attack}", tf.string, (attack, "b"), class_modes=(0, 0)),
            MixedColumn(
                f"many {attack}",
                tf.string,
                (attack, *map(str, range(60))),
                class_modes=(0, 0),
            ),
        ]
    )
    expect(page.locator("#label")).to_be_visible()
    row = predict(page)
    assert row == {**dict.fromkeys(names, 1), f"few {attack}": attack, f"many {attack}": attack}
    titles = page.locator("label > span").all_text_contents()
    assert titles[0] == attack
    assert page.locator("#contributions li > span:first-child").get_by_text(attack).count() == 3
    page.get_by_label("dataset").fill("x")
    page.get_by_role("button", name="Predict").click()
    expect(page.get_by_role("alert")).to_contain_text("instances[0].dataset: expected a number")
    assert page.locator("img").count() == 0
    assert page.evaluate("window.hacked") is None
