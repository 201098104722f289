"""Pictures of an analysis of patients as PNG bytes: survival with numbers at risk, incidence, forest plot.

In the style of `components.evaluation.figures`; they take plain numbers, whatever these were computed from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from components.digits import digits_apart, interval_text, number_text
from components.evaluation.drawing import (
    DPI,
    GRID,
    INK,
    MUTED,
    PAPER,
    SITE_COLOURS,
    canvas,
    legend_style,
    plain_axes,
    plain_text,
    png,
    site_style,
    titles,
)
from components.evaluation.histograms import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKS = 7  # times at which numbers at risk are written


@dataclass(frozen=True)
class StepCurve:
    """A step function: each value, and its 95 % interval, holds from its time on."""

    times: Floats
    values: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class ForestRow:
    """One estimate of a forest plot, on the axis' own scale.

    Attributes:
        label: What it is of.
        value: The estimate.
        low: Lower end of its interval.
        high: Upper end.
        weight: Part of the whole, 0 to 1; None for a summary, which is drawn as a diamond.
    """

    label: str
    value: float
    low: float
    high: float
    weight: float | None = None


def marked_times(end: float) -> list[float]:
    """Return the times at which numbers at risk are written: round ones, from 0 on.

    >>> marked_times(2659.0)
    [0.0, 500.0, 1000.0, 1500.0, 2000.0, 2500.0]
    """
    raw = end / (MARKS - 1)
    size = 10 ** np.floor(np.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    return [float(time) for time in np.arange(0, end + 1e-9, step)]


def steps_figure(
    curves: Mapping[str, StepCurve],
    at_risk: Mapping[str, Sequence[int]],
    *,
    title: str,
    across: str,
    up: str,
) -> bytes:
    """Draw step functions with their 95 % bands, and below them the numbers at risk.

    Args:
        curves: By group.
        at_risk: By group, patients at risk at each of `marked_times` of the last time.
        title: Of the picture.
        across: Name of the axis of time, with its unit.
        up: Name of the other axis.

    Returns:
        A PNG.
    """
    from matplotlib.figure import Figure  # slow to import, not needed before a figure is drawn

    end = max((float(curve.times[-1]) for curve in curves.values()), default=1.0) or 1.0
    figure = Figure(figsize=(7.6, 4.4 + 0.26 * len(curves)), dpi=DPI, facecolor=PAPER, layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[4.0, 0.3 + 0.26 * len(curves)])
    plain_axes(axes)
    for number, (name, curve) in enumerate(curves.items()):
        style = site_style(number, name, len(curves)) | {"linewidth": 2.0}
        times = np.append(curve.times, end)
        last = [np.append(values, values[-1]) for values in (curve.values, curve.low, curve.high)]
        axes.step(times, last[0], where="post", **style)
        axes.fill_between(times, last[1], last[2], step="post", color=style["color"], alpha=0.13, linewidth=0)
    axes.set(ylim=(-0.02, 1.02), xlim=(-0.01 * end, 1.01 * end))
    titles(axes, title, across, up)
    axes.tick_params(labelbottom=True)
    if curves:
        axes.legend(loc="best", **legend_style())
    _write_at_risk(below, list(curves), at_risk, marked_times(end))
    return png(figure)


def forest_figure(rows: Sequence[ForestRow], *, title: str, across: str, reference: float = 1.0) -> bytes:
    """Draw a forest plot on a logarithmic axis.

    Args:
        rows: From above to below; sites first, summaries after them.
        title: Of the picture.
        across: Name of the axis.
        reference: Where there is no effect.

    Returns:
        A PNG: a square as large as its weight and its interval for each site, a diamond for each summary.
    """
    figure, axes = canvas(8.4, 1.5 + 0.36 * max(len(rows), 1))
    axes.set_xscale("log")
    for height, row in enumerate(rows):
        if row.weight is None:
            corners = [(row.low, height), (row.value, height - 0.25), (row.high, height), (row.value, height + 0.25)]
            axes.fill(*zip(*corners, strict=True), color=INK, zorder=4)
        else:
            axes.plot([row.low, row.high], [height, height], color=SITE_COLOURS[0], linewidth=1.8, zorder=3)
            axes.plot([row.value], [height], marker="s", markersize=4 + 9 * row.weight**0.5, color=SITE_COLOURS[0])
        axes.text(
            1.02,
            height,
            _row_text(row, reference),
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
            color=INK,
        )
    axes.axvline(reference, color=MUTED, linewidth=1.0, linestyle=(0, (2, 3)), zorder=1)
    axes.set_yticks(range(len(rows)), [plain_text(row.label) for row in rows])
    axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    _label_plainly(axes)
    titles(axes, title, across, "")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    return png(figure)


def _row_text(row: ForestRow, reference: float) -> str:
    """Write an estimate with as many digits as tell it from the reference."""
    digits = digits_apart((row.value, row.low, row.high), reference, least=2)
    return f"{number_text(row.value, digits)} [{interval_text(row.low, row.high, digits)}]"


def _label_plainly(axes: Axes) -> None:
    """Write the ticks of a logarithmic axis as plain numbers, few of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator  # slow to import

    low, high = axes.get_xlim()
    few = high / low > 20
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if few else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _write_at_risk(axes: Axes, names: list[str], at_risk: Mapping[str, Sequence[int]], times: list[float]) -> None:
    """Write the numbers at risk below the curves, one row for each group."""
    axes.set_facecolor(PAPER)
    axes.spines[:].set_visible(False)
    axes.set_ylim(len(names) - 0.4, -0.9)
    axes.set_yticks(range(len(names)), [plain_text(name) for name in names])
    axes.tick_params(length=0, labelbottom=False, labelsize=9.5, colors=MUTED, pad=16)
    axes.set_title("Number at risk", loc="left", fontsize=9.5, color=INK, pad=2)
    axes.axhline(-0.75, color=GRID, linewidth=0.8)
    for row, name in enumerate(names):
        for time, count in zip(times, at_risk.get(name, []), strict=False):
            axes.text(time, row, str(count), ha="center", va="center", fontsize=9.5, color=INK)
