"""The pictures of the report, drawn as SVG for one HTML page.

Text stays text, shown in the reader's own fonts, and colours are the page's, so that both follow
dark mode.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from training.evaluation.metrics import Floats, Scores, calibration, flipped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_POINTS = 500
MAX_NAME = 28
# With more iterations the first ones would be squeezed to the left edge.
MANY_ITERATIONS = 50
# A class is rare below this share: on a linear axis its calibration would be one point at 0.
RARE = 0.05
# The normal distribution's 97.5 % quantile: 95 % lie within this many standard errors.
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


def picture(name: str, draw: Callable[[Figure], None]) -> Markup:
    """Return what `draw` draws as SVG for a page."""
    # Imported late because it is slow. Not pyplot, which keeps figures and may open windows.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    file = io.StringIO()
    # The salt makes ids reproducible and unique to the picture.
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # A glyph missing in matplotlib's fonts affects only the layout: browsers have other fonts.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure = Figure(figsize=(4.2, 3.0), layout="constrained")
        draw(figure)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    # HTML needs no namespaces, and the groups' ids would not be unique.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"|(?<=<g) id="[^"]*"', "", svg)
    for color, variable in VARIABLES.items():
        svg = re.sub(rf"(fill|stroke): {color}", rf"\1: var(--{variable})", svg)
    return Markup(svg)


def draw_costs(figure: Figure, training: Floats, validation: Floats) -> None:
    """Draw the cost of each iteration."""
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


def draw_roc(figure: Figure, scores: Scores, counts: Floats) -> None:
    """Draw the ROC curve and the threshold's point on it."""
    axes = figure.add_subplot()
    fallout = np.append(0.0, np.cumsum(scores.negatives)) / scores.negatives.sum()
    recall = np.append(0.0, np.cumsum(scores.positives)) / scores.positives.sum()
    kept = _thinned(fallout, recall)
    axes.plot([0, 1], [0, 1], "--", color=SOFT, lw=1)
    axes.plot(fallout[kept], recall[kept], color=ACCENT)
    axes.plot(*counts[:, 1] / counts.sum(axis=1), "o", color=SECOND, label="threshold")
    axes.set(xlabel="false positive rate", ylabel="recall (true positive rate)")
    axes.legend(loc="lower right")


def draw_precision(figure: Figure, scores: Scores, counts: Floats) -> None:
    """Draw the precision-recall curve and the threshold's point on it."""
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


def rare_class(scores: Scores) -> int | None:
    """Return the class that is rare; None if neither is."""
    positives, negatives = scores.positives.sum(), scores.negatives.sum()
    share = positives / (positives + negatives)
    return 1 if share < RARE else 0 if share > 1 - RARE else None


def draw_calibration(figure: Figure, scores: Scores, class_names: Sequence[str]) -> None:
    """Draw predicted against observed shares, for a rare class on logarithmic axes."""
    axes = figure.add_subplot()
    rare = rare_class(scores)
    drawn = flipped(scores) if rare == 0 else scores
    predicted, observed, _ = calibration(drawn, of_positives=rare is not None)
    ends = np.array([0.0, 1.0])
    if rare is not None:
        kept = (predicted > 0) & (observed > 0)
        predicted, observed = predicted[kept], observed[kept]
        both = np.append(predicted, observed)
        if len(both):
            ends = np.array([both.min() / 2, min(1.0, both.max() * 2)])
            axes.set(xscale="log", yscale="log")
            for axis in (axes.xaxis, axes.yaxis):  # the usual labels are formulas
                axis.set_major_formatter(lambda value, _: f"{value:g}")
                axis.set_minor_formatter(lambda value, _: "")
    axes.plot(ends, ends, "--", color=SOFT, lw=1)
    axes.plot(predicted, observed, "o-", color=ACCENT)
    name = _shortened(class_names[0 if rare == 0 else 1])
    axes.set(xlabel="mean predicted probability", ylabel=f"share of {name}")


def draw_weights(
    figure: Figure, features: Sequence[str], weights: Sequence[float], errors: Sequence[float]
) -> None:
    """Draw weights with 1.96 standard errors to each side."""
    figure.set_figheight(0.7 + 0.2 * len(features))
    axes = figure.add_subplot()
    places = np.arange(len(features))
    margins = [QUANTILE * error for error in errors]
    axes.axvline(0, color=SOFT, lw=1)
    axes.errorbar(weights, places, xerr=margins, fmt="o", ms=4, color=ACCENT, elinewidth=1.2)
    axes.set_yticks(places, [_shortened(name) for name in features])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set(xlabel="weight of the scaled feature", ylim=(len(features) - 0.5, -0.5))


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
