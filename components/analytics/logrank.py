"""The stratified log-rank test: each site is a stratum of its own, and only its sums leave it.

What leaves are, by arm, the observed and the expected events and their covariance: exact, also under disclosure
control, which asks that no arm has a small number of patients or events. The unstratified test needs the numbers at
risk of all sites at each time, and so the counts of `components.analytics.survival`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from components.analytics.disclosure import FREE, WithheldError, is_small, rounded
from components.analytics.plan import Analysis, Disclosure
from components.analytics.records import SiteExits, SiteLogrank
from components.analytics.survival import Test, count_exits, groups_of, logrank_sums, logrank_test
from components.analytics.table import Cohort


def compare_arms(cohort: Cohort, analysis: Analysis, policy: Disclosure) -> SiteLogrank:
    """Compare the arms within a site: its half of the stratified test, on the exact times.

    Raises:
        WithheldError: If an arm has few patients, or few events, and not none.
    """
    counts = [int(((cohort.arms == arm) & kind).sum()) for arm in range(len(analysis.arm.levels))
              for kind in (cohort.causes >= 0, cohort.causes == 1)]  # fmt: skip
    if any(is_small(count, policy) for count in counts):
        raise WithheldError(f"an arm has fewer than {policy.smallest_cell} patients, or patients with an event")
    groups = groups_of({"": count_exits(cohort, analysis, FREE)}, analysis)
    observed, expected, covariance = logrank_sums(groups, 0)
    told = np.array([rounded(int(count), policy) for count in observed], dtype=float)
    observed, expected = told, expected + told - observed  # the test looks at the difference, which stays exact
    return SiteLogrank(observed=observed.tolist(), expected=expected.tolist(), covariance=covariance.tolist())


def stratified_logrank(found: Mapping[str, SiteLogrank]) -> Test:
    """Return the test over the sites' sums."""
    sites = [site for _, site in sorted(found.items())]
    observed, expected, covariance = (
        np.sum([getattr(site, name) for site in sites], axis=0) for name in ("observed", "expected", "covariance")
    )
    return logrank_test(observed, expected, covariance)


def pooled_logrank(found: Mapping[str, SiteExits], analysis: Analysis) -> Test:
    """Return the unstratified test from the sites' counts."""
    return logrank_test(*logrank_sums(groups_of(found, analysis), 0))
