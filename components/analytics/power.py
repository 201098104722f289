"""How many events, and patients, a trial needs for a log-rank test.

Reference: Schoenfeld, "Sample-size formula for the proportional-hazards regression model", Biometrics 1983; Freedman,
"Tables of the number of patients required in clinical trials using the logrank test", Statistics in Medicine 1982.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import ndtr, ndtri

from components.analytics.plan import Power


@dataclass(frozen=True)
class SampleSize:
    """What a trial needs.

    Attributes:
        events: By Schoenfeld's formula, rounded up.
        events_freedman: By Freedman's, for equal arms and else at the same allocation.
        patients: Events by the share of patients who have one, rounded up.
        event_share: That share.
        power_here: Power that the events of the present analysis have.
    """

    events: int
    events_freedman: int
    patients: int
    event_share: float
    power_here: float


def sample_size(plan: Power, *, event_share: float, events_here: int) -> SampleSize:
    """Return how large a trial must be.

    ``d = (z_{1-a/2} + z_{power})^2 / (p (1 - p) (log HR)^2)`` (Schoenfeld).

    Args:
        plan: What is to be detected.
        event_share: Part of the patients who will have the event, above 0.
        events_here: Events of the present analysis.

    >>> sample_size(Power(hazard_ratio=0.5), event_share=0.5, events_here=66).events
    66
    """
    effect, part = math.log(plan.hazard_ratio), plan.allocation * (1 - plan.allocation)
    z = float(ndtri(1 - plan.alpha / 2) + ndtri(plan.power))
    events = math.ceil(z**2 / (part * effect**2))
    ratio = plan.allocation / (1 - plan.allocation)  # patients who are given what is new, per one who is not
    freedman = z**2 * (1 + ratio * plan.hazard_ratio) ** 2 / (ratio * (1 - plan.hazard_ratio) ** 2)
    reached = math.sqrt(events_here * part) * abs(effect) - float(ndtri(1 - plan.alpha / 2))
    return SampleSize(
        events=events,
        events_freedman=math.ceil(freedman),
        patients=math.ceil(events / event_share),
        event_share=event_share,
        power_here=float(ndtr(reached)),
    )
