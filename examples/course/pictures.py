"""Pictures shared by the notebooks: axes, computation graphs, the cost over (w, b)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from cycler import cycler

BLUE, RED, GREEN, GREY = "#1565c0", "#c62828", "#2e7d32", "#757575"

Array = npt.NDArray[np.float64]
# A node's place, its text, and what belongs below it.
Node = tuple[float, float, str]


def use_style() -> None:
    """Set fonts, sizes and colours of all pictures."""
    plt.rcParams.update(
        {
            "figure.dpi": 90,
            "figure.constrained_layout.use": True,
            "axes.grid": True,
            "axes.prop_cycle": cycler(color=[BLUE, RED, GREEN, GREY]),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": "medium",
            "grid.alpha": 0.3,
            "legend.frameon": False,
            "lines.linewidth": 2,
        }
    )


def draw_graph(
    nodes: Mapping[str, Node],
    edges: Sequence[tuple[str, str, str]],
    values: Mapping[str, float],
    derivatives: Mapping[str, float],
    output: str,
) -> None:
    """Draw a computation graph: values forward in blue, derivatives backward in red.

    Args:
        nodes: place in inches and text of each node, by name; those at x = 0 are the inputs.
        edges: from, to, and the derivative of the second by the first, as text; empty if the
            derivative does not matter.
        values: what each node is, by name.
        derivatives: of the output by each node.
        output: the last node's name.
    """
    right = max(x for x, _, _ in nodes.values()) + 0.9
    top = max(y for _, y, _ in nodes.values()) + 0.5
    bottom = min(y for _, y, _ in nodes.values()) - 0.5
    figure, axes = plt.subplots(figsize=(right + 1.2, top - bottom))
    axes.set(xlim=(-1.2, right), ylim=(bottom, top), aspect="equal")
    axes.axis("off")
    boxes = {}
    for name, (x, y, text) in nodes.items():
        box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": GREY}
        boxes[name] = axes.text(x, y, text, ha="center", va="center", bbox=box, zorder=3)
        to_left, rise = ("right", 0.02) if x == 0 else ("center", 0.22)
        aside = x - 0.25 if x == 0 else x
        axes.text(aside, y + rise, f"{values[name]:.4g}", color=BLUE, ha=to_left, va="bottom")
        if name in derivatives:
            slope = f"d{output}/d{name} = {derivatives[name]:.4g}"
            style: dict[str, Any] = {"color": RED, "fontsize": "small", "va": "top"}
            axes.text(aside, y - rise, slope, ha=to_left, **style)
    figure.canvas.draw()  # places the boxes, between which the arrows go
    to_data = axes.transData.inverted()
    sides = {name: box.get_window_extent().transformed(to_data) for name, box in boxes.items()}
    for start, end, local in edges:
        from_side = (sides[start].x1 + 0.1, nodes[start][1])
        to_side = (sides[end].x0 - 0.1, nodes[end][1])
        _draw_edge(axes, from_side, to_side, local)
    plt.show()


def _draw_edge(axes: Any, start: tuple[float, float], end: tuple[float, float], local: str) -> None:
    arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops={**arrow, "color": BLUE}, zorder=1)
    if not local:
        return
    bend = -0.25
    dashed = {"color": RED, "linestyle": "--", "linewidth": 1}
    arc = {"connectionstyle": f"arc3,rad={bend}"}
    axes.annotate("", start, end, arrowprops={**arrow, **dashed, **arc}, zorder=1)
    # The arc's middle lies half as far aside as its control point.
    (x0, y0), (x1, y1) = start, end
    middle = ((x0 + x1 + bend * (y0 - y1)) / 2, (y0 + y1 - bend * (x0 - x1)) / 2)
    white = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    style = {"color": RED, "fontsize": "small", "ha": "center", "va": "center"}
    axes.text(*middle, local, **style, bbox=white, zorder=2)


def cost_grid(cost: Any, w: Array, b: Array) -> Array:
    """Return J at each pair of a w and a b, `[len(b), len(w)]`; `cost` takes θ = (w, b)."""
    return np.array([[cost(np.array([one_w, one_b])) for one_w in w] for one_b in b])


def draw_surface(w: Array, b: Array, grid: Array, path: Array, costs: Array) -> None:
    """Draw J(w, b) as a surface, with a path `[steps, 2]` on it."""
    axes = plt.figure(figsize=(6.5, 5)).add_subplot(projection="3d", computed_zorder=False)
    axes.plot_surface(*np.meshgrid(w, b), grid, cmap="viridis", alpha=0.75, linewidth=0)
    axes.plot(*path.T, costs, color=RED, marker="o", markersize=3, zorder=5)
    axes.scatter(*path[-1], costs[-1], color="white", edgecolor=RED, s=60, zorder=6)
    axes.set(xlabel="w", ylabel="b")
    axes.set_zlabel("J(w, b)")
    axes.view_init(elev=32, azim=-55)
    plt.show()


def draw_paths(w: Array, b: Array, grid: Array, paths: Mapping[str, Array]) -> None:
    """Draw J(w, b) as contours, once for each path `[steps, 2]`."""
    size = (4 * len(paths), 3.8)
    _, several = plt.subplots(1, len(paths), figsize=size, sharey=True)
    for axes, (title, path) in zip(several, paths.items(), strict=True):
        levels = np.geomspace(grid.min() * 1.01, grid.max(), 12)
        axes.contour(w, b, grid, levels=levels, colors=GREY, linewidths=0.6)
        axes.plot(*path.T, color=RED, marker="o", markersize=3, linewidth=1.2)
        axes.plot(*path[0], marker="s", color=RED)
        axes.set(title=title, xlabel="w", xlim=w[[0, -1]], ylim=b[[0, -1]])
        axes.grid(visible=False)
    several[0].set_ylabel("b")
    plt.show()
