from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure

from tests.support.processes import ROOT
from training.data.choose import ColumnUse
from training.evaluation.distributions import Distribution, distributions
from training.evaluation.metric_names import METRICS
from training.evaluation.metrics import Floats, bootstrap, evaluate
from training.evaluation.numbers import format_number
from training.evaluation.plots import draw_costs
from training.evaluation.report import Coefficient, Report
from training.evaluation.report import render as render_with_verdict
from training.features.categorical import CategoricalColumn
from training.features.numeric import NumericColumn
from training.publishing.manifest import Comparison, Data, FitSummary, Manifest, Verdict
from training.settings import FitSettings, OptimizerName

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
VOID_TAGS = {"meta"}


class Page(HTMLParser):
    """Parser that collects a page's elements and checks that they are closed in order."""

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
        if tag not in VOID_TAGS:
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


def make_coefficient(
    feature: str = "age", weight: float = 0.5, error: float | None = 0.1
) -> Coefficient:
    return Coefficient(feature, feature, weight, error, weight / 4)


def make_report(labels: Floats, probabilities: Floats, weights: Floats) -> Report:
    threshold = 0.4
    manifest = Manifest(
        trained_at="2025-03-01T12:00:00+00:00",
        rows={"train": 1398, "held_out": len(labels)},
        settings=FitSettings(optimizer="newton", threshold="youden"),
        fit=FitSummary(12, "tolerance", True, 0.25, 1e-7, None),
        threshold=threshold,
        metrics=evaluate(labels, probabilities, threshold, weights),
        intervals=bootstrap(labels, probabilities, threshold, weights, seed=0, replicates=5),
    )
    plans = [None, *np.where(probabilities > 0.3, "a", "b").tolist()]
    frame = pl.DataFrame({"age": np.append(probabilities, np.nan), "plan": plans})
    columns = (NumericColumn("age"), CategoricalColumn("plan", vocabulary=("a", "b")))
    return Report(
        model="credit",
        label_name="outcome",
        class_names=("repaid", "defaulted"),
        manifest=manifest,
        columns=distributions(columns, frame),
        left_out=[ColumnUse("id", "numeric", "--leave-out")],
        costs=0.7 / np.arange(1.0, 301),
        validation_costs=0.8 / np.arange(1.0, 301),
        coefficients=[make_coefficient(f"feature {i}", (-1) ** i / (i + 1)) for i in range(30)],
        labels=labels,
        probabilities=probabilities,
        sample_weights=weights,
    )


def render(report: Report) -> str:
    return render_with_verdict(report, Verdict(rule="a rule"))


def with_manifest(report: Report, **changes: Any) -> Report:
    return dataclasses.replace(report, manifest=dataclasses.replace(report.manifest, **changes))


def make_rows(count: int) -> tuple[Floats, Floats, Floats]:
    generator = np.random.default_rng(0)
    probabilities = generator.random(count)
    labels = (generator.random(count) < probabilities).astype(np.float64)
    return labels, probabilities, np.ones(count)


@pytest.fixture(scope="module")
def report() -> Report:
    return make_report(*make_rows(171))


@pytest.fixture(scope="module")
def page(report: Report) -> Page:
    return Page(render(report))


TITLES = (
    "Accuracy",
    "Precision",
    "Recall",
    "F1",
    "AUC",
    "Average precision",
    "Log loss",
    "Brier score",
    "Calibration error",
)


def test_report_shows_every_metric_with_interval(report: Report, page: Page) -> None:
    table = page.texts.index("from 0 to 1")
    for name, title in zip(METRICS, TITLES, strict=True):
        index = page.texts.index(title, table)
        low, high = report.manifest.intervals[name]
        cells = [text for text in page.texts[index:] if text][2:4]
        assert cells == [f"{report.manifest.metrics[name]:.4f}", f"{low:.4f}–{high:.4f}"]


def test_report_shows_data_and_settings(page: Page) -> None:
    text = " ".join(page.texts)
    assert "Predicts outcome: defaulted (class 1) or repaid (class 0)." in text
    assert "Rows: 1,398 training, 171 held out." in text
    assert "at least 0.4 (chosen by the rule youden)" in text
    assert "Converged: the tolerance was reached." in text
    for setting in ("l2 1", "optimizer newton", "patience –", "steps 12", "cost 0.25"):
        assert setting in re.sub(" +", " ", text)


def render_text(report: Report, verdict: Verdict) -> str:
    return " ".join(Page(render_with_verdict(report, verdict)).texts)


def test_report_shows_that_fit_did_not_converge(report: Report) -> None:
    fit = FitSummary(2000, "iterations", False, 0.25, 1e-3, 0.125)
    text = render_text(with_manifest(report, fit=fit, warnings=("not converged: why",)), Verdict())
    assert "Not converged: the iteration limit was reached; learning rate 0.125." in text
    assert "Warnings not converged: why" in re.sub(" +", " ", text)


def test_report_compares_with_published_version(report: Report) -> None:
    metrics = dict.fromkeys(METRICS, 0.75)
    comparison = Comparison(4, 1234, metrics, dict.fromkeys(METRICS, 0.5), 0.043)
    text = re.sub(" +", " ", render_text(report, Verdict(rule="a rule", comparison=comparison)))
    assert "Compared with version 4 metric this model version 4 change" in text
    assert "Log loss 0.7500 0.5000 +0.2500" in text
    assert "On the 1,234 held-out rows that neither was trained on" in text
    assert "4.3% of these rows get a different label" in text
    assert "Gate: passed. Rule: a rule." in text


def test_report_shows_gate_notices(report: Report) -> None:
    verdict = Verdict(False, "auc is low", True, "a rule", None, "it is gone", ("column is new",))
    text = render_text(report, verdict)
    for notice in (
        "Forced: auc is low",
        "Schema change: column is new",
        "Not compared with the published version: it is gone",
        "Gate: not passed: auc is low.",
    ):
        assert notice in text


def test_columns_are_listed_with_missing_values_and_histogram(page: Page) -> None:
    text = re.sub(" +", " ", " ".join(page.texts))
    assert re.search(r"age numeric 0\.6% .*to.*median", text)
    assert re.search(r"plan categorical 0\.6% a \d+%, b \d+%", text)
    assert "id not used --leave-out" in text
    assert sum(name == "title" for name, _ in page.attributes) == 24 + 2


def test_calibration_of_rare_class_has_logarithmic_axes(report: Report) -> None:
    random = np.random.default_rng(0)
    probabilities = random.beta(1, 60, 4000)
    labels = (random.random(4000) < probabilities).astype(np.float64)
    for flip, name in ((False, "defaulted"), (True, "repaid")):
        arrays = (1 - labels, 1 - probabilities) if flip else (labels, probabilities)
        rare = Page(render(make_report(*arrays, np.ones(4000))))
        assert f"{name} is rare, so both axes are logarithmic" in " ".join(rare.texts)
        assert f"fraction of {name}" in rare.svg_texts
        assert "0.01" in rare.svg_texts
        assert not any("$" in text for text in rare.svg_texts)
    assert "logarithmic" not in " ".join(Page(render(report)).texts)


def test_invalid_standard_errors_are_omitted_with_reason(report: Report) -> None:
    lasso = with_manifest(report, settings=FitSettings(optimizer="sgd", l1=2.0))
    text = render_text(
        dataclasses.replace(lasso, coefficients=[make_coefficient(error=None)]), Verdict()
    )
    assert "With an L1 penalty, there are no valid standard errors or intervals" in text


def test_extreme_odds_ratios_are_shown_as_bounds(report: Report) -> None:
    extreme = [make_coefficient("up", 2000.0, 1e6), make_coefficient("down", -2000.0, 1.0)]
    page = Page(render(dataclasses.replace(report, coefficients=extreme)))
    cells = [text for text in page.texts if "> 10⁶" in text or "< 10⁻⁶" in text]
    assert cells == ["> 10⁶", "< 10⁻⁶ to > 10⁶", "< 10⁻⁶", "< 10⁻⁶ to < 10⁻⁶"]
    assert "is infinite in practice" in " ".join(page.texts)


def test_confusion_matrix_counts_rows(report: Report, page: Page) -> None:
    predicted = report.probabilities >= report.manifest.threshold
    index = page.texts.index("actual repaid")
    cells = [text for text in page.texts[index:] if text.isdigit()][:4]
    expected = [
        np.sum((report.labels == actual) & (predicted == is_predicted))
        for actual in (0, 1)
        for is_predicted in (False, True)
    ]
    assert cells == [str(count) for count in expected]


def test_confusion_matrix_sums_row_weights() -> None:
    labels, probabilities, _ = make_rows(50)
    weights = np.linspace(1000, 2000, 50)
    page = Page(render(make_report(labels, probabilities, weights)))
    hits = np.sum(weights[(labels == 1) & (probabilities >= 0.4)])
    assert f"{hits:,.1f}" in page.texts


def test_report_has_five_plots_with_searchable_text(page: Page) -> None:
    assert page.tags.count("svg") == 5
    assert {"cost J", "recall", "false positive rate", "fraction of defaulted"} <= set(
        page.svg_texts
    )
    assert {"training", "validation", "threshold"} <= set(page.svg_texts)


@pytest.mark.parametrize(("optimizer", "step"), [("newton", "iteration"), ("sgd", "epoch")])
def test_cost_plot_is_labelled_with_solver_step(
    report: Report, optimizer: OptimizerName, step: str
) -> None:
    page = Page(render(with_manifest(report, settings=FitSettings(optimizer=optimizer))))
    assert f"before {step}" in page.svg_texts
    assert f"The cost J, including the penalty, before each {step}." in " ".join(page.texts)


def test_largest_weights_are_plotted_and_all_are_listed(page: Page) -> None:
    plotted = [text for text in page.svg_texts if text.startswith("feature ")]
    assert sorted(plotted) == sorted(f"feature {i}" for i in range(25))
    listed = [text for text in page.texts if re.fullmatch(r"feature \d+", text)]
    assert listed[-30:] == [f"feature {i}" for i in range(30)]


def test_odds_ratio_interval_follows_from_standard_error() -> None:
    # The column's deviation is 4, so one unit is a quarter of the scaled feature's unit.
    for weight in (0.5, -0.5):
        low, high = make_coefficient(weight=weight, error=0.1).log_odds_ratio_interval or (0, 0)
        assert low == pytest.approx((weight - 0.196) / 4)
        assert high == pytest.approx((weight + 0.196) / 4)
    coefficient = make_coefficient(weight=0.5, error=0.1)
    assert (coefficient.odds_ratio, coefficient.odds_ratio_interval) == ("1.133", "1.079 to 1.19")
    assert make_coefficient(weight=0.5, error=None).odds_ratio_interval == "–"
    assert make_coefficient(weight=0.0, error=0.1).odds_ratio_interval == "–"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (103_500.0, "103,500"),
        (-0.05, "−0.05"),
        (9.99996e6, "10,000,000"),
        (3.191e-05, "3.191 × 10⁻⁵"),
        (2.85e-111, "2.85 × 10⁻¹¹¹"),
        (math.inf, "∞"),
        (math.nan, "–"),
    ],
)
def test_numbers_are_formatted_for_readers(value: float, text: str) -> None:
    assert format_number(value) == text


def test_report_contains_no_e_notation(report: Report, page: Page) -> None:
    frame = pl.DataFrame({"income": [1e-9, 31_530.0, 2.5e12]})
    (wide,) = distributions((NumericColumn("income"),), frame)
    coefficients = [make_coefficient(weight=1e-7, error=1e-9)]
    tiny_page = Page(render(dataclasses.replace(report, columns=[wide], coefficients=coefficients)))
    assert "1 × 10⁻⁹ to 2.5 × 10¹², median 31,530" in tiny_page.texts
    texts = [text for text in (*tiny_page.texts, *page.texts) if ":root" not in text]
    assert re.findall(r"\S*\d[eE][+−-]?\d\S*", " ".join(texts)) == []


def test_report_is_self_contained(report: Report, page: Page) -> None:
    html = render(report)
    assert "http" not in html.replace("http-equiv", "")
    assert not re.search(r"@import|@font-face|url\((?!#)|<!ENTITY", html)
    assert {"script", "link", "img", "iframe", "object", "image"}.isdisjoint(page.tags)
    references = [v for n, v in page.attributes if n in ("src", "href", "xlink:href")]
    assert all(v and v.startswith("#") and v[1:] in page.ids for v in references)
    assert len(set(page.ids)) == len(page.ids)


def test_tick_labels_of_flat_cost_are_distinct() -> None:
    figure = Figure()
    draw_costs(figure, np.array([0.534012, 0.534011, 0.53401]), np.empty(0), "iteration")
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(set(labels)) == len(labels)


def test_plots_use_page_colours(report: Report) -> None:
    html = render(report)
    plots = "".join(re.findall("<svg.*?</svg>", html, re.DOTALL))
    assert "var(--ink)" in plots
    assert not re.search(r"(fill|stroke): #", plots)
    declared = set(re.findall(r"(--\w+):", html))
    assert set(re.findall(r"var\((--\w+)\)", html)) <= declared


def test_rendering_is_deterministic(report: Report) -> None:
    assert render(report) == render(report)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_as_text(report: Report, page: Page, name: str) -> None:
    hostile = dataclasses.replace(
        report,
        model=name,
        label_name=name,
        class_names=(name, name),
        manifest=dataclasses.replace(
            report.manifest,
            trained_at=name,
            data=Data(source=name),
            settings=FitSettings(class_weight={name: 2.0}),
        ),
        columns=[Distribution(name, "numeric", 0.5, name, ((name, 1.0),))],
        left_out=[ColumnUse(name, name, name)],
        coefficients=[
            make_coefficient(f"{name} = {name}"),
            make_coefficient(name),
            make_coefficient("age"),
        ],
    )
    rendered = Page(render(hostile))
    assert set(rendered.tags) == set(page.tags)
    assert {key for key, _ in rendered.attributes} == {key for key, _ in page.attributes}
    text = " ".join(name.split())
    assert text in " ".join(rendered.texts)
    short = text if len(text) <= 28 else text[:27] + "…"
    assert short in rendered.svg_texts or not name
    assert all(len(svg_text) <= len("fraction of ") + 28 for svg_text in rendered.svg_texts)


def test_page_for_many_rows_is_small() -> None:
    labels, probabilities, weights = make_rows(200_000)
    many = dataclasses.replace(
        make_report(labels, probabilities, weights), costs=np.linspace(1, 0, 100_000)
    )
    html = render(many)
    assert len(html.encode()) < 400_000
    for path in re.findall(r'<path d="([^"]*)"', html):
        assert len(re.findall("[ML]", path)) <= 1000  # two per point of a step line


def test_report_is_rendered_in_seconds(report: Report) -> None:
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
def test_extreme_values_are_plotted(
    labels: list[float], probabilities: list[float], iterations: int
) -> None:
    report = make_report(np.array(labels, float), np.array(probabilities), np.ones(len(labels)))
    extreme = dataclasses.replace(
        report,
        costs=np.full(iterations, 0.5),
        validation_costs=np.empty(0),
        coefficients=[
            make_coefficient("zero", 0.0, 0.0),
            make_coefficient("huge", 2000.0, 1e6),
            make_coefficient("endless", 1.0, np.inf),
            make_coefficient("unknown", -1e-9, None),
        ],
    )
    page = Page(render(extreme))
    assert page.tags.count("svg") == 5
    assert "nan" not in " ".join(page.texts)
    assert "validation" not in page.svg_texts


def test_importing_report_does_not_load_plotting_libraries() -> None:
    code = (
        "import sys, training.evaluation.report;"
        "print({'matplotlib', 'tensorflow', 'sklearn'} & sys.modules.keys())"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert process.stdout == "set()\n"


@pytest.mark.parametrize("name", ["count", "value", "literal", "index"])
def test_column_may_have_a_name_that_polars_uses(name: str) -> None:
    frame = pl.DataFrame({name: ["a", "b", "a", None]})
    (column,) = distributions((CategoricalColumn(name),), frame)
    assert (column.summary, column.missing) == ("a 67%, b 33%", 0.25)
