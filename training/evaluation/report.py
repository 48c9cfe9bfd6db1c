"""The report on a model: one HTML page for people, which needs nothing else.

The pictures are drawn as SVG and put into the page. Their texts stay texts, so that the reader's
own fonts show them, and their colours become those of the page, so that both follow dark mode.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from training.evaluation.metrics import Floats, Grouping, Scores, calibration, confusion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).with_name("templates")
MAX_POINTS = 500
MAX_BARS = 25
MAX_NAME = 28
# Beyond so many iterations the first ones would be squeezed to the left edge.
MANY_ITERATIONS = 50
# The normal distribution's 97.5 % quantile: 95 % lie within so many standard errors.
QUANTILE = 1.96

INK, SOFT, LINE, ACCENT, SECOND = "#1d2733", "#5b6877", "#d5dce4", "#1f5fbf", "#b3541e"
VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", ACCENT: "accent", SECOND: "second"}
STYLE: dict[Any, Any] = {
    "axes.edgecolor": LINE,
    "axes.grid": True,
    "axes.labelcolor": SOFT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # names may contain $
    "xtick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.color": LINE,
    "ytick.labelcolor": SOFT,
}


@dataclass(frozen=True)
class Coefficient:
    """The weight of one feature.

    Attributes:
        column: the name of the column that the feature is made of.
        feature: what the feature stands for, such as "age", "age is missing" or "plan = basic".
        weight: per unit of the scaled feature.
        standard_error: of the weight, if it is known.
        odds_ratio: by what factor one unit more multiplies the odds of class 1: of a numeric
            column, in its own unit; of a category, having it.
    """

    column: str
    feature: str
    weight: float
    standard_error: float | None
    odds_ratio: float

    @property
    def odds_ratio_interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the odds ratio, exp(log odds ratio ± 1.96 standard errors).

        None if no standard error is known, or if the weight is 0 and so does not tell the scale.
        """
        if self.standard_error is None or self.weight == 0:
            return None
        center = np.log(self.odds_ratio)
        margin = QUANTILE * self.standard_error * abs(center / self.weight)
        low, high = np.exp(np.clip([center - margin, center + margin], -700, 700)).tolist()
        return low, high


@dataclass(frozen=True)
class Report:
    """What there is to tell about a model.

    Attributes:
        model: its name.
        trained_at: when, for people to read.
        class_names: of class 0 and of class 1.
        rows: how many rows served what.
        settings: of the fit.
        metrics: on the rows held out, by name.
        intervals: of the same metrics, 95 %.
        threshold: rows whose probability is at or above it are called class 1.
        threshold_rule: what it was chosen by.
        costs: `[iterations]`, J before each iteration.
        validation_costs: `[iterations]`, the same of the validation rows; empty without them.
        coefficients: one for each feature.
        labels: `[rows]` of the rows held out, 0 or 1, both present.
        probabilities: `[rows]`, of class 1.
        sample_weights: `[rows]`.
    """

    model: str
    trained_at: str
    class_names: tuple[str, str]
    rows: Mapping[str, int]
    settings: Mapping[str, object]
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    threshold: float
    threshold_rule: str
    costs: Floats
    validation_costs: Floats
    coefficients: Sequence[Coefficient]
    labels: Floats
    probabilities: Floats
    sample_weights: Floats


def render(report: Report) -> str:
    """Return the page: HTML without scripts, and without anything to load from elsewhere."""
    scores = Grouping(report.labels, report.probabilities, report.sample_weights).scores()
    counts = confusion(scores, report.threshold)
    largest_first = sorted(report.coefficients, key=lambda c: -abs(c.weight))
    drawings: dict[str, Callable[[Figure], None]] = {
        "cost": lambda figure: _draw_costs(figure, report.costs, report.validation_costs),
        "roc": lambda figure: _draw_roc(figure, scores, counts),
        "precision_recall": lambda figure: _draw_precision(figure, scores, counts),
        "calibration": lambda figure: _draw_calibration(figure, scores),
        "weights": lambda figure: _draw_weights(figure, largest_first[:MAX_BARS]),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html").render(
        report=report,
        coefficients=largest_first,
        bars=MAX_BARS,
        confusion=counts.tolist(),
        shares=(counts / counts.sum(axis=1, keepdims=True)).tolist(),
        pictures={name: _picture(name, draw) for name, draw in drawings.items()},
    )


def _picture(name: str, draw: Callable[[Figure], None]) -> Markup:
    """Return what `draw` draws, as SVG to put into a page."""
    # Slow to import, and only rendering needs it. Not pyplot, which keeps figures and has windows.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    file = io.StringIO()
    # The salt makes ids that are the same each time, and no other picture's.
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # That its fonts lack a glyph matters only to how it measures: the browser has others.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure = Figure(figsize=(4.2, 3.0), layout="constrained")
        draw(figure)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    # Inside HTML no namespaces are declared, and the groups' ids would not be unique.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"|(?<=<g) id="[^"]*"', "", svg)
    for color, variable in VARIABLES.items():
        svg = re.sub(rf"(fill|stroke): {color}", rf"\1: var(--{variable})", svg)
    return Markup(svg)


def _draw_costs(figure: Figure, training: Floats, validation: Floats) -> None:
    axes = figure.add_subplot()
    logarithmic = len(training) > MANY_ITERATIONS
    for name, costs, color in ("training", training, ACCENT), ("validation", validation, SECOND):
        iterations = np.arange(1.0, len(costs) + 1)
        kept = _thinned(np.log(iterations) if logarithmic else iterations, costs)
        style = "-" if logarithmic else ".-"
        axes.plot(iterations[kept], costs[kept], style, color=color, label=name)
    axes.set(xlabel="before iteration", ylabel="cost J")
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    else:
        axes.set_xlim(0.5, len(training) + 0.5)
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    if len(validation):
        axes.legend()


def _draw_roc(figure: Figure, scores: Scores, counts: Floats) -> None:
    axes = figure.add_subplot()
    fallout = np.append(0.0, np.cumsum(scores.negatives)) / scores.negatives.sum()
    recall = np.append(0.0, np.cumsum(scores.positives)) / scores.positives.sum()
    kept = _thinned(fallout, recall)
    axes.plot([0, 1], [0, 1], "--", color=SOFT, lw=1)
    axes.plot(fallout[kept], recall[kept], color=ACCENT)
    axes.plot(*counts[:, 1] / counts.sum(axis=1), "o", color=SECOND, label="threshold")
    axes.set(xlabel="false positive rate", ylabel="recall (true positive rate)")
    axes.legend(loc="lower right")


def _draw_precision(figure: Figure, scores: Scores, counts: Floats) -> None:
    axes = figure.add_subplot()
    hits = np.cumsum(scores.positives)
    called = hits + np.cumsum(scores.negatives)
    recall, precision = (hits / hits[-1])[called > 0], hits[called > 0] / called[called > 0]
    recall, precision = np.append(0.0, recall), np.append(precision[0], precision)
    kept = _thinned(recall, precision)
    axes.axhline(precision[-1], ls="--", color=SOFT, lw=1)
    axes.plot(recall[kept], precision[kept], color=ACCENT, drawstyle="steps-pre")
    if counts[:, 1].any():
        here = counts[1, 1] / counts[1].sum(), counts[1, 1] / counts[:, 1].sum()
        axes.plot(*here, "o", color=SECOND, label="threshold")
        axes.legend(loc="lower left")
    axes.set(xlabel="recall", ylabel="precision", ylim=(-0.05, 1.05))


def _draw_calibration(figure: Figure, scores: Scores) -> None:
    axes = figure.add_subplot()
    predicted, observed, _ = calibration(scores)
    axes.plot([0, 1], [0, 1], "--", color=SOFT, lw=1)
    axes.plot(predicted, observed, "o-", color=ACCENT)
    axes.set(xlabel="mean predicted probability", ylabel="share of class 1")


def _draw_weights(figure: Figure, coefficients: Sequence[Coefficient]) -> None:
    figure.set_figheight(0.7 + 0.2 * len(coefficients))
    axes = figure.add_subplot()
    places = np.arange(len(coefficients))
    weights = [c.weight for c in coefficients]
    margins = [QUANTILE * (c.standard_error or 0.0) for c in coefficients]
    axes.axvline(0, color=SOFT, lw=1)
    axes.errorbar(weights, places, xerr=margins, fmt="o", ms=4, color=ACCENT, elinewidth=1.2)
    axes.set_yticks(places, [_shortened(c.feature) for c in coefficients])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set(xlabel="weight of the scaled feature", ylim=(len(coefficients) - 0.5, -0.5))


def _thinned(x: Floats, y: Floats) -> npt.NDArray[np.int64]:
    """Return the indices of at most 500 points of a curve, at even distances along it."""
    if len(x) <= MAX_POINTS:
        return np.arange(len(x))
    steps = np.abs(np.diff(x)) / (np.ptp(x) or 1) + np.abs(np.diff(y)) / (np.ptp(y) or 1)
    way = np.append(0.0, np.cumsum(steps))
    kept = np.searchsorted(way, np.linspace(0, way[-1], MAX_POINTS - 1))
    return np.unique(np.append(kept[:-1], [0, len(x) - 1]))


def _shortened(name: str) -> str:
    line = " ".join(name.split())
    return line if len(line) <= MAX_NAME else f"{line[: MAX_NAME - 1]}…"
