"""Pictures of a model of treatments: what its ranking gains, what its benefits mean, and whom the arms share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.evaluation.benefit import OVERLAP_BINS
from components.evaluation.benefit_metrics import benefit_calibration, overlap, uplift_curve
from components.evaluation.drawing import DIAGONAL, INK, MODEL_MARKS, canvas, legend_style, png, site_style, titles
from components.rounds import TreatmentSums


@dataclass(frozen=True)
class Scale:
    """What benefits are told in.

    Attributes:
        bins: The study's bins.
        unit: What an outcome of 1 is; see `components.evaluation.benefit.benefit_unit`.
        words: Its name, for the axes.
        arms: The names of both arms.
    """

    bins: int
    unit: float
    words: str
    arms: tuple[str, str]


def benefit_figures(by_site: Mapping[str, TreatmentSums], pooled: TreatmentSums, scale: Scale) -> dict[str, bytes]:
    """Draw all three, by their place in a version's artifacts; the overlap alone, where no site's patients are ranked.

    Args:
        by_site: Sums of each site that tells them.
        pooled: Their sum, with patients in either arm.
        scale: What benefits are told in.
    """
    found = {"figures/overlap.png": overlap_figure(pooled, scale)}
    if len(uplift_curve(pooled, scale.bins)[0]) > 1:
        found["figures/uplift.png"] = uplift_figure(by_site, pooled, scale)
        found["figures/benefit.png"] = benefit_figure(pooled, scale)
    return found


def uplift_figure(by_site: Mapping[str, TreatmentSums], pooled: TreatmentSums, scale: Scale) -> bytes:
    """Draw the uplift curve of each site and of all patients, against a ranking by chance; returns a PNG."""
    figure, axes = canvas(7.6, 4.6)
    for index, (site, sums) in enumerate(by_site.items()):
        parts, gains = uplift_curve(sums, scale.bins)
        if len(parts) == 1:
            continue
        axes.plot(parts, gains * scale.unit, **site_style(index, site, len(by_site)) | {"linewidth": 1.1})
    parts, gains = uplift_curve(pooled, scale.bins)
    gains = gains * scale.unit
    axes.plot(parts, gains, color=INK, linewidth=2.6, label="all sites pooled", zorder=5)
    chance: dict[str, Any] = {"color": DIAGONAL, "linewidth": 1.4, "linestyle": (0, (5, 2)), "label": "by chance"}
    axes.plot([0, 1], [0, gains[-1]], **chance)
    axes.set(xlim=(0, 1))
    words = "part of the patients treated, largest predicted benefit first"
    titles(axes, "Uplift", words, f"gain a patient, {scale.words}")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), **legend_style())
    return png(figure)


def benefit_figure(pooled: TreatmentSums, scale: Scale) -> bytes:
    """Draw the observed benefit, with 95 % intervals, of fifths of the patients by predicted benefit; returns a PNG."""
    figure, axes = canvas(5.6, 5.0)
    found = benefit_calibration(pooled, scale.bins)
    colour, mark = MODEL_MARKS[1]
    predicted = scale.unit * np.array([place for place, _ in found])
    observed = scale.unit * np.array([item.value for _, item in found])
    ends = scale.unit * np.array([[item.low, item.high] for _, item in found]).reshape(-1, 2)
    style: dict[str, Any] = {"marker": mark, "color": colour, "capsize": 3.5, "elinewidth": 2, "linewidth": 1.4}
    axes.errorbar(predicted, observed, yerr=[observed - ends[:, 0], ends[:, 1] - observed], **style)
    most = float(np.abs([*predicted, *ends.ravel(), 0.05 * scale.unit]).max()) * 1.05
    axes.plot([-most, most], [-most, most], color=DIAGONAL, linewidth=1.4, linestyle=(0, (5, 2)))
    axes.set(xlim=(-most, most), ylim=(-most, most))
    titles(axes, "Benefit of the treatment", f"predicted, {scale.words}", "observed, fifths of the patients")
    return png(figure)


def overlap_figure(pooled: TreatmentSums, scale: Scale) -> bytes:
    """Draw how probable the second arm was for the patients of either; returns a PNG."""
    figure, axes = canvas(7.6, 3.6)
    edges = np.arange(OVERLAP_BINS) / OVERLAP_BINS
    for number, (counts, name) in enumerate(zip(overlap(pooled), scale.arms, strict=True)):
        colour, _ = MODEL_MARKS[number]
        shares = counts / max(int(counts.sum()), 1)
        place = edges + number * 0.5 / OVERLAP_BINS
        axes.bar(place, shares, width=0.5 / OVERLAP_BINS, align="edge", color=colour, label=name)
    axes.set(xlim=(0, 1))
    titles(axes, "Overlap of the arms", f"chance of {scale.arms[1]}", "part of the arm's patients")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), **legend_style())
    return png(figure)
