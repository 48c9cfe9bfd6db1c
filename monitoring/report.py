"""The quality of a model in use, as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

import jinja2

from monitoring.metrics import METRICS, Estimate
from monitoring.pictures import pictures
from monitoring.quality import Quality

TEMPLATES = Path(__file__).parent / "templates"
ASSUMPTION = (
    "Estimated without labels: right if only the inputs have moved and the model is calibrated. "
    "It does not show a change in the relation between inputs and label."
)


def render(quality: Quality) -> str:
    """Return the page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"estimate": shown, "seconds": shown_seconds}
    drawn = [pictures(arm, f"{i}") for i, arm in enumerate(quality.arms)]
    return environment.get_template("report.html").render(
        quality=quality,
        arms=list(zip(quality.arms, drawn, strict=True)),
        metrics=METRICS,
        assumption=ASSUMPTION,
    )


def shown(one: Estimate | None) -> str:
    """Format a metric with its interval."""
    if one is None or one.value != one.value:
        return "–"
    return f"{one.value:.4f} ({one.low:.4f} to {one.high:.4f})"


def shown_seconds(seconds: float) -> str:
    """Format a length of time in its largest unit."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
