"""The page's table view."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser.conftest import check_accessible, check_contrast
from tests.conftest import Starter
from tests.support.tables import breast_cancer

TABLE = breast_cancer()
NOTICE = "#table-state .notice"


def write_table(path: Path, rows: int = 60, *, invalid_row: int | None = None) -> Path:
    """Write rows of the built-in table with an id; one may hold a word instead of a number."""
    features = np.resize(TABLE.features, (rows, len(TABLE.columns)))
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["id, quoted", *TABLE.columns])
        for number, row in enumerate(features.tolist()):
            cells = ["much", *row[1:]] if number == invalid_row else row
            out.writerow([f'row "{number}"', *cells])
    return path


def upload(page: Page, url: str, path: Path) -> None:
    page.goto(f"{url}/#table")
    page.locator("#file").set_input_files(path)


def drop(page: Page, name: str, text: str) -> None:
    """Drop a file on the page."""
    page.evaluate(
        """([name, text]) => {
          const data = new DataTransfer();
          data.items.add(new File([text], name));
          const drop = document.querySelector(".drop");
          drop.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }""",
        [name, text],
    )


def row_counts(page: Page) -> dict[str, int]:
    """Return the row count on each tile, by title."""
    tiles = page.locator(".tiles > div")
    texts = tiles.evaluate_all("all => all.map(e => [...e.children].map(c => c.textContent))")
    return {title: int(number.replace(",", "")) for title, number, _ in texts}


def test_table_is_predicted_counted_and_downloadable(
    page: Page, client_url: str, tmp_path: Path
) -> None:
    page.goto(f"{client_url}/#table")
    expect(page.locator(".needs li")).to_have_count(30)
    page.locator("#file").set_input_files(write_table(tmp_path / "cells.csv", invalid_row=7))
    expect(page.locator(".headline")).to_contain_text("Rows: 60")
    check_accessible(page)
    page.emulate_media(color_scheme="dark")
    check_contrast(page)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download as CSV").click()
    assert download.value.suggested_filename == "cells.predictions.csv"
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    names = ["id, quoted", *TABLE.columns, "label", "probability", "error"]
    assert list(rows[0]) == names
    assert [row["id, quoted"] for row in rows] == [f'row "{number}"' for number in range(60)]
    labels = [row["label"] for row in rows]
    assert row_counts(page) == {
        "benign": labels.count("benign"),
        "malignant": labels.count("malignant"),
        "Rows with errors": 1,
    }
    expect(page.locator(".faults li")).to_have_text(
        'line 9, column "mean_radius": expected float32, got "much"'
    )
    first = page.locator(".data tbody tr").first.locator("th, td")
    assert first.nth(0).text_content() == labels[0]
    expect(first.nth(3)).to_have_text('row "0"')

    probabilities = np.array([float(row["probability"] or "nan") for row in rows])
    for threshold in (0.001, 0.29, 0.9):
        page.get_by_label("Threshold").last.fill(str(threshold))
        high = int((probabilities >= threshold).sum())
        assert row_counts(page)["benign"] == high
        assert row_counts(page)["malignant"] == 59 - high
        image = page.locator(".distribution svg")
        expect(image).to_have_attribute("aria-label", re.compile(rf"of {threshold}: {high} \("))
    page.locator("#threshold").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("Threshold").last).to_have_value("0.901")
    page.get_by_role("button", name="Another table").click()
    expect(page.locator("#file")).to_be_focused()


def test_formula_like_labels_certain_rows_and_missing_ids_are_counted(
    page: Page, client_url: str, tmp_path: Path
) -> None:
    def rename(route: Route) -> None:
        response = route.fetch()
        body = response.text().replace('["malignant","benign"]', '["- 50000.","50000+."]')
        route.fulfill(response=response, body=body)

    page.route(f"{client_url}/", rename)
    # Formatted as the service does with csv_guard.
    rows = "1,'- 50000.,0.2,\n2,50000+.,1.0,\n3,50000+.,0.999,\n4,50000+.,1.0,\n"
    invalid_row = ',,,"line 6, column ""a"": missing"\n'
    answer = f"id,label,probability,error\n{rows}{invalid_row}"
    page.route("**/predict?*", lambda route: route.fulfill(body=answer, content_type="text/csv"))
    upload(page, client_url, write_table(tmp_path / "cells.csv", 5))
    expect(page.locator(".faults li")).to_have_text('line 6, column "a": missing')
    assert row_counts(page) == {"50000+.": 3, "- 50000.": 1, "Rows with errors": 1}
    expect(page.locator(".distribution tbody tr").last.locator("td").last).to_have_text("3")
    page.get_by_label("Threshold").last.fill("1")
    assert row_counts(page) == {"50000+.": 2, "- 50000.": 2, "Rows with errors": 1}


def test_invalid_file_is_rejected_with_the_reason(
    page: Page, client_url: str, tmp_path: Path
) -> None:
    page.goto(f"{client_url}/#table")
    for name, content, message in (
        ("report.xlsx", b"PK", "report.xlsx is not a supported table"),
        ("others.csv", b"a,b\n1,2\n", 'line 1: column "mean_radius" is missing, and 29 more'),
        ("picture.csv", b"\x89PNG\r\n\x1a\n\0\0\xff\xfe", "line 1: expected UTF-8"),
        ("empty.csv", b"", 'line 1: column "mean_radius" is missing, and 29 more'),
    ):
        (tmp_path / name).write_bytes(content)
        page.locator("#file").set_input_files(tmp_path / name)
        expect(page.locator(NOTICE)).to_contain_text(message)
        expect(page.locator(".drop")).to_be_visible()
    check_accessible(page)


def test_dropped_tsv_file_is_read(page: Page, client_url: str, tmp_path: Path) -> None:
    path = write_table(tmp_path / "cells.csv")
    lines = path.read_text().replace("id, quoted", "id").splitlines()
    page.goto(f"{client_url}/#table")
    expect(page.locator(".drop")).to_be_visible()
    drop(page, "cells.tsv", "\n".join(line.replace(",", "\t") for line in lines))
    expect(page.locator(".headline")).to_contain_text("cells.tsv Rows: 60")


def test_file_dropped_during_a_prediction_replaces_it(
    page: Page, client_url: str, tmp_path: Path
) -> None:
    path = write_table(tmp_path / "first.csv")
    held: list[Route] = []
    page.route("**/predict?*", lambda route: held.append(route))
    upload(page, client_url, path)
    expect(page.locator(".progress")).to_contain_text("first.csv")
    drop(page, "second.csv", path.read_text())
    expect(page.locator(".progress")).to_contain_text("second.csv")
    expect(page.locator(".drop")).to_be_hidden()
    expect(page.locator(".needs")).to_be_hidden()
    while len(held) < 2:
        page.wait_for_timeout(20)
    held[1].continue_()
    expect(page.locator(".headline")).to_contain_text("second.csv Rows: 60")
    expect(page.locator(".drop")).to_be_hidden()


def test_busy_or_unreachable_service_is_reported_and_the_table_can_be_resent(
    page: Page, model_server: str, starter: Starter, tmp_path: Path
) -> None:
    client = starter.client(model_server)
    path = write_table(tmp_path / "cells.csv")
    page.goto(f"{client.address}/#table")

    def busy(route: Route) -> None:
        route.fulfill(status=429, headers={"Retry-After": "1"}, json={"error": "too many"})

    page.route("**/predict?*", busy)
    page.locator("#file").set_input_files(path)
    expect(page.locator(NOTICE)).to_contain_text("The service is busy.")
    page.unroute("**/predict?*")
    page.get_by_role("button", name="Send again").click()
    expect(page.locator(".headline")).to_contain_text("Rows: 60")
    page.get_by_role("button", name="Another table").click()
    client.stop()
    page.locator("#file").set_input_files(path)
    expect(page.locator(NOTICE)).to_contain_text("The service cannot be reached.")


def test_large_table_shows_progress_and_stays_out_of_memory(
    page: Page, client_url: str, tmp_path: Path
) -> None:
    path = write_table(tmp_path / "many.csv", 40_000)
    devtools = page.context.new_cdp_session(page)
    page.goto(f"{client_url}/#table")
    expect(page.locator(".drop")).to_be_visible()
    network = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 4e6}
    devtools.send("Network.emulateNetworkConditions", network)
    page.locator("#file").set_input_files(path)
    status = page.locator(".progress [role=status]")
    expect(status).to_have_text(re.compile(r"[\d.]+ MB of [\d.]+ MB sent and predicted"))
    assert 0 < page.locator("progress").evaluate("bar => bar.value") < 1
    page.get_by_role("button", name="Cancel").click()
    devtools.send("Network.emulateNetworkConditions", {**network, "uploadThroughput": -1})
    expect(page.locator(".drop")).to_be_visible()
    expect(page.locator(NOTICE)).to_have_count(0)
    page.locator("#file").set_input_files(path)
    expect(page.locator(".headline")).to_contain_text("Rows: 40,000", timeout=120_000)
    devtools.send("HeapProfiler.collectGarbage")
    used = devtools.send("Runtime.getHeapUsage")["usedSize"]
    assert used < path.stat().st_size


def test_result_fits_a_phone(browser: Browser, client_url: str, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": 320, "height": 640})
    upload(page, client_url, write_table(tmp_path / "cells.csv", invalid_row=3))
    expect(page.locator(".headline")).to_contain_text("Rows: 60")
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    page.close()
