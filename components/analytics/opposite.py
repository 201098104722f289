"""Sites that find the opposite of all others: of a hospital with exchanged arms or outcomes, only that can be seen.

Looked at are sums that were told anyway. What is said is a question: a hospital may be unlike the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from components.analytics.meta import Effect, combine
from components.analytics.plan import Analysis
from components.analytics.records import SiteExits, SiteLogrank
from components.analytics.survival import Z95

UNLIKE = "or are its patients unlike the others'?"
_HALF = 0.1  # a share of events nearer than this to one half is like that of exchanged outcomes


def opposite_effects(effects: Mapping[str, Mapping[str, Effect]]) -> list[str]:
    """Say which sites' effect of an arm lies, with its 95 % interval, on the other side of none than the others'.

    Args:
        effects: By site and arm, logarithms of hazard ratios, each from that site alone.

    >>> good = {site: {"drug": Effect(-0.5, 0.1)} for site in ("east", "north")}
    >>> opposite_effects(good | {"west": {"drug": Effect(0.6, 0.2)}})[0].rpartition(': ')[2]
    "are its arms exchanged there, or are its patients unlike the others'?"
    >>> opposite_effects(good | {"west": {"drug": Effect(0.1, 0.2)}})
    []
    """
    found = []
    for site, own in effects.items():
        for label, effect in own.items():
            others = [row[label] for name, row in effects.items() if name != site and label in row]
            if len(others) > 1 and _apart(effect, combine(others).random):
                found.append(
                    f"{site}: the hazard ratio of {label} is {_ratio(effect)}, and at the other sites together "
                    f"{_ratio(combine(others).random)}: are its arms exchanged there, {UNLIKE}"
                )
    return found


def logrank_effects(strata: Mapping[str, SiteLogrank], analysis: Analysis) -> dict[str, dict[str, Effect]]:
    """Return each site's effect of each further arm from its log-rank sums: (O - E) / V, with the error 1 / sqrt(V).

    Reference: Peto et al. (1977), Br J Cancer 35; with more than two arms, of the arm against all others.
    """
    found: dict[str, dict[str, Effect]] = {}
    for site, sums in strata.items():
        for place, level in enumerate(analysis.arm.levels[1:], start=1):
            variance = sums.covariance[place][place]
            if variance > 0:
                value = (sums.observed[place] - sums.expected[place]) / variance
                found.setdefault(site, {})[f"{analysis.arm.column}: {level}"] = Effect(value, variance**-0.5)
    return found


def exchanged_events(exits: Mapping[str, SiteExits]) -> list[str]:
    """Say at which sites as many have the event as are censored at the others, where these differ clearly."""
    counts = {site: _counts(item) for site, item in exits.items()}
    found = []
    for site, (events, patients) in counts.items():
        others = [item for name, item in counts.items() if name != site]
        total = sum(number for _, number in others)
        if len(others) < 2 or not total or not patients:
            continue
        share, usual = events / patients, sum(seen for seen, _ in others) / total
        turned = 1 - usual
        error = Z95 * math.sqrt(turned * usual / patients)
        if abs(usual - 0.5) > _HALF and abs(share - turned) <= error < abs(share - usual):
            found.append(
                f"{site}: {100 * share:.0f} % have the event, and at the other sites together {100 * usual:.0f} %: are "
                f"events and censored exchanged there (1 is the event), {UNLIKE}"
            )
    return found


def _counts(exits: SiteExits) -> tuple[int, int]:
    """Return how many have an event of any cause, and how many patients there are."""
    events = sum(sum(cause) for arm in exits.arms for cause in arm.events)
    return events, events + sum(sum(arm.censored) for arm in exits.arms)


def _apart(one: Effect, other: Effect) -> bool:
    """Whether two effects are on two sides of none."""
    return one.low > 0 > other.high or one.high < 0 < other.low


def _ratio(effect: Effect) -> str:
    low, value, high = (math.exp(item) for item in (effect.low, effect.value, effect.high))
    return f"{value:.3g} ({low:.3g} to {high:.3g})"
