"""Charts of the report, as SVG in the colours and font of the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from monitoring.quality import ArmQuality

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, SOFT, LINE, ACCENT = "#1d2733", "#5b6877", "#d5dce4", "#1f5fbf"
CSS_VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", ACCENT: "accent"}
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
    "text.parse_math": False,
    "xtick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.color": LINE,
    "ytick.labelcolor": SOFT,
}


def draw_charts(arm: ArmQuality, name: str) -> dict[str, Markup]:
    """Return the charts of an arm by title.

    Args:
        arm: quality of a version in an arm.
        name: prefix that makes ids unique in the page.
    """
    charts = {"Rows by day": lambda figure: _draw_days(figure, arm)}
    if arm.labelled_rows is not None:
        charts["Calibration"] = lambda figure: _draw_calibration(figure, arm)
        if len(set(arm.labelled_rows.labels)) == 2:
            charts["ROC curve"] = lambda figure: _draw_roc(figure, arm)
    return {title: _render(f"{name} {title}", draw) for title, draw in charts.items()}


def _render(name: str, draw: Callable[[Figure], None]) -> Markup:
    # The import is slow. pyplot would keep figures alive and may open windows.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    file = io.StringIO()
    # The salt makes ids reproducible and unique to the chart.
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(4.2, 3.0), layout="constrained")
        draw(figure)
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    # HTML needs no namespaces, and ids of groups are not unique in the page.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"|(?<=<g) id="[^"]*"', "", svg)
    for color, variable in CSS_VARIABLES.items():
        svg = re.sub(rf"(fill|stroke): {color}", rf"\1: var(--{variable})", svg)
    return Markup(svg)


def _draw_days(figure: Figure, arm: ArmQuality) -> None:
    axes = figure.add_subplot()
    days = [day[5:] for day, _, _ in arm.rows_by_day]
    positions = range(len(days))  # days of different years may have the same label
    logged, labelled = ([day[i] for day in arm.rows_by_day] for i in (1, 2))
    axes.bar(positions, logged, color=LINE, label="logged")
    axes.bar(positions, labelled, color=ACCENT, label="labelled")
    axes.set(xlabel="day", ylabel="rows")
    step = max(1, len(days) // 6)
    axes.set_xticks(positions[::step], days[::step])
    axes.legend()


def _draw_calibration(figure: Figure, arm: ArmQuality) -> None:
    assert arm.labelled_rows is not None
    axes = figure.add_subplot()
    predicted, observed, _ = arm.labelled_rows.calibration()
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle="--")
    axes.plot(predicted, observed, ".-", color=ACCENT)
    axes.set(
        xlabel="mean predicted probability", ylabel="observed frequency", xlim=(0, 1), ylim=(0, 1)
    )


def _draw_roc(figure: Figure, arm: ArmQuality) -> None:
    assert arm.labelled_rows is not None
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle="--")
    axes.plot(*arm.labelled_rows.roc(), color=ACCENT)
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
