"""A treatment effect from the sites' own estimates: fixed effect, and random effects by DerSimonian and Laird.

It stands beside the pooled estimate: where sites differ, the two say so. Everything is on the logarithm of the hazard
ratio; what crosses is one estimate and one standard error of each site.

Reference: DerSimonian, Laird (1986); Higgins, Thompson (2002) for I squared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.analytics.survival import Z95, chi_squared_p
from components.analytics.table import Floats


@dataclass(frozen=True)
class Effect:
    """An estimate with its standard error, and the weight it has, if it is one of several."""

    value: float
    error: float
    weight: float = 1.0

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.value - Z95 * self.error

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.value + Z95 * self.error

    @property
    def p(self) -> float:
        """Two-sided p-value of no effect."""
        return chi_squared_p((self.value / self.error) ** 2, 1)


@dataclass(frozen=True)
class Combined:
    """Several estimates of one effect.

    Attributes:
        fixed: Weighted by the inverse of their variances.
        random: By DerSimonian and Laird.
        heterogeneity: Cochran's Q.
        p: Of Q, with one degree of freedom fewer than estimates; NaN for a single one.
        between: Variance between sites, ``tau^2``.
        inconsistency: Part of the variation that is between sites, ``I^2``, 0 to 1.
    """

    fixed: Effect
    random: Effect
    heterogeneity: float
    p: float
    between: float
    inconsistency: float


def combine(effects: Sequence[Effect]) -> Combined:
    """Combine estimates of one effect.

    Args:
        effects: One or more, with standard errors above 0.

    >>> found = combine([Effect(0.0, 1.0), Effect(1.0, 1.0)])
    >>> found.fixed.value, round(found.fixed.error, 4), found.heterogeneity, found.between
    (0.5, 0.7071, 0.5, 0.0)
    """
    values, variances = np.array([item.value for item in effects]), np.array([item.error**2 for item in effects])
    weights = 1 / variances
    fixed = _weighted(values, weights)
    q = float((weights * (values - fixed.value) ** 2).sum())
    freedom = len(values) - 1
    scale = float(weights.sum() - (weights**2).sum() / weights.sum())
    between = max(0.0, (q - freedom) / scale) if freedom else 0.0
    return Combined(
        fixed=fixed,
        random=_weighted(values, 1 / (variances + between)),
        heterogeneity=q,
        p=chi_squared_p(q, freedom) if freedom else math.nan,
        between=between,
        inconsistency=max(0.0, (q - freedom) / q) if freedom and q > 0 else 0.0,
    )


def _weighted(values: Floats, weights: Floats) -> Effect:
    """Return the weighted mean."""
    return Effect(float((values * weights).sum() / weights.sum()), float(weights.sum() ** -0.5))
