from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.support.processes import ROOT
from training.evaluation.metric_names import METRICS
from training.evaluation.metrics import Floats, bootstrap, evaluate
from training.evaluation.report import Coefficient, Report, render

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</text></svg><script>alert(2)</script>",
    "--><script>alert(3)</script>",
    "$x_1$",
    r"$\frac{1}$",
    "{{ 7 * 7 }}",
    "long " * 500,
    "two\nlines\tand\x00 a \x1b control",
    "年齢 العمر 👩‍🔬 ﷽ \u202eback",
    "#1d2733",
    "",
]
VOID = {"meta"}


class Page(HTMLParser):
    """What a page consists of; fails if elements are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.svg_texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(" ".join(data.split()))
        if "text" in self._open:
            self.svg_texts.append(data)

    @property
    def ids(self) -> list[str | None]:
        return [value for name, value in self.attributes if name == "id"]


def coefficient(
    feature: str = "age", weight: float = 0.5, error: float | None = 0.1
) -> Coefficient:
    return Coefficient(feature, feature, weight, error, float(np.exp(weight / 4)))


def report_on(labels: Floats, probabilities: Floats, weights: Floats) -> Report:
    threshold = 0.4
    return Report(
        model="credit",
        trained_at="2025-03-01T12:00:00+00:00",
        class_names=("repaid", "defaulted"),
        rows={"training": 1398, "held out": len(labels)},
        settings={"l2": 1.0, "optimizer": "newton", "patience": None},
        metrics=evaluate(labels, probabilities, threshold, weights),
        intervals=bootstrap(labels, probabilities, threshold, weights, seed=0, replicates=5),
        threshold=threshold,
        threshold_rule="youden",
        costs=0.7 / np.arange(1.0, 301),
        validation_costs=0.8 / np.arange(1.0, 301),
        coefficients=[coefficient(f"feature {i}", (-1) ** i / (i + 1)) for i in range(30)],
        labels=labels,
        probabilities=probabilities,
        sample_weights=weights,
    )


def rows(count: int) -> tuple[Floats, Floats, Floats]:
    generator = np.random.default_rng(0)
    probabilities = generator.random(count)
    labels = (generator.random(count) < probabilities).astype(np.float64)
    return labels, probabilities, np.ones(count)


@pytest.fixture(scope="module")
def report() -> Report:
    return report_on(*rows(171))


@pytest.fixture(scope="module")
def page(report: Report) -> Page:
    return Page(render(report))


def test_it_tells_every_metric_with_its_interval(report: Report, page: Page) -> None:
    for name in METRICS:
        place = page.texts.index(name)
        low, high = report.intervals[name]
        cells = [text for text in page.texts[place:] if text][2:4]
        assert cells == [f"{report.metrics[name]:.4f}", f"{low:.4f}–{high:.4f}"]


def test_it_tells_what_was_fitted_and_how(page: Page) -> None:
    text = " ".join(page.texts)
    assert "Tells defaulted (class 1) from repaid (class 0)." in text
    assert "Rows: 1,398 training, 171 held out." in text
    assert "at least 0.4 (threshold: youden)" in text
    for setting in ("l2 1.0", "optimizer newton", "patience –"):
        assert setting in re.sub(" +", " ", text)


def test_the_confusion_matrix_counts_the_rows(report: Report, page: Page) -> None:
    called = report.probabilities >= report.threshold
    place = page.texts.index("is repaid")
    found = [text for text in page.texts[place:] if text.isdigit()][:4]
    expected = [
        np.sum((report.labels == actual) & (called == is_called))
        for actual in (0, 1)
        for is_called in (False, True)
    ]
    assert found == [str(count) for count in expected]


def test_the_confusion_matrix_counts_rows_by_their_weights() -> None:
    labels, probabilities, _ = rows(50)
    weights = np.linspace(1000, 2000, 50)
    page = Page(render(report_on(labels, probabilities, weights)))
    hits = np.sum(weights[(labels == 1) & (probabilities >= 0.4)])
    assert f"{hits:,.1f}" in page.texts


def test_there_are_five_pictures_with_texts_to_search(page: Page) -> None:
    assert page.tags.count("svg") == 5
    assert {"cost J", "recall", "false positive rate", "share of class 1"} <= set(page.svg_texts)
    assert {"training", "validation", "threshold"} <= set(page.svg_texts)


def test_the_largest_weights_are_drawn_and_all_are_listed(page: Page) -> None:
    drawn = [text for text in page.svg_texts if text.startswith("feature ")]
    assert sorted(drawn) == sorted(f"feature {i}" for i in range(25))
    listed = [text for text in page.texts if re.fullmatch(r"feature \d+", text)]
    assert listed[-30:] == [f"feature {i}" for i in range(30)]


def test_an_odds_ratio_has_the_interval_of_its_weight() -> None:
    # The column's deviation is 4, so one unit of it is a quarter of the scaled feature's.
    low, high = coefficient(weight=0.5, error=0.1).odds_ratio_interval or (0, 0)
    assert low == pytest.approx(np.exp((0.5 - 0.196) / 4))
    assert high == pytest.approx(np.exp((0.5 + 0.196) / 4))
    low, high = coefficient(weight=-0.5, error=0.1).odds_ratio_interval or (0, 0)
    assert low == pytest.approx(np.exp((-0.5 - 0.196) / 4))
    assert high == pytest.approx(np.exp((-0.5 + 0.196) / 4))
    assert coefficient(weight=0.5, error=None).odds_ratio_interval is None
    assert coefficient(weight=0.0, error=0.1).odds_ratio_interval is None


def test_it_needs_nothing_from_elsewhere(report: Report, page: Page) -> None:
    html = render(report)
    assert "http" not in html.replace("http-equiv", "")
    assert not re.search(r"@import|@font-face|url\((?!#)|<!ENTITY", html)
    assert {"script", "link", "img", "iframe", "object", "image"}.isdisjoint(page.tags)
    references = [v for n, v in page.attributes if n in ("src", "href", "xlink:href")]
    assert all(v and v.startswith("#") and v[1:] in page.ids for v in references)
    assert len(set(page.ids)) == len(page.ids)


def test_the_pictures_take_the_colours_of_the_page(report: Report) -> None:
    html = render(report)
    pictures = "".join(re.findall("<svg.*?</svg>", html, re.DOTALL))
    assert "var(--ink)" in pictures
    assert not re.search(r"(fill|stroke): #", pictures)
    declared = set(re.findall(r"(--\w+):", html))
    assert set(re.findall(r"var\((--\w+)\)", html)) <= declared


def test_the_same_report_gives_the_same_page(report: Report) -> None:
    assert render(report) == render(report)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_text_whatever_it_contains(report: Report, page: Page, name: str) -> None:
    hostile = dataclasses.replace(
        report,
        model=name,
        trained_at=name,
        class_names=(name, name),
        rows={name: 1},
        settings={name: name},
        threshold_rule=name,
        coefficients=[coefficient(f"{name} = {name}"), coefficient(name), coefficient("age")],
    )
    found = Page(render(hostile))
    assert set(found.tags) == set(page.tags)
    assert {key for key, _ in found.attributes} == {key for key, _ in page.attributes}
    shown = " ".join(name.split())
    assert shown in " ".join(found.texts)
    short = shown if len(shown) <= 28 else shown[:27] + "…"
    assert short in found.svg_texts or not name
    assert all(len(text) <= 28 for text in found.svg_texts)


def test_a_page_on_many_rows_is_small() -> None:
    labels, probabilities, weights = rows(200_000)
    many = dataclasses.replace(
        report_on(labels, probabilities, weights), costs=np.linspace(1, 0, 100_000)
    )
    html = render(many)
    assert len(html.encode()) < 400_000
    for path in re.findall(r'<path d="([^"]*)"', html):
        assert len(re.findall("[ML]", path)) <= 1000  # two for each point of a line of steps


def test_it_is_rendered_in_seconds(report: Report) -> None:
    start = time.process_time()
    render(report)
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [
        ([0, 1], [0.0, 1.0]),
        ([0, 1], [1.0, 0.0]),
        ([0, 1, 1], [0.3, 0.3, 0.3]),
        ([0, 1, 1], [0.1, 0.2, 0.3]),
    ],
)
@pytest.mark.parametrize("iterations", [1, 2, 7, 100])
def test_extremes_are_drawn(
    labels: list[float], probabilities: list[float], iterations: int
) -> None:
    report = report_on(np.array(labels, float), np.array(probabilities), np.ones(len(labels)))
    extreme = dataclasses.replace(
        report,
        costs=np.full(iterations, 0.5),
        validation_costs=np.empty(0),
        coefficients=[
            coefficient("zero", 0.0, 0.0),
            coefficient("huge", 2000.0, 1e6),
            coefficient("endless", 1.0, np.inf),
            coefficient("unknown", -1e-9, None),
        ],
    )
    page = Page(render(extreme))
    assert page.tags.count("svg") == 5
    assert "nan" not in " ".join(page.texts)
    assert "validation" not in page.svg_texts


def test_importing_it_does_not_load_what_only_rendering_needs() -> None:
    code = (
        "import sys, training.evaluation.report;"
        "print({'matplotlib', 'tensorflow', 'sklearn'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout == "set()\n"
