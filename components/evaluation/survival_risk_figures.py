"""Pictures of a survival model: calibration at a horizon, error over time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from components.evaluation.drawing import DIAGONAL, INK, canvas, legend_style, png, site_style, titles
from components.evaluation.intervals import Z95
from components.rounds import ScoreSums, SurvivalSums
from components.survival import Survival


def horizon_figure(sums_by_site: Mapping[str, ScoreSums], pooled: ScoreSums, task: Survival) -> bytes:
    """Draw events seen against events expected until the first horizon, in groups of predicted chances.

    Args:
        sums_by_site: Sums of each site; each is one mark, over all of its patients.
        pooled: The added sums; each group is one mark, with its normal 95 % interval.
        task: The task.

    Returns:
        A PNG. Events seen are weighted by the inverse chance of not being censored.
    """
    figure, axes = canvas(6.4, 5.6)
    found = {site: sums.survival for site, sums in sums_by_site.items() if sums.survival and sums.count}
    for index, (site, sums) in enumerate(found.items()):
        first, items = sums.calibration[0], sum(sums.calibration[0].counts)
        if not items:
            continue
        style = site_style(index, site, len(found)) | {"linestyle": "", "marker": "o", "markersize": 5}
        axes.plot([sum(first.expected) / items], [sum(first.observed) / items], **style)
    expected, observed, errors = _groups(pooled.survival) if pooled.survival else (np.zeros(0),) * 3
    axes.errorbar(expected, observed, yerr=Z95 * errors, color=INK, marker="D", markersize=6, linewidth=0,
                  elinewidth=1.4, capsize=3, label="all sites, by predicted chance", zorder=5)  # fmt: skip
    top = min(1.0, 1.05 * max([0.1, *expected, *(observed + Z95 * errors)]))
    axes.plot([0, top], [0, top], color=DIAGONAL, linewidth=1.2, linestyle=(0, (5, 2)), label="seen as expected")
    axes.set(xlim=(0, top), ylim=(0, top))
    until = f"{task.horizons[0]:g} {task.unit}"
    titles(axes, f"Calibration at {until}", "predicted chance of the event", "part in whom it was seen")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), **legend_style())
    return png(figure)


def brier_figure(sums_by_site: Mapping[str, ScoreSums], pooled: ScoreSums, task: Survival) -> bytes:
    """Draw the Brier score over time, of each site and of all together with its normal 95 % band.

    Returns:
        A PNG. What says one half of everybody has 0.25.
    """
    figure, axes = canvas(7.6, 4.6)
    edges = np.array(task.grid.edges)
    found = {site: sums for site, sums in sums_by_site.items() if sums.survival and sums.count}
    for index, (site, sums) in enumerate(found.items()):
        assert sums.survival is not None  # those that have none are left out above
        style = site_style(index, site, len(found)) | {"linewidth": 1.1}
        axes.plot(edges, _means(sums.survival)[0], **style)
    if pooled.survival is not None and pooled.count:
        values, errors = _means(pooled.survival)
        axes.plot(edges, values, color=INK, linewidth=2.4, label="all sites", zorder=5)
        axes.fill_between(edges, values - Z95 * errors, values + Z95 * errors, color=INK, alpha=0.12, linewidth=0)
    axes.set(xlim=(0, edges[-1]), ylim=(0, None))
    axes.axhline(0.25, color=DIAGONAL, linewidth=1.2, linestyle=(0, (5, 2)), label="one half for everybody")
    titles(axes, "Error over time", f"time, {task.unit}", "Brier score, weighted for censoring")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), **legend_style())
    return png(figure)


def _means(sums: SurvivalSums) -> tuple[np.ndarray, np.ndarray]:
    """Return the Brier score at each edge and its standard error; NaN where nobody is judged."""
    followed = np.where(np.array(sums.followed) > 0, sums.followed, np.nan)
    values = np.array(sums.brier) / followed
    spread = np.array(sums.brier_squares) / followed - values**2
    return values, np.sqrt(np.maximum(spread, 0) / followed)


def _groups(sums: SurvivalSums) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return expected and observed share of each group that has patients, and the standard error of the latter."""
    first = sums.calibration[0]
    counts = np.array(first.counts)
    there = counts > 0
    expected, observed = (np.array(values)[there] / counts[there] for values in (first.expected, first.observed))
    errors = np.sqrt(np.array(first.squares)[there]) / counts[there]
    return expected, observed, errors
