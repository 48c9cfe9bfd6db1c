"""The training report: one self-contained HTML page without scripts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from training.evaluation.metrics import Floats, Grouping, confusion_matrix
from training.evaluation.numbers import format_number
from training.evaluation.plots import (
    QUANTILE,
    draw_calibration,
    draw_costs,
    draw_precision_recall,
    draw_roc,
    draw_weights,
    rare_class,
    render_svg,
)
from training.publishing.manifest import Manifest, Verdict
from training.settings import FitSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from training.data.choose import ColumnUse
    from training.evaluation.distributions import Distribution

REPORT_FILE = "report.html"
TEMPLATES = Path(__file__).with_name("templates")
MAX_BARS = 25
# Beyond a factor of a million, the exact odds ratio is meaningless.
MAX_LOG_ODDS_RATIO = math.log(1e6)


@dataclass(frozen=True)
class Coefficient:
    """The weight of one feature.

    Attributes:
        column: name of the column that the feature is derived from.
        feature: name of the feature, such as "age", "age is missing" or "plan = basic".
        weight: weight of the scaled feature.
        standard_error: standard error of the weight; None if it is unknown.
        log_odds_ratio: change in the log-odds of class 1 per unit of the column, or for having the
            category.
    """

    column: str
    feature: str
    weight: float
    standard_error: float | None
    log_odds_ratio: float

    @property
    def odds_ratio(self) -> str:
        """The factor by which one more unit multiplies the odds of class 1."""
        return _format_odds_ratio(self.log_odds_ratio)

    @property
    def log_odds_ratio_interval(self) -> tuple[float, float] | None:
        """The 95% interval of the log odds ratio.

        None without a standard error, or if the weight is 0, which leaves the scale unknown.
        """
        if self.standard_error is None or self.weight == 0:
            return None
        center = self.log_odds_ratio
        margin = QUANTILE * self.standard_error * abs(center / self.weight)
        return center - margin, center + margin

    @property
    def odds_ratio_interval(self) -> str:
        """The 95% interval of the odds ratio."""
        interval = self.log_odds_ratio_interval
        return "–" if interval is None else " to ".join(map(_format_odds_ratio, interval))


@dataclass(frozen=True)
class Report:
    """The contents of a report, except the gate's verdict.

    Attributes:
        model: name of the model.
        label_name: name of the label column.
        class_names: names of class 0 and class 1.
        manifest: metrics, settings, rows and warnings.
        costs: `[iterations]`, J before each iteration.
        validation_costs: `[iterations]`, J of the validation rows; empty without them.
        coefficients: one for each feature.
        columns: the distribution of each column.
        left_out: columns that are not used, and why.
        labels: `[rows]`, classes of the held-out rows, 0 or 1, both present.
        probabilities: `[rows]`, predicted probabilities of class 1.
        sample_weights: `[rows]`, weights of the held-out rows.
    """

    model: str
    label_name: str
    class_names: tuple[str, str]
    manifest: Manifest
    costs: Floats
    validation_costs: Floats
    coefficients: Sequence[Coefficient]
    columns: Sequence[Distribution]
    left_out: Sequence[ColumnUse]
    labels: Floats
    probabilities: Floats
    sample_weights: Floats


def render(report: Report, verdict: Verdict) -> str:
    """Return the report's HTML page."""
    manifest = report.manifest
    scores = Grouping(report.labels, report.probabilities, report.sample_weights).scores()
    confusion = confusion_matrix(scores, manifest.threshold)
    step_name = (manifest.settings or FitSettings()).step_name
    coefficients = sorted(report.coefficients, key=lambda c: -abs(c.weight))
    largest = coefficients[:MAX_BARS]
    plots: dict[str, Callable[[Figure], None]] = {
        "cost": lambda figure: draw_costs(figure, report.costs, report.validation_costs, step_name),
        "roc": lambda figure: draw_roc(figure, scores, confusion),
        "precision_recall": lambda figure: draw_precision_recall(figure, scores, confusion),
        "calibration": lambda figure: draw_calibration(figure, scores, report.class_names),
        "weights": lambda figure: draw_weights(
            figure,
            [c.feature for c in largest],
            [c.weight for c in largest],
            [c.standard_error or 0.0 for c in largest],
        ),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        report=report,
        manifest=manifest,
        verdict=verdict,
        number=format_number,
        settings=_setting_texts(manifest),
        step_name=step_name,
        coefficients=coefficients,
        bars=MAX_BARS,
        rare=rare_class(scores),
        confusion=confusion.tolist(),
        shares=(confusion / confusion.sum(axis=1, keepdims=True)).tolist(),
        plots={name: render_svg(name, draw) for name, draw in plots.items()},
    )


def _setting_texts(manifest: Manifest) -> dict[str, str]:
    settings = asdict(manifest.settings) if manifest.settings else {}
    fit = manifest.fit
    entries = {
        **settings,
        "learning_rate": fit.learning_rate,
        "steps": fit.steps,
        "stopped": fit.ending,
        "cost": fit.cost,
        "largest derivative": fit.gradient,
        "source": manifest.data.source,
    }
    return {name.replace("_", " "): _format_setting(value) for name, value in entries.items()}


def _format_setting(value: object) -> str:
    if value is None:
        return "–"
    return format_number(value, 6) if isinstance(value, float) else str(value)


def _format_odds_ratio(log_ratio: float) -> str:
    if abs(log_ratio) > MAX_LOG_ODDS_RATIO:
        return "> 10⁶" if log_ratio > 0 else "< 10⁻⁶"
    # With fewer digits, the ratio for a small unit would be rounded to 1.
    return format_number(math.exp(log_ratio), 6 if abs(log_ratio) < 0.01 else 4)
