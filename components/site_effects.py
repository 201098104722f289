r"""Whether the hospitals agree about a treatment: Cochran's Q of what each sees, and who sees the opposite.

A hospital whose arms are the wrong way round sends sums like any other's; only beside the others it stands out. Two
things are compared: the mean effect, and the slope of the observed on the predicted benefit, which turns round as well,
and is seen where the mean effect is none.

References: Cochran (1954), Biometrics 10; Higgins, Thompson (2002), Stat Med 21, for I squared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components.analytics.meta import Combined, Effect, combine
from components.analytics.survival import Z95
from components.evaluation.benefit_metrics import digits_of
from components.evaluation.intervals import Estimate, estimate_text

MEASURES = {"effect": "mean effect of the second arm", "benefit_slope": "observed on predicted benefit"}
FEWEST = 40  # test patients of a hospital below which its standard error is too rough to be compared by
UNLIKELY = 0.002  # of Q: two measures of each training are looked at, and small hospitals' errors come out too small
APART = 3.0  # standard errors between a hospital and the others
SURE = 2.58  # standard errors of the others' own value from 0


@dataclass(frozen=True)
class Agreement:
    """What the hospitals see of one measure.

    Attributes:
        measure: One of `MEASURES`.
        by_site: Each hospital's own estimate, of those with enough test patients; two or more.
        combined: All of them together.
        opposed: Hospitals that see the opposite of the others; nobody where there are only two, who oppose each other.
    """

    measure: str
    by_site: Mapping[str, Estimate]
    combined: Combined
    opposed: tuple[str, ...]


def agreements(by_site: Mapping[str, Mapping[str, Estimate]]) -> list[Agreement]:
    """Compare the hospitals.

    Args:
        by_site: Each hospital's metrics on its own test patients.

    Returns:
        For each of `MEASURES` that two hospitals or more can tell of.

    >>> north, south = Estimate(0.2, 0.1, 0.3, 90), Estimate(-0.2, -0.3, -0.1, 90)
    >>> [found] = agreements({"north": {"effect": north}, "east": {"effect": north}, "south": {"effect": south}})
    >>> found.opposed, round(found.combined.heterogeneity, 1), round(found.combined.inconsistency, 2)
    (('south',), 41.0, 0.95)
    """
    found = []
    for measure in MEASURES:
        own = {site: row[measure] for site, row in by_site.items() if measure in row and _is_comparable(row[measure])}
        if len(own) > 1:
            effects = {site: _effect(item) for site, item in own.items()}
            opposed = tuple(site for site in effects if len(own) > 2 and _is_opposed(site, effects))
            found.append(Agreement(measure, own, combine(list(effects.values())), opposed))
    return found


def agreement_remark(found: list[Agreement]) -> str:
    """Say how much the hospitals differ, in one sentence; empty where nothing was compared."""
    parts = [f"{MEASURES[item.measure]}: {_q(item)}" for item in found]
    return f"Between the hospitals: {'; '.join(parts)}." if parts else ""


def agreement_warnings(found: list[Agreement]) -> list[str]:
    """Say where the hospitals differ by more than chance, and who sees the opposite of the others."""
    said = [
        f"The hospitals differ in the {MEASURES[item.measure]} by more than chance ({_q(item)}). What is told of all "
        "of them together is a mean of unlike hospitals: look at each."
        for item in found
        if item.combined.p < UNLIKELY
    ]
    opposed = sorted({site for item in found for site in item.opposed})
    for site in opposed:
        seen = [item for item in found if site in item.opposed]
        words = "; ".join(f"{MEASURES[item.measure]} {_told(item, site)}" for item in seen)
        said.append(
            f"{site}: {words}, the opposite of what the other hospitals see: are its arms, or its labels, swapped, "
            "or are its patients unlike the others'?"
        )
    return said


def _told(item: Agreement, site: str) -> str:
    """Write what a hospital sees."""
    found = item.by_site[site]
    return estimate_text(found, digits_of(item.measure, found, 2))


def _q(item: Agreement) -> str:
    """Write Cochran's Q, its p-value and I squared."""
    found = item.combined
    p = f"p {found.p:.2f}" if found.p >= 0.01 else "p < 0.01" if found.p >= 0.001 else "p < 0.001"
    freedom = len(item.by_site) - 1
    return f"Cochran's Q {found.heterogeneity:.1f} with {freedom} df, {p}, I² {100 * found.inconsistency:.0f} %"


def _is_comparable(found: Estimate) -> bool:
    """Whether an estimate rests on enough patients, and has a spread."""
    return found.support >= FEWEST and found.high > found.low


def _effect(found: Estimate) -> Effect:
    """Return an estimate with its standard error."""
    return Effect(found.value, (found.high - found.low) / (2 * Z95))


def _is_opposed(site: str, effects: Mapping[str, Effect]) -> bool:
    """Whether a hospital is on the other side of 0 than the others, who are sure of theirs, and far from them."""
    own, others = effects[site], combine([item for name, item in effects.items() if name != site]).random
    apart = abs(own.value - others.value) > APART * (own.error**2 + others.error**2) ** 0.5
    return own.value * others.value < 0 and abs(others.value) > SURE * others.error and apart
