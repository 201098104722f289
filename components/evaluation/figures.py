"""Pictures of an evaluation as PNG bytes: ROC, calibration, convergence, participation, comparison.

How they look, `components.evaluation.drawing` says. matplotlib is imported inside the functions, so that it does not
slow the start of a training.

ROC and calibration belong to every version, so they are drawn once a round beside the training and have to be
cheap: what is the same in every version (axes, grid, names) is drawn once, on a `_Sheet`, and only the data again.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from components.evaluation.curves import auroc, roc_points
from components.evaluation.drawing import (
    DIAGONAL,
    GRID,
    INK,
    MODEL_MARKS,
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
from components.evaluation.histograms import Floats, Integers
from components.evaluation.intervals import Estimate, Outcome, estimate_text, mean_of, wilson
from components.evaluation.summary import MODEL_NAMES
from components.rounds import ScoreSums

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Participation = Literal["took part", "refused", "failed", "not asked"]

STATUS_COLOURS = {"took part": "#86ccb4", "refused": "#e69f00", "failed": "#d55e00", "not asked": "#eef1f4"}
STATUS_LETTERS = {"took part": "", "refused": "R", "failed": "F", "not asked": "-"}
CALIBRATION_BINS = 10
VERSION_DPI = 112  # of what is drawn for every version
VERSION_SIZE = (6.0, 5.6)  # inches
QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
WITHOUT = "#b8c4cf"  # items that do not have the class
_POOLED_MARKS: dict[str, Any] = {
    "color": INK, "linewidth": 2.4, "capsize": 3, "elinewidth": 1.2, "marker": "o", "markersize": 5, "zorder": 5,
}  # fmt: skip


def roc_figure(sums_by_site: Mapping[str, ScoreSums], pooled: ScoreSums) -> bytes:
    """Draw the ROC curve of each site and of all items together.

    Args:
        sums_by_site: Sums of each site; a site with one class only is named as not defined.
        pooled: The added sums. Over several classes the curves are one-vs-rest, averaged at equal
            false-positive rates.

    Returns:
        A PNG. The band is Wilson's 95 % interval of the pooled sensitivity (one row of classes only).
    """

    def draw(axes: Axes) -> None:
        named = len(sums_by_site) <= len(SITE_COLOURS)
        for index, (site, sums) in enumerate(sums_by_site.items()):
            _draw_roc(axes, sums, site_style(index, site, len(sums_by_site)), named=named)
        if len(pooled.positives) == 1 and _area(pooled) is not None:
            false, true = _roc(pooled)
            items = sum(pooled.positives[0])
            ends = np.array([wilson(share * items, items) for share in true])
            axes.fill_between(false, ends[:, 0], ends[:, 1], color=INK, alpha=0.10, linewidth=0)
        _draw_roc(axes, pooled, {"color": INK, "linewidth": 2.6, "label": "all sites pooled", "zorder": 5}, named=True)
        axes.legend(loc="lower right", title="AUROC [95 % interval], items", **legend_style())

    return _roc_sheet(one_row=len(pooled.positives) == 1).picture(draw)


def calibration_figure(sums_by_site: Mapping[str, ScoreSums], pooled: ScoreSums) -> bytes:
    """Draw how often an item with a given score has the class, over ten groups of scores, and the scores.

    Args:
        sums_by_site: Sums of each site.
        pooled: The added sums; over several classes all scores against the rest together.

    Returns:
        A PNG: above, observed frequency against mean score (pooled with Wilson intervals); below, the
        number of items by score, relative to the score that most items have.
    """

    def draw(axes: Axes, below: Axes) -> None:
        for index, (site, sums) in enumerate(sums_by_site.items()):
            mean, positives, items = _reliability(sums)
            style = site_style(index, site, len(sums_by_site))
            axes.plot(mean, positives / items, marker=".", markersize=5, **style)
        mean, positives, items = _reliability(pooled)
        share = positives / items
        ends = np.array([wilson(found, count) for found, count in zip(positives, items, strict=True)]).reshape(-1, 2)
        axes.errorbar(mean, share, yerr=[share - ends[:, 0], ends[:, 1] - share], **_POOLED_MARKS)
        _draw_score_counts(below, pooled)

    return _calibration_sheet(tuple(sums_by_site)).picture(draw)


def convergence_figure(
    metric: str,
    pooled: Mapping[int, Estimate],
    sites: Mapping[str, Mapping[int, float]],
    *,
    best_round: int | None,
) -> bytes:
    """Draw the watched metric by round.

    Args:
        metric: Its name, for the axis.
        pooled: By round, the pooled estimate; the band is its 95 % interval.
        sites: By site and round, the site's own value; rounds without one are gaps.
        best_round: The round to mark, if there is one.

    Returns:
        A PNG.
    """
    from matplotlib.ticker import MaxNLocator  # slow to import, not needed before a figure is drawn

    figure, axes = canvas(7.6, 4.2)
    for index, (site, values) in enumerate(sites.items()):
        rounds = range(min(values, default=0), max(values, default=0) + 1) if values else []
        style = site_style(index, site, len(sites)) | {"linewidth": 1.1, "alpha": 0.85}
        axes.plot(list(rounds), [values.get(number, np.nan) for number in rounds], **style)
    rounds = sorted(pooled)
    axes.fill_between(
        rounds, [pooled[r].low for r in rounds], [pooled[r].high for r in rounds], color=INK, alpha=0.10, linewidth=0
    )
    style = {"color": INK, "linewidth": 2.6, "marker": "o", "markersize": 4, "zorder": 5}
    axes.plot(rounds, [pooled[r].value for r in rounds], label="all sites pooled", **style)
    if best_round is not None and best_round in pooled:
        value = pooled[best_round].value
        label = f"best: round {best_round}, {value:.3f}"
        axes.plot([best_round], [value], linestyle="", marker="*", markersize=17, color="#e69f00",
                  markeredgecolor=INK, markeredgewidth=1.0, label=label, zorder=6)  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    titles(axes, "Convergence on the validation items", "round", _words(metric))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), **legend_style())
    return png(figure)


def participation_figure(participation: Mapping[str, Mapping[int, Participation]]) -> bytes:
    """Draw who took part in which round.

    Args:
        participation: By site, then round, what happened; a round without an entry counts as not asked.

    Returns:
        A PNG: one row per site, one column per round, and how many rounds each site took part in. Letters
        beside the colours up to 40 rounds and 30 sites.
    """
    from matplotlib.colors import ListedColormap  # slow to import, not needed before a figure is drawn

    sites, rounds = list(participation), sorted({number for row in participation.values() for number in row}) or [1]
    kinds = list(STATUS_COLOURS)
    grid = np.array(
        [[kinds.index(participation[site].get(number, "not asked")) for number in rounds] for site in sites]
    )
    figure, axes = canvas(min(12.0, max(6.2, 2.6 + 0.34 * len(rounds))), min(14.0, 1.9 + 0.34 * max(len(sites), 1)))
    edges = np.arange(len(rounds) + 1) - 0.5, np.arange(len(sites) + 1) - 0.5
    if sites:
        axes.pcolormesh(*edges, grid, cmap=ListedColormap(list(STATUS_COLOURS.values())), vmin=-0.5,
                        vmax=len(kinds) - 0.5, edgecolors=PAPER, linewidth=1.6 if len(rounds) <= 40 else 0)  # fmt: skip
    if len(rounds) <= 40 and len(sites) <= 30:
        _draw_letters(axes, grid, kinds)
    axes.set(ylim=(max(len(sites), 1) - 0.5, -0.5), xlim=(-0.5, len(rounds) - 0.5))
    step, skip = max(1, -(-len(rounds) // 20)), max(1, -(-len(sites) // 40))
    axes.set_xticks(range(0, len(rounds), step), [str(number) for number in rounds[::step]])
    taken = [f"{plain_text(site)}  {np.sum(row == 0)}/{len(rounds)}" for site, row in zip(sites, grid, strict=True)]
    axes.set_yticks(range(0, len(sites), skip), taken[::skip])
    titles(axes, "Who took part", "round", "")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    _draw_status_key(figure)
    return png(figure)


def comparison_figure(metric: str, comparison: Mapping[str, Mapping[str, Estimate]]) -> bytes:
    """Draw the models beside each other, for each site's test items.

    Args:
        metric: Name of the metric, for the axis.
        comparison: By site, then by model (``local``, ``global``, ``pooled``), the estimate.

    Returns:
        A PNG: a mark and its 95 % interval per site and model.
    """
    models = list(dict.fromkeys(model for results in comparison.values() for model in results))
    figure, axes = canvas(7.6, min(20.0, 1.7 + (0.25 + 0.24 * max(len(models), 1)) * max(len(comparison), 1)))
    for index, model in enumerate(models):
        colour, mark = MODEL_MARKS[index % len(MODEL_MARKS)]
        offset = 0.22 * (index - (len(models) - 1) / 2)
        placed = [(row + offset, results[model]) for row, results in enumerate(comparison.values()) if model in results]
        values = np.array([item.value for _, item in placed])
        arms = [values - [item.low for _, item in placed], [item.high for _, item in placed] - values]
        label = plain_text(MODEL_NAMES.get(model, model))
        axes.errorbar(values, [height for height, _ in placed], xerr=arms, linestyle="", marker=mark, markersize=7,
                      color=colour, elinewidth=2, capsize=3.5, label=label)  # fmt: skip
    axes.set_yticks(range(len(comparison)), [plain_text(site) for site in comparison])
    axes.set_ylim(max(len(comparison), 1) - 0.5, -0.5)
    axes.hlines(
        np.arange(len(comparison) - 1) + 0.5, 0, 1, transform=axes.get_yaxis_transform(), color=GRID, linewidth=1
    )
    titles(axes, "Each site's test items, by model", f"{_words(metric)} with 95 % interval", "")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    if models:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), **legend_style())
    return png(figure)


class _Sheet:
    """A figure whose axes are drawn once; each picture draws only its data over them.

    Args:
        places: Of the axes: left, bottom, width, height in parts of the figure.
        furnish: Gives the axes what every picture has. Their limits are as they are left here.
    """

    def __init__(self, places: Sequence[tuple[float, float, float, float]], furnish: Callable[..., None]) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, as all of matplotlib
        from matplotlib.figure import Figure

        self._turn = Lock()
        self._figure = Figure(figsize=VERSION_SIZE, dpi=VERSION_DPI, facecolor=PAPER)
        canvas: Any = FigureCanvasAgg(self._figure)  # not typed in matplotlib
        self._canvas = canvas
        self._axes = [self._figure.add_axes(place) for place in places]
        for axes in self._axes:
            plain_axes(axes)
            axes.tick_params(length=0)
        furnish(*self._axes)
        for axes in self._axes:
            axes.autoscale(False)
        self._canvas.draw()
        self._empty = self._canvas.copy_from_bbox(self._figure.bbox)

    def picture(self, draw: Callable[..., None]) -> bytes:
        """Return a PNG of the sheet with what `draw` adds to its axes; one picture at a time."""
        from PIL import Image  # matplotlib brings it

        with self._turn:
            furniture = {child for axes in self._axes for child in axes.get_children()}
            self._canvas.restore_region(self._empty)
            try:
                draw(*self._axes)
                for axes in self._axes:
                    added = [child for child in axes.get_children() if child not in furniture]
                    for child in sorted(added, key=lambda child: child.get_zorder()):
                        axes.draw_artist(child)
            finally:
                for axes in self._axes:
                    for group in list(axes.containers):
                        group.remove()
                    for child in axes.get_children():
                        if child not in furniture:
                            child.remove()
            size = self._canvas.get_width_height()
            image = Image.frombuffer("RGBA", size, self._canvas.buffer_rgba(), "raw", "RGBA", 0, 1).convert("RGB")
        picture = io.BytesIO()
        image.save(picture, format="png", compress_level=3)
        return picture.getvalue()


@lru_cache(maxsize=4)
def _roc_sheet(*, one_row: bool) -> _Sheet:
    """Return the sheet of ROC curves, of one row of classes or averaged over several."""

    def furnish(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=DIAGONAL, linewidth=1.0, linestyle=(0, (2, 3)), zorder=1)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", xticks=QUARTERS, yticks=QUARTERS)
        averaged = "" if one_row else ", one class against the rest, averaged"
        titles(axes, f"ROC curve{averaged}", "1 - specificity", "sensitivity")

    return _Sheet([(0.12, 0.11, 0.85, 0.81)], furnish)


@lru_cache(maxsize=4)
def _calibration_sheet(sites: tuple[str, ...]) -> _Sheet:
    """Return the sheet of calibration curves of these sites, with the scores below."""

    def furnish(axes: Axes, below: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=DIAGONAL, linewidth=1.0, linestyle=(0, (2, 3)), zorder=1)
        for index, site in enumerate(sites):
            axes.plot([], [], marker=".", markersize=5, **site_style(index, site, len(sites)))
        axes.errorbar([], [], yerr=[], label="all sites pooled", **_POOLED_MARKS)
        axes.legend(loc="upper left", **legend_style()).set_zorder(8)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=QUARTERS, yticks=QUARTERS)
        titles(axes, "Calibration", "", "observed frequency")
        axes.tick_params(labelbottom=False)
        below.set(xlim=(-0.02, 1.02), ylim=(0, 1.5), xticks=QUARTERS, yticks=[])
        below.stairs([], [0.0], fill=True, color=WITHOUT, label="without the class")
        below.stairs([], [0.0], fill=True, color=SITE_COLOURS[0], label="with the class")
        below.legend(loc="upper center", ncols=2, **legend_style())
        titles(below, "", "score", "items")

    return _Sheet([(0.12, 0.34, 0.85, 0.59), (0.12, 0.10, 0.85, 0.2)], furnish)


def _draw_roc(axes: Axes, sums: ScoreSums, style: dict[str, Any], *, named: bool) -> None:
    """Draw one ROC curve, with its area in the legend if it is one of few, or say that it is not defined."""
    area = _area(sums)
    said = "not defined" if area is None else estimate_text(area)
    label = f"{style['label']}: {said}, {sums.count}" if named else style["label"]
    false, true = (np.zeros(0), np.zeros(0)) if area is None else _roc(sums)
    axes.plot(false, true, **style | {"label": label})


def _rows(sums: ScoreSums) -> list[tuple[Integers, Integers]]:
    """Return the histograms of each class against the rest."""
    return [(np.array(p), np.array(n)) for p, n in zip(sums.positives, sums.negatives, strict=True)]


def _area(sums: ScoreSums) -> Estimate | None:
    """Return the AUROC, averaged over classes, where it is defined."""
    outcome: Outcome = mean_of([auroc(*row) for row in _rows(sums)], disjoint=False)
    return outcome if isinstance(outcome, Estimate) else None


def _roc(sums: ScoreSums) -> tuple[Floats, Floats]:
    """Return the ROC curve, averaged over classes at equal false-positive rates."""
    curves = [roc_points(*row) for row in _rows(sums)]
    if len(curves) == 1:
        return curves[0]
    rates = np.linspace(0, 1, 201)
    return rates, np.mean([np.interp(rates, false, true) for false, true in curves], axis=0)


def _reliability(sums: ScoreSums) -> tuple[Floats, Integers, Integers]:
    """Return mean score, positives and items of each group of scores that is not empty."""
    group = np.tile(np.arange(sums.bins) * CALIBRATION_BINS // sums.bins, len(sums.positives))
    positives, negatives = np.array(sums.positives).ravel(), np.array(sums.negatives).ravel()
    scores = np.bincount(group, np.ravel(sums.score_sums), minlength=CALIBRATION_BINS)
    found = np.bincount(group, positives, minlength=CALIBRATION_BINS).astype(np.int64)
    items = np.bincount(group, positives + negatives, minlength=CALIBRATION_BINS).astype(np.int64)
    kept = items > 0
    return scores[kept] / items[kept], found[kept], items[kept]


def _draw_score_counts(axes: Axes, pooled: ScoreSums) -> None:
    """Draw how many items have which score, with the class on top of without."""
    groups = min(40, pooled.bins)
    group = np.tile(np.arange(pooled.bins) * groups // pooled.bins, len(pooled.positives))
    without = np.bincount(group, np.ravel(pooled.negatives), minlength=groups)
    having = np.bincount(group, np.ravel(pooled.positives), minlength=groups)
    edges, most = np.linspace(0, 1, groups + 1), max(1, (without + having).max())
    lower, upper = without / most, (without + having) / most
    axes.stairs(lower, edges, fill=True, color=WITHOUT)
    axes.stairs(upper, edges, baseline=lower, fill=True, color=SITE_COLOURS[0])
    axes.text(0.02, 0.97, f"highest: {int(most)}", transform=axes.transAxes, va="top", fontsize=9, color=MUTED)


def _draw_letters(axes: Axes, grid: Integers, kinds: Sequence[str]) -> None:
    """Write a letter into each square that needs one."""
    for (row, column), kind in np.ndenumerate(grid):
        letter = STATUS_LETTERS[kinds[int(kind)]]
        axes.text(column, row, letter, ha="center", va="center", fontsize=9, fontweight="bold", color=INK)


def _draw_status_key(figure: Figure) -> None:
    """Explain colours and letters below the grid."""
    from matplotlib.patches import Patch  # slow to import, not needed before a figure is drawn

    marks = [
        Patch(
            facecolor=colour,
            edgecolor=GRID,
            label=f"{status} {f'({STATUS_LETTERS[status]})' if STATUS_LETTERS[status] else ''}",
        )
        for status, colour in STATUS_COLOURS.items()
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=4, **legend_style())


def _words(metric: str) -> str:
    """Write a metric's name for people."""
    return "AUROC" if metric == "auroc" else plain_text(metric).replace("_", " ")
