"""The picture of benchmarks/gateway.py: throughput and tail latency by connections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.measurements import ONE_ROW, Median, Results
from benchmarks.peer_table import OURS

COLORS = ("#888888", "#4e79a7", "#76b7b2", "#b07aa1", "#e0a030", "#59a14f")
ACCENT = "#d1495b"


def draw(results: Results, names: Sequence[str], path: Path) -> None:
    """Draw a line for each peer that has every measurement."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    measured = [name for name in names if all(results.median(name, w) for w in ONE_ROW)]
    with mpl.rc_context({"svg.hashsalt": "gateway", "font.size": 9}):
        figure = Figure(figsize=(8.5, 3.6), layout="constrained")
        rates, tails = figure.subplots(1, 2)
        others = iter(COLORS)
        for name in measured:
            color = ACCENT if name == OURS.name else next(others)
            width = 2.5 if name == OURS.name else 1.5
            medians = [_median(results, name, w.connections) for w in ONE_ROW]
            connections = [w.connections for w in ONE_ROW]
            style = {"color": color, "lw": width, "marker": "o", "ms": 4, "label": name}
            rates.plot(connections, [median.rate for median in medians], **style)
            tails.plot(connections, [median.p99 * 1e3 for median in medians], **style)
        for axes, title in (
            (rates, "requests/s, one row each (higher is better)"),
            (tails, "99th percentile of the latency in ms (lower is better)"),
        ):
            axes.set(xscale="log", yscale="log", xlabel="connections", title=title)
            axes.set_xticks([w.connections for w in ONE_ROW], minor=False)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.minorticks_off()
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(lambda value, _: f"{value:,g}")
            axes.grid(alpha=0.3)
            axes.title.set_fontsize(10)
        figure.legend(*rates.get_legend_handles_labels(), loc="outside right center", frameon=False)
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(path, metadata=no_metadata)


def _median(results: Results, name: str, connections: int) -> Median:
    workload = next(w for w in ONE_ROW if w.connections == connections)
    median = results.median(name, workload)
    assert median is not None
    return median
