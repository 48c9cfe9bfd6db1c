"""The page, in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.conftest import Starter
from tests.support.processes import free_port
from tests.support.tables import breast_cancer

COLUMNS = breast_cancer().columns


def test_form_has_the_model_columns_and_updates_the_answer(page: Page, client_url: str) -> None:
    page.goto(client_url)
    names = page.locator("form [name]").evaluate_all("all => all.map(e => e.name)")
    assert names == list(COLUMNS)
    expect(page.locator(".field", has_text="mean radius").locator("small").first).to_have_text(
        re.compile(r"^[\d.]+ to [\d.]+$")
    )
    expect(page.locator("#label")).to_have_text("malignant")
    expect(page.locator("#percent")).to_have_text("> 99.9%")
    expect(page.locator("#version")).to_have_text("1")
    expect(page.locator("#question")).to_have_text("diagnosis = benign?")
    expect(page.locator("#contributions li").first).to_contain_text("−")
    page.get_by_role("button", name="Typical benign").click()
    expect(page.locator("#label")).to_have_text("benign")
    page.locator("[name=worst_area]").fill("4254")
    first = page.locator("#contributions li").first
    expect(first).to_contain_text("worst area")
    expect(first).to_contain_text("−")
    expect(first).to_contain_text("toward malignant")


def test_columns_outside_the_training_range_are_named(page: Page, client_url: str) -> None:
    page.goto(client_url)
    expect(page.locator("#label")).to_have_text("malignant")
    expect(page.locator("#outside")).to_be_hidden()
    page.locator("[name=mean_radius]").fill("99999")
    page.locator("[name=worst_area]").fill("0,5")
    message = "Outside the training data: mean radius and worst area"
    expect(page.locator("#outside")).to_have_text(message)
    fits = page.locator("#contributions").evaluate(
        "all => [...all.querySelectorAll('b')].every(e => e.scrollWidth <= e.offsetWidth)"
    )
    assert fits
    page.get_by_role("button", name="Typical benign").click()
    expect(page.locator("#outside")).to_be_hidden()


def test_invalid_value_is_reported_at_its_field_and_the_answer_is_stale(
    page: Page, client_url: str
) -> None:
    page.goto(client_url)
    expect(page.locator("#label")).to_have_text("malignant")
    field = page.locator("[name=mean_texture]")
    field.fill("rough")
    expect(page.locator(".field", has=field).locator(".fault")).to_have_text("expected a number")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#answer")).to_have_class("stale")
    expect(page.locator("#status")).to_have_text("Columns to correct: 1")
    field.fill("20,5")  # a decimal comma
    expect(page.locator("#answer")).not_to_have_class("stale")
    expect(field).to_have_attribute("aria-invalid", "false")


def test_page_reports_a_missing_model_server_and_recovers(
    page: Page, models: Path, starter: Starter
) -> None:
    port = free_port()
    client = starter.client(f"127.0.0.1:{port}", ready=False)
    page.goto(client.address)
    expect(page.get_by_role("alert")).to_contain_text("not available yet")
    starter.model_server(
        "--model_name=breast_cancer", f"--model_base_path={models / 'breast_cancer'}", port=port
    )
    expect(page.locator("#label")).to_have_text("malignant")
