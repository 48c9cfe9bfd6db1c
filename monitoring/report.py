"""The quality report: one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

import jinja2

from monitoring.charts import draw_charts
from monitoring.metrics import METRICS, Estimate
from monitoring.quality import Quality

TEMPLATES = Path(__file__).parent / "templates"
ASSUMPTION = (
    "Estimates without labels are valid if only the inputs have shifted and the model is "
    "calibrated. They do not show a change in the relation between inputs and label."
)


def render(quality: Quality) -> str:
    """Return the report as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"estimate": format_estimate, "seconds": format_duration}
    charts = [draw_charts(arm, f"{i}") for i, arm in enumerate(quality.arms)]
    return environment.get_template("report.html").render(
        quality=quality,
        arms=list(zip(quality.arms, charts, strict=True)),
        metrics=METRICS,
        assumption=ASSUMPTION,
    )


def format_estimate(estimate: Estimate | None) -> str:
    """Format a metric with its interval."""
    if estimate is None or estimate.value != estimate.value:
        return "–"
    return f"{estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f})"


def format_duration(seconds: float) -> str:
    """Format seconds in the largest unit that fits."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
