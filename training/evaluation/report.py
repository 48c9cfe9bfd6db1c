"""The training report: one self-contained HTML page without scripts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from training.evaluation.metrics import Floats, Grouping, confusion
from training.evaluation.numbers import number_text
from training.evaluation.pictures import (
    QUANTILE,
    draw_calibration,
    draw_costs,
    draw_precision,
    draw_roc,
    draw_weights,
    picture,
    rare_class,
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
# Beyond a factor of a million the exact odds ratio is meaningless.
MAX_LOG_ODDS_RATIO = math.log(1e6)


@dataclass(frozen=True)
class Coefficient:
    """The weight of one feature.

    Attributes:
        column: name of the column that the feature is made of.
        feature: name of the feature, such as "age", "age is missing" or "plan = basic".
        weight: weight of the scaled feature.
        standard_error: standard error of the weight; None if it is unknown.
        log_odds_ratio: change of the log-odds of class 1 per unit of the column, or between having
            the category and not.
    """

    column: str
    feature: str
    weight: float
    standard_error: float | None
    log_odds_ratio: float

    @property
    def odds_ratio(self) -> str:
        """The factor by which one unit more multiplies the odds of class 1."""
        return _odds_ratio(self.log_odds_ratio)

    @property
    def log_odds_ratio_interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the log odds ratio.

        None if no standard error is known, or if the weight is 0, so that the scale is unknown.
        """
        if self.standard_error is None or self.weight == 0:
            return None
        center = self.log_odds_ratio
        margin = QUANTILE * self.standard_error * abs(center / self.weight)
        return center - margin, center + margin

    @property
    def odds_ratio_interval(self) -> str:
        """The 95 % interval of the odds ratio."""
        interval = self.log_odds_ratio_interval
        return "–" if interval is None else " to ".join(map(_odds_ratio, interval))


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
    counts = confusion(scores, manifest.threshold)
    step_name = (manifest.settings or FitSettings()).step_name
    largest_first = sorted(report.coefficients, key=lambda c: -abs(c.weight))
    shown = largest_first[:MAX_BARS]
    drawings: dict[str, Callable[[Figure], None]] = {
        "cost": lambda figure: draw_costs(figure, report.costs, report.validation_costs, step_name),
        "roc": lambda figure: draw_roc(figure, scores, counts),
        "precision_recall": lambda figure: draw_precision(figure, scores, counts),
        "calibration": lambda figure: draw_calibration(figure, scores, report.class_names),
        "weights": lambda figure: draw_weights(
            figure,
            [c.feature for c in shown],
            [c.weight for c in shown],
            [c.standard_error or 0.0 for c in shown],
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
        number=number_text,
        settings=_settings(manifest),
        step_name=step_name,
        coefficients=largest_first,
        bars=MAX_BARS,
        rare=rare_class(scores),
        confusion=counts.tolist(),
        shares=(counts / counts.sum(axis=1, keepdims=True)).tolist(),
        pictures={name: picture(name, draw) for name, draw in drawings.items()},
    )


def _settings(manifest: Manifest) -> dict[str, str]:
    settings = asdict(manifest.settings) if manifest.settings else {}
    fit = manifest.fit
    shown = {
        **settings,
        "learning_rate": fit.learning_rate,
        "steps": fit.steps,
        "stopped": fit.ending,
        "cost": fit.cost,
        "largest derivative": fit.gradient,
        "source": manifest.data.source,
    }
    return {name.replace("_", " "): _setting_text(value) for name, value in shown.items()}


def _setting_text(value: object) -> str:
    if value is None:
        return "–"
    return number_text(value, 6) if isinstance(value, float) else str(value)


def _odds_ratio(log_ratio: float) -> str:
    if abs(log_ratio) > MAX_LOG_ODDS_RATIO:
        return "> 10⁶" if log_ratio > 0 else "< 10⁻⁶"
    # With fewer digits the ratio for a small unit would be rounded to 1.
    return number_text(math.exp(log_ratio), 6 if abs(log_ratio) < 0.01 else 4)
