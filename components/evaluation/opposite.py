"""Sites at which a model that is right elsewhere is wrong: all that can be seen of a hospital with swapped outcomes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from components.evaluation.intervals import Estimate, estimate_text

_Z95, _Z99 = 1.959963984540054, 2.5758293035489004
UNLIKE = "or are its patients unlike the others'?"  # true of real hospitals where nothing is wrong
_EDGE = 1e-6  # an interval that ends at 0 or 1 has no logit there


def opposite_sites(found: Mapping[str, Estimate], *, survival: bool) -> list[str]:
    """Say at which sites the model ranks the wrong way round, and of survival no better than chance.

    Swapped classes turn the ranks round. Events that are exchanged with what is censored do not: who is censored says
    nothing of the risk, so that there the model ranks as chance does, clearly (99 %) worse than at the others.

    Args:
        found: By site, the AUROC or the concordance of the federation's model on the site's own items.
        survival: Whether it is a concordance.

    >>> found = {"east": Estimate(0.8, 0.7, 0.9, 90), "north": Estimate(0.8, 0.7, 0.9, 90)}
    >>> opposite_sites({**found, "west": Estimate(0.2, 0.1, 0.3, 90)}, survival=False)[0].rpartition(": ")[2]
    "are its labels swapped, or are its patients unlike the others'?"
    >>> opposite_sites({**found, "west": Estimate(0.52, 0.4, 0.6, 90)}, survival=False)
    []
    """
    said = []
    for site, item in found.items():
        others = [other for name, other in found.items() if name != site]
        if not others:
            continue
        value, error = _together(others)
        right = value - _Z95 * error > 0
        if right and item.high < 0.5:
            said.append(_words(site, item, value, survival=survival))
        elif right and survival and item.low <= 0.5:
            own, spread = _logit(item.value), _error(item)
            if value - own > _Z99 * math.hypot(error, spread):
                said.append(_words(site, item, value, survival=survival))
    return said


def _words(site: str, item: Estimate, others: float, *, survival: bool) -> str:
    """Say what is seen, and ask."""
    name, asked = ("AUROC", "are its labels swapped")
    if survival:
        name, asked = (
            "concordance",
            "are events and censored exchanged there, are its times wrong",
        )
    how = "the model ranks its patients the wrong way round" if item.high < 0.5 else "no better than chance"
    usual = 1 / (1 + math.exp(-others))
    return f"{site}: {name} {estimate_text(item)}, {how}, and {usual:.2f} at the other sites: {asked}, {UNLIKE}"


def _together(found: Sequence[Estimate]) -> tuple[float, float]:
    """Return the mean of estimates on the logit scale, weighted by the inverse of their variances; and its error."""
    weights = [_error(item) ** -2 for item in found]
    total = math.fsum(weights)
    return math.fsum(
        weight * _logit(item.value) for weight, item in zip(weights, found, strict=True)
    ) / total, total**-0.5


def _error(item: Estimate) -> float:
    """Return the standard error on the logit scale, from the interval."""
    return max(_logit(item.high) - _logit(item.low), _EDGE) / (2 * _Z95)


def _logit(value: float) -> float:
    bounded = min(max(value, _EDGE), 1 - _EDGE)
    return math.log(bounded / (1 - bounded))
