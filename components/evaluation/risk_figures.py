"""Pictures of a risk model: the decision curve, and how it does in subgroups and at hospitals it never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from components.evaluation.drawing import (
    DIAGONAL,
    GRID,
    INK,
    MODEL_MARKS,
    canvas,
    legend_style,
    plain_text,
    png,
    site_style,
    titles,
)
from components.evaluation.intervals import Estimate
from components.evaluation.recalibration import net_benefit
from components.rounds import ScoreSums


def decision_figure(sums_by_site: Mapping[str, ScoreSums], pooled: ScoreSums) -> bytes:
    """Draw the net benefit of acting on a score, against treating everybody and nobody.

    Args:
        sums_by_site: Sums of each site; a site without items is left out.
        pooled: The added sums of a binary task, one item at least.

    Returns:
        A PNG.
    """
    figure, axes = canvas(7.6, 4.6)
    found = {site: sums for site, sums in sums_by_site.items() if sums.count}
    for index, (site, sums) in enumerate(found.items()):
        thresholds, benefit, _ = net_benefit(np.array(sums.positives[0]), np.array(sums.negatives[0]))
        axes.plot(thresholds, benefit, **site_style(index, site, len(found)) | {"linewidth": 1.1})
    thresholds, benefit, everybody = net_benefit(np.array(pooled.positives[0]), np.array(pooled.negatives[0]))
    axes.plot(thresholds, benefit, color=INK, linewidth=2.6, label="all sites pooled", zorder=5)
    axes.plot(thresholds, everybody, color=DIAGONAL, linewidth=1.4, linestyle=(0, (5, 2)), label="treat everybody")
    axes.axhline(0, color=DIAGONAL, linewidth=1.4, linestyle=(0, (1, 2)), label="treat nobody")
    most = max(sum(sums.positives[0]) / sums.count for sums in [*found.values(), pooled])
    axes.set(xlim=(0, 1), ylim=(-0.1, max(0.1, 1.05 * most)))
    titles(axes, "Decision curve", "score from which one acts", "net benefit, true positives a person")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), **legend_style())
    return png(figure)


def estimates_figure(title: str, metric: str, rows: Mapping[str, Estimate], reference: Estimate | None) -> bytes:
    """Draw one metric for several groups of patients, each with its interval and its number of items.

    Args:
        title: What is seen.
        metric: Name of the metric, for the axis.
        rows: By group, the estimate; one at least.
        reference: The estimate over all, drawn as a line.

    Returns:
        A PNG.
    """
    figure, axes = canvas(7.6, min(20.0, 1.7 + 0.36 * len(rows)))
    colour, mark = MODEL_MARKS[1]
    values = np.array([item.value for item in rows.values()])
    arms = [values - [item.low for item in rows.values()], [item.high for item in rows.values()] - values]
    axes.errorbar(values, range(len(rows)), xerr=arms, linestyle="", marker=mark, markersize=7, color=colour,
                  elinewidth=2, capsize=3.5)  # fmt: skip
    if reference is not None:
        axes.axvline(reference.value, color=INK, linewidth=1.4, label=f"all: {reference.value:.3f}")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), **legend_style())
    axes.set_yticks(range(len(rows)), [f"{name}  (n {item.support})" for name, item in rows.items()])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.hlines(np.arange(len(rows) - 1) + 0.5, 0, 1, transform=axes.get_yaxis_transform(), color=GRID, linewidth=1)
    titles(axes, title, f"{metric} with 95 % interval", "")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    return png(figure)


def importance_figure(shares: Mapping[str, float]) -> bytes:
    """Draw what each feature adds to boosted trees.

    Args:
        shares: By feature, its part of the gain of all splits, from 0 to 1.

    Returns:
        A PNG; of many features, the 30 that add most.
    """
    shown = sorted(shares.items(), key=lambda item: (-item[1], item[0]))[:30]
    figure, axes = canvas(7.6, 1.7 + 0.32 * len(shown))
    axes.barh(range(len(shown)), [share for _, share in shown], color=MODEL_MARKS[1][0], height=0.6)
    axes.set_yticks(range(len(shown)), [plain_text(name) for name, _ in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    titles(axes, "What the trees use", "part of the gain of all splits", "")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    return png(figure)


def components_figure(explained: Sequence[float], exact: Sequence[bool]) -> bytes:
    """Draw which part of the variance of the columns each principal component explains.

    Args:
        explained: By component, its part, from 0 to 1; one at least.
        exact: By component, whether it is that of all rows in one place; others are drawn pale.

    Returns:
        A PNG; of many components, the first 30.
    """
    shown = list(zip(explained, exact, strict=True))[:30]
    figure, axes = canvas(7.6, 1.7 + 0.32 * len(shown))
    bars = axes.barh(range(len(shown)), [share for share, _ in shown], color=MODEL_MARKS[1][0], height=0.6)
    for bar, (_, known) in zip(bars, shown, strict=True):
        bar.set_alpha(1.0 if known else 0.4)
    together = np.cumsum(explained)
    axes.set_yticks(range(len(shown)), [f"{place + 1}  ({together[place]:.1%} with it)" for place in range(len(shown))])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    titles(axes, "Principal components", "part of the variance of the columns that take part", "")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    return png(figure)
