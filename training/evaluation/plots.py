"""The plots of the report, as SVG for one HTML page.

Text stays text in the reader's fonts, and colours are CSS variables of the page, so plots follow
dark mode.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from training.evaluation.metrics import Floats, Scores, calibration_curve, swap_classes
from training.evaluation.numbers import format_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_POINTS = 500
MAX_NAME_LENGTH = 28
# Above this, the axis is logarithmic: a linear one would squeeze the early iterations.
MAX_LINEAR_ITERATIONS = 50
# A class is rare below this fraction: on a linear axis its calibration would be one point at 0.
RARE_FRACTION = 0.05
# The normal distribution's 97.5% quantile: 95% lie within this many standard errors.
QUANTILE = 1.96

# Colours of the page's light theme, to be replaced by the page's variables.
INK, SOFT, LINE, HIGH, LOW = "#17202b", "#55606e", "#d3d9e1", "#2350c0", "#b4530a"
VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", HIGH: "high", LOW: "low"}
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


def render_svg(name: str, draw: Callable[[Figure], None]) -> Markup:
    """Return the figure that `draw` fills as SVG for a page."""
    # Imported late because it is slow. Not pyplot, which keeps figures and may open windows.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    file = io.StringIO()
    # The salt makes ids reproducible and unique to the plot.
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # A glyph missing in matplotlib's fonts affects only the layout: browsers have other fonts.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure = Figure(figsize=(4.2, 3.0), layout="constrained")
        draw(figure)
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    # HTML needs no namespaces, and the groups' ids would not be unique.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"|(?<=<g) id="[^"]*"', "", svg)
    for color, variable in VARIABLES.items():
        svg = re.sub(rf"(fill|stroke): {color}", rf"\1: var(--{variable})", svg)
    return Markup(svg)


def draw_costs(figure: Figure, training: Floats, validation: Floats, step_name: str) -> None:
    """Draw the cost before each step."""
    axes = figure.add_subplot()
    is_logarithmic = len(training) > MAX_LINEAR_ITERATIONS
    for name, costs, color in ("training", training, HIGH), ("validation", validation, LOW):
        iterations = np.arange(1.0, len(costs) + 1)
        points = _thin(np.log(iterations) if is_logarithmic else iterations, costs)
        style = "-" if is_logarithmic else ".-"
        axes.plot(iterations[points], costs[points], style, color=color, label=name)
    axes.set(xlabel=f"before {step_name}", ylabel="cost J")
    bottom, top = axes.get_ylim()
    digits = 4 + max(0, math.ceil(math.log10(top / (top - bottom))))
    axes.yaxis.set_major_formatter(lambda value, _: format_number(value, digits))
    if is_logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    else:
        axes.set_xlim(0.5, len(training) + 0.5)
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    if len(validation):
        axes.legend()


def draw_roc(figure: Figure, scores: Scores, confusion: Floats) -> None:
    """Draw the ROC curve and mark the threshold on it."""
    axes = figure.add_subplot()
    false_positive_rate = np.append(0.0, np.cumsum(scores.negatives)) / scores.negatives.sum()
    recall = np.append(0.0, np.cumsum(scores.positives)) / scores.positives.sum()
    points = _thin(false_positive_rate, recall)
    axes.plot([0, 1], [0, 1], "--", color=SOFT, lw=1)
    axes.plot(false_positive_rate[points], recall[points], color=HIGH)
    axes.plot(*confusion[:, 1] / confusion.sum(axis=1), "o", color=LOW, label="threshold")
    axes.set(xlabel="false positive rate", ylabel="recall (true positive rate)")
    axes.legend(loc="lower right")


def draw_precision_recall(figure: Figure, scores: Scores, confusion: Floats) -> None:
    """Draw the precision-recall curve and mark the threshold on it."""
    axes = figure.add_subplot()
    true_positives = np.cumsum(scores.positives)
    predicted = true_positives + np.cumsum(scores.negatives)
    has_rows = predicted > 0
    recall = np.append(0.0, (true_positives / true_positives[-1])[has_rows])
    precision = true_positives[has_rows] / predicted[has_rows]
    precision = np.append(precision[0], precision)
    points = _thin(recall, precision)
    axes.axhline(precision[-1], ls="--", color=SOFT, lw=1)
    axes.plot(recall[points], precision[points], color=HIGH, drawstyle="steps-pre")
    if confusion[:, 1].any():
        operating_point = confusion[1, 1] / [confusion[1].sum(), confusion[:, 1].sum()]
        axes.plot(*operating_point, "o", color=LOW, label="threshold")
        axes.legend(loc="lower left")
    axes.set(xlabel="recall", ylabel="precision", ylim=(-0.05, 1.05))


def rare_class(scores: Scores) -> int | None:
    """Return the rare class; None if neither is rare."""
    positives, negatives = scores.positives.sum(), scores.negatives.sum()
    fraction = positives / (positives + negatives)
    return 1 if fraction < RARE_FRACTION else 0 if fraction > 1 - RARE_FRACTION else None


def draw_calibration(figure: Figure, scores: Scores, class_names: Sequence[str]) -> None:
    """Draw the calibration curve, on logarithmic axes for a rare class."""
    axes = figure.add_subplot()
    rare = rare_class(scores)
    if rare == 0:
        scores = swap_classes(scores)
    predicted, observed, _ = calibration_curve(scores, by_positives=rare is not None)
    ends = np.array([0.0, 1.0])
    if rare is not None:
        is_positive = (predicted > 0) & (observed > 0)
        predicted, observed = predicted[is_positive], observed[is_positive]
        coordinates = np.append(predicted, observed)
        if len(coordinates):
            ends = np.array([coordinates.min() / 2, min(1.0, coordinates.max() * 2)])
            axes.set(xscale="log", yscale="log")
            for axis in (axes.xaxis, axes.yaxis):  # the default labels need mathtext, which is off
                axis.set_major_formatter(lambda value, _: f"{value:g}")
                axis.set_minor_formatter(lambda value, _: "")
    axes.plot(ends, ends, "--", color=SOFT, lw=1)
    axes.plot(predicted, observed, "o-", color=HIGH)
    name = _shorten(class_names[0 if rare == 0 else 1])
    axes.set(xlabel="mean predicted probability", ylabel=f"fraction of {name}")


def draw_weights(
    figure: Figure, features: Sequence[str], weights: Sequence[float], errors: Sequence[float]
) -> None:
    """Draw weights with 1.96 standard errors to each side."""
    figure.set_figheight(0.7 + 0.2 * len(features))
    axes = figure.add_subplot()
    positions = np.arange(len(features))
    margins = [QUANTILE * error for error in errors]
    axes.axvline(0, color=SOFT, lw=1)
    axes.errorbar(weights, positions, xerr=margins, fmt="o", ms=4, color=HIGH, elinewidth=1.2)
    axes.set_yticks(positions, [_shorten(name) for name in features])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.xaxis.set_major_formatter(lambda value, _: format_number(value))
    axes.set(xlabel="weight of the scaled feature", ylim=(len(features) - 0.5, -0.5))


def _thin(x: Floats, y: Floats) -> npt.NDArray[np.int64]:
    """Return the indices of at most `MAX_POINTS` points of a curve, evenly spaced along it."""
    if len(x) <= MAX_POINTS:
        return np.arange(len(x))
    steps = np.abs(np.diff(x)) / (np.ptp(x) or 1) + np.abs(np.diff(y)) / (np.ptp(y) or 1)
    distance = np.append(0.0, np.cumsum(steps))
    indices = np.searchsorted(distance, np.linspace(0, distance[-1], MAX_POINTS - 1))
    return np.unique(np.append(indices[:-1], [0, len(x) - 1]))


def _shorten(name: str) -> str:
    line = " ".join(name.split())
    return line if len(line) <= MAX_NAME_LENGTH else f"{line[: MAX_NAME_LENGTH - 1]}…"
