"""95 % intervals from formulas: no resampling, so that equal sums give equal intervals.

References:
    Wilson (1927), Probable inference, the law of succession, and statistical inference. JASA 22.
    Newcombe (1998), Interval estimation for the difference between independent proportions. Stat Med 17.
    Zou, Donner (2008), Construction of confidence limits about effect measures. Stat Med 27 (MOVER).
    Bhatia, Davis (2000), A better bound on the variance. Am Math Monthly 107.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from components.digits import interval_text, number_text

Interval = tuple[float, float]

Z95 = 1.959963984540054  # 97.5 % point of the standard normal distribution


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval and what it rests on.

    Attributes:
        value: The number.
        low: Lower end of the interval.
        high: Upper end of the interval.
        support: Items the number rests on: all of them, or for sensitivity those that have the class, for
            specificity those that do not.
    """

    value: float
    low: float
    high: float
    support: int

    def __post_init__(self) -> None:
        if not -math.inf < self.low <= self.value <= self.high < math.inf:
            raise ValueError(
                f"an estimate needs finite low <= value <= high, given {self.low}, {self.value}, {self.high}"
            )


@dataclass(frozen=True)
class Undefined:
    """Stands where a metric has no value, with the reason."""

    reason: str


Outcome = Estimate | Undefined


def estimate(value: float, interval: Interval, support: int) -> Estimate:
    """Make an `Estimate`, its interval widened by as much rounding as it takes to hold the value."""
    return Estimate(value, min(interval[0], value), max(interval[1], value), support)


def wilson(successes: float, trials: float) -> Interval:
    r"""Return Wilson's score interval of a proportion.

    .. math:: \frac{\hat p + z^2/2n \pm z\sqrt{\hat p(1-\hat p)/n + z^2/4n^2}}{1 + z^2/n}

    Args:
        successes: Number of successes; need not be whole, see `bounded`.
        trials: Number of trials, above zero.

    Raises:
        ValueError: If `trials` is not above zero or `successes` is not within 0 and `trials`.

    Reference:
        Wilson (1927).

    >>> [round(end, 4) for end in wilson(8, 10)]
    [0.4902, 0.9433]
    """
    if not (trials > 0 and 0 <= successes <= trials):
        raise ValueError(f"needs 0 <= successes <= trials and trials above 0, given {successes} of {trials}")
    share, squared = successes / trials, Z95 * Z95
    centre = (share + squared / (2 * trials)) / (1 + squared / trials)
    half = Z95 / (1 + squared / trials) * math.sqrt(share * (1 - share) / trials + squared / (4 * trials * trials))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


def bounded(value: float, standard_error: float, *, effective_items: float) -> Interval:
    r"""Return an interval inside [0, 1]: normal on the logit scale, Wilson where that says nothing.

    .. math:: \mathrm{logit}^{-1}\left(\mathrm{logit}(v) \pm z\,\frac{s}{v(1-v)}\right)

    Args:
        value: The estimate, in [0, 1].
        standard_error: Its standard error.
        effective_items: Number n for which ``value * (1 - value) / n`` is a bound of the variance. For the
            mean of n values in [0, 1] that is n (Bhatia, Davis 2000).

    Guarantees:
        Without a spread (all items alike, one item only, a perfect separation) the estimated standard error
        is zero and would promise certainty; then this is Wilson's interval for the largest variance possible.

    >>> [round(end, 4) for end in bounded(0.9, 0.03, effective_items=50)]
    [0.824, 0.9453]
    >>> [round(end, 4) for end in bounded(1.0, 0.0, effective_items=50)]
    [0.9287, 1.0]
    """
    if not (standard_error > 0 and 0 < value < 1):
        return wilson(min(max(value, 0.0), 1.0) * effective_items, effective_items)
    logit, half = math.log(value / (1 - value)), Z95 * standard_error / (value * (1 - value))
    return _expit(logit - half), _expit(logit + half)


def normal(value: float, standard_error: float) -> Interval:
    """Return the normal interval, value plus and minus 1.96 standard errors.

    >>> normal(0.5, 0.0)
    (0.5, 0.5)
    """
    return value - Z95 * standard_error, value + Z95 * standard_error


def mean_of(outcomes: Sequence[Outcome], *, disjoint: bool) -> Outcome:
    r"""Return the mean of estimates with an interval recovered from theirs (MOVER).

    .. math:: \bar v - \frac1k\sqrt{\textstyle\sum_i (v_i - l_i)^2}\ \text{(disjoint)},\qquad
              \bar v - \frac1k\textstyle\sum_i (v_i - l_i)\ \text{(the same items)}

    and the upper end alike. Estimates on the same items are correlated to a degree that histograms do not
    tell; the second form is right for the largest correlation and wider than needed for any other.

    Args:
        outcomes: One per class, one at least.
        disjoint: Whether each rests on items of its own (sensitivity and specificity; recall by true class).

    Returns:
        The mean; `Undefined` with the first reason if one of them is: a mean over fewer classes would be
        another metric under the same name.

    Reference:
        Newcombe (1998), method 10; Zou, Donner (2008), equation 2 with correlation 0 or 1.

    >>> mean_of([Estimate(0.75, 0.5, 1.0, 10), Estimate(0.25, 0.0, 0.5, 10)], disjoint=False)
    Estimate(value=0.5, low=0.25, high=0.75, support=10)
    """
    estimates = [outcome for outcome in outcomes if isinstance(outcome, Estimate)]
    if len(estimates) < len(outcomes):
        return next(outcome for outcome in outcomes if isinstance(outcome, Undefined))
    count = len(estimates)
    value = math.fsum(item.value for item in estimates) / count
    add = math.hypot if disjoint else lambda *distances: math.fsum(distances)
    low = value - add(*(item.value - item.low for item in estimates)) / count
    high = value + add(*(item.high - item.value for item in estimates)) / count
    supports = [item.support for item in estimates]
    return estimate(value, (low, high), sum(supports) if disjoint else max(supports))


def estimate_text(value: Estimate | None, digits: int = 2, *, joint: str = " ") -> str:
    """Write an estimate for a table of plain text; what is not defined is a dash, and what has no interval has none.

    Args:
        value: The estimate.
        digits: Digits after the point, of the value and of its interval.
        joint: Between the value and its interval.

    >>> estimate_text(Estimate(0.934, 0.9, 0.951, 200))
    '0.93 [0.90 to 0.95]'
    >>> estimate_text(Estimate(0.934, 0.934, 0.934, 200)), estimate_text(None)
    ('0.93', '-')
    """
    if value is None:
        return "-"
    interval = f"{joint}[{interval_text(value.low, value.high, digits)}]" if value.low < value.high else ""
    return f"{number_text(value.value, digits)}{interval}"


def _expit(logit: float) -> float:
    """Return the inverse of the logit, without overflow."""
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
