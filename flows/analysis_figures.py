"""The pictures of an analysis, from its results."""

from __future__ import annotations

import math

from components.analytics.analysis import Results
from components.analytics.meta import Effect
from components.analytics.survival import Curve
from components.evaluation.survival_figures import ForestRow, StepCurve, forest_figure, marked_times, steps_figure


def figures_of(found: Results) -> dict[str, tuple[str, str, bytes]]:
    """Draw what an analysis found.

    Returns:
        By file name without its ending: title, caption, PNG.
    """
    figures: dict[str, tuple[str, str, bytes]] = {}
    if found.survival:
        words = "Product-limit estimates by arm, 95 % intervals, patients at risk below."
        figures["survival"] = ("Survival", words, _steps(found, found.survival, "Survival", "without an event"))
    causes = found.study.analysis.event.causes
    for number, (cause, curves) in enumerate(found.incidence.items(), 1):
        if len(causes) > 1:
            words = f"Cumulative incidence of {cause} by arm (Aalen, Johansen), 95 % intervals."
            title = f"Incidence: {cause}"
            figures[f"incidence_{number}"] = (title, words, _steps(found, curves, title, "cumulative incidence"))
    if found.cox is not None:
        rows = [_row(label, effect, 0.3) for label, effect in found.cox.effects().items()]
        words = "Hazard ratios per unit of each covariate, 95 % intervals."
        figures["cox"] = ("Cox regression", words, forest_figure(rows, title="Cox regression", across="hazard ratio"))
    for label in found.combined:
        name = f"forest_{len([name for name in figures if name.startswith('forest')]) + 1}"
        words = "Squares: each site alone, as large as its weight. Diamonds: all of them, and all rows together."
        png = forest_figure(_forest(found, label), title=f"Effect of {label}", across="hazard ratio")
        figures[name] = (f"Effect of {label} by site", words, png)
    return figures


def _steps(found: Results, curves: list[Curve], title: str, up: str) -> bytes:
    """Draw one curve per arm."""
    time, arm = found.study.analysis.time, found.study.analysis.arm
    names = [f"{arm.column}: {level}" for level in arm.levels]
    drawn = {
        name: StepCurve(curve.times, curve.values, curve.low, curve.high)
        for name, curve in zip(names, curves, strict=True)
    }
    marks = marked_times(max(float(curve.times[-1]) for curve in curves) or 1.0)
    at_risk = {name: exits.still_at_risk(marks) for name, exits in zip(names, found.exits, strict=True)}
    return steps_figure(drawn, at_risk, title=title, across=f"time ({time.unit})", up=up)


def _forest(found: Results, label: str) -> list[ForestRow]:
    """The rows of one arm's forest plot."""
    own = {site: effects[label] for site, effects in found.effects.items()}
    total = sum(effect.error**-2 for effect in own.values())
    rows = [_row(site, effect, effect.error**-2 / total) for site, effect in own.items()]
    combined = found.combined[label]
    rows += [_row("fixed effect", combined.fixed), _row("random effects", combined.random)]
    if label in found.pooled_effect:
        rows.append(_row("all rows, by site", found.pooled_effect[label]))
    return rows


def _row(label: str, effect: Effect, weight: float | None = None) -> ForestRow:
    """A row on the scale of hazard ratios."""
    return ForestRow(label, math.exp(effect.value), math.exp(effect.low), math.exp(effect.high), weight)
