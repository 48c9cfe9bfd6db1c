"""The page, in a real browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.conftest import Starter
from tests.support.affine import publish
from tests.support.processes import free_port
from tests.support.tables import breast_cancer

COLUMNS = breast_cancer().columns


def test_the_form_is_the_model_s_and_is_answered_at_once(page: Page, client_url: str) -> None:
    page.goto(client_url)
    assert page.locator("form [name]").evaluate_all("all => all.map(e => e.name)") == list(COLUMNS)
    expect(page.locator("label", has_text="mean radius").locator("small")).to_have_text(
        re.compile(r"^[\d.]+ to [\d.]+$")
    )
    expect(page.locator("#label")).to_have_text("malignant")
    expect(page.locator("#percent")).to_have_text("0.0 % benign")
    expect(page.locator("#version")).to_have_text("1")
    expect(page.locator("#contributions li").first).to_contain_text(re.compile("−|\\+"))


def test_another_row_changes_the_answer_and_what_pushed_it(page: Page, client_url: str) -> None:
    page.goto(client_url)
    expect(page.locator("#label")).to_have_text("malignant")
    page.get_by_role("button", name="Typical benign").click()
    expect(page.locator("#label")).to_have_text("benign")
    page.locator("[name=worst_area]").fill("4254")
    page.get_by_role("button", name="Predict").click()
    first = page.locator("#contributions li").first
    expect(first).to_contain_text("worst area")
    expect(first).to_contain_text("−")


def test_numbers_that_training_has_not_seen_the_like_of_are_named(
    page: Page, client_url: str
) -> None:
    page.goto(client_url)
    expect(page.locator("#label")).to_have_text("malignant")
    expect(page.locator("#outside")).to_be_hidden()
    page.locator("[name=mean_radius]").fill("99999")
    page.locator("[name=worst_area]").fill("0,5")
    page.get_by_role("button", name="Predict").click()
    told = "Outside what the model was trained on: mean radius, worst area"
    expect(page.locator("#outside")).to_have_text(told)
    inside = page.locator("#contributions").evaluate(
        "all => [...all.querySelectorAll('b')].every(e => e.scrollWidth <= e.offsetWidth)"
    )
    assert inside
    page.get_by_role("button", name="Typical benign").click()
    expect(page.locator("#outside")).to_be_hidden()
    least, most = json.loads(page.locator("[name=mean_radius]").get_attribute("data-range") or "")
    for number, shown in ((least, False), (most, False), (most * 1.01, True)):
        page.locator("[name=mean_radius]").fill(str(number))
        page.get_by_role("button", name="Predict").click()
        expect(page.locator("#outside")).to_be_visible(visible=shown)


def test_text_where_a_number_belongs_is_said_by_name(page: Page, client_url: str) -> None:
    page.goto(client_url)
    expect(page.locator("#result")).to_be_visible()
    page.locator("[name=mean_texture]").fill("rough")
    page.get_by_role("button", name="Predict").click()
    expect(page.get_by_role("alert")).to_have_text(
        'instances[0].mean_texture: expected a number, got the string "rough"'
    )
    expect(page.locator("#result")).to_be_hidden()
    page.locator("[name=mean_texture]").fill("20,5")  # a decimal comma
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#result")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_it_fits_a_phone(browser: Browser, client_url: str) -> None:
    page = browser.new_page(viewport={"width": 320, "height": 640})
    page.goto(client_url)
    expect(page.locator("#label")).to_have_text("malignant")
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    tracks = page.locator("#contributions li .track")
    assert len(set(tracks.evaluate_all("all => all.map(e => e.offsetWidth)"))) == 1
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.get_by_role("button", name="Typical benign").click()
    expect(page.locator("#label")).to_have_text("benign")
    expect(page.locator("#label")).to_be_in_viewport()
    page.close()


def test_a_model_that_does_not_describe_itself_waits_for_values(
    page: Page, tmp_path: Path, starter: Starter
) -> None:
    publish(tmp_path / "m", 1)
    server = starter.model_server("--model_name=m", f"--model_base_path={tmp_path / 'm'}")
    client = starter.client(server.address, CLIENT_MODEL="m")
    page.goto(client.address)
    page.wait_for_load_state("networkidle")
    expect(page.get_by_role("alert")).to_be_hidden()
    page.locator("[name=x]").fill("2")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#outputs")).to_contain_text("21")


def test_without_a_model_server_it_says_so_and_comes_back_by_itself(
    page: Page, models: Path, starter: Starter
) -> None:
    port = free_port()
    client = starter.client(f"127.0.0.1:{port}", ready=False)
    page.goto(client.address)
    expect(page.get_by_role("alert")).to_contain_text("not available yet")
    starter.model_server(
        "--model_name=breast_cancer", f"--model_base_path={models / 'breast_cancer'}", port=port
    )
    expect(page.locator("#label")).to_have_text("malignant", timeout=20_000)
