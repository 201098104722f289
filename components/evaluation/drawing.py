"""How pictures look: the canvas, its colours, lines, names, and the picture as bytes.

Colours are told apart with any colour vision (Okabe, Ito 2008) and never carry a meaning alone. matplotlib is
imported inside the functions, so that it does not slow the start of a training, and used through its objects, so
that figures can be drawn beside a training in another thread.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, DIAGONAL, PAPER = "#1b2733", "#5b6b7a", "#e3e8ed", "#7d8a97", "#ffffff"
SITE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
SITE_STYLES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), "-", (0, (3, 1)))
MODEL_MARKS = (("#cc79a7", "s"), ("#0072b2", "o"), ("#009e73", "D"), ("#e69f00", "^"))
DPI = 144


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty figure of that size in inches, and its axes in house style."""
    from matplotlib.figure import Figure  # slow to import, not needed before a figure is drawn

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER, layout="constrained")
    axes = figure.add_subplot()
    plain_axes(axes)
    return figure, axes


def plain_axes(axes: Axes) -> None:
    """Take away what is not data."""
    axes.set_facecolor(PAPER)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#aab4be")
    axes.tick_params(colors=MUTED, labelsize=9.5, length=3)


def titles(axes: Axes, title: str, across: str, up: str) -> None:
    """Write the title and the axes' names."""
    axes.set_title(title, loc="left", fontsize=12.5, fontweight="bold", color=INK, pad=10)
    axes.set_xlabel(across, fontsize=10.5, color=INK)
    axes.set_ylabel(up, fontsize=10.5, color=INK)


def legend_style() -> dict[str, Any]:
    """Return how legends look."""
    return {"fontsize": 9, "title_fontsize": 9, "frameon": True, "framealpha": 0.9, "edgecolor": "none",
            "labelcolor": INK, "alignment": "left"}  # fmt: skip


def site_style(index: int, site: str, sites: int) -> dict[str, Any]:
    """Return colour, line and label of a site; above as many as colours they are one grey crowd."""
    if sites > len(SITE_COLOURS):
        label = f"{sites} sites" if index == 0 else "_hidden"
        return {"color": "#8a97a5", "linewidth": 0.9, "alpha": 0.6, "label": label, "zorder": 3}
    return {
        "color": SITE_COLOURS[index],
        "linestyle": SITE_STYLES[index],
        "linewidth": 1.6,
        "label": plain_text(site),
        "zorder": 3,
    }


def plain_text(text: str, longest: int = 28) -> str:
    """Keep a name from being read as mathematics, and from filling the picture."""
    short = text if len(text) <= longest else f"{text[: longest - 9]}...{text[-6:]}"
    return short.replace("$", r"\$")


def png(figure: Figure) -> bytes:
    """Return the figure as PNG; equal figures have equal bytes."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
