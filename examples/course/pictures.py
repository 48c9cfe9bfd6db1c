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
# A node's x and y, and its text.
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
        nodes: position in inches and text of each node, by name; those at x = 0 are the inputs.
        edges: start, end, and the text of the end's derivative with respect to the start, which
            may be empty.
        values: value of each node, by name.
        derivatives: derivative of the output with respect to each node, by name.
        output: name of the last node.
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
        alignment, gap = ("right", 0.02) if x == 0 else ("center", 0.22)
        text_x = x - 0.25 if x == 0 else x
        axes.text(text_x, y + gap, f"{values[name]:.4g}", color=BLUE, ha=alignment, va="bottom")
        if name in derivatives:
            slope = f"d{output}/d{name} = {derivatives[name]:.4g}"
            style: dict[str, Any] = {"color": RED, "fontsize": "small", "va": "top"}
            axes.text(text_x, y - gap, slope, ha=alignment, **style)
    figure.canvas.draw()  # determines the sizes of the boxes
    to_data = axes.transData.inverted()
    extents = {name: box.get_window_extent().transformed(to_data) for name, box in boxes.items()}
    for start, end, local in edges:
        from_point = (extents[start].x1 + 0.1, nodes[start][1])
        to_point = (extents[end].x0 - 0.1, nodes[end][1])
        _draw_edge(axes, from_point, to_point, local)
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
    # The arc's middle is half as far from the straight line as its control point.
    (x0, y0), (x1, y1) = start, end
    middle = ((x0 + x1 + bend * (y0 - y1)) / 2, (y0 + y1 - bend * (x0 - x1)) / 2)
    white = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    style = {"color": RED, "fontsize": "small", "ha": "center", "va": "center"}
    axes.text(*middle, local, **style, bbox=white, zorder=2)


def cost_grid(cost: Any, w: Array, b: Array) -> Array:
    """Return J for each w and b, `[len(b), len(w)]`; `cost` takes θ = (w, b)."""
    return np.array([[cost(np.array([w_i, b_i])) for w_i in w] for b_i in b])


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
    _, subplots = plt.subplots(1, len(paths), figsize=size, sharey=True)
    for axes, (title, path) in zip(subplots, paths.items(), strict=True):
        levels = np.geomspace(grid.min() * 1.01, grid.max(), 12)
        axes.contour(w, b, grid, levels=levels, colors=GREY, linewidths=0.6)
        axes.plot(*path.T, color=RED, marker="o", markersize=3, linewidth=1.2)
        axes.plot(*path[0], marker="s", color=RED)
        axes.set(title=title, xlabel="w", xlim=w[[0, -1]], ylim=b[[0, -1]])
        axes.grid(visible=False)
    subplots[0].set_ylabel("b")
    plt.show()
