r"""Screening of wide tables: of thousands of columns, which say something of the outcome, by sums over sites.

Under the model in which no column matters, a site tells of each column :math:`x` the score :math:`U` (the derivative of
the log-likelihood) and its information :math:`V`, of its training rows. Both add up, and

.. math:: \chi^2 = \Big(\sum_k U_k\Big)^2 \Big/ \sum_k V_k

ranks the columns; the largest are kept. It is the score test of each column on its own, stratified by site (Rao 1948;
Cox 1972 for times), and does not depend on the column's scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def class_scores(table: Floats, labels: NDArray[np.int64]) -> tuple[Floats, Floats]:
    r"""Return score and information [W] of each column for a binary outcome.

    .. math:: U = \sum_i (y_i - \bar y)(x_i - \bar x),\qquad V = \bar y (1 - \bar y) \sum_i (x_i - \bar x)^2

    Args:
        table: [N, W] values; NaN counts as the column's mean.
        labels: [N] zeros and ones.

    >>> [found.tolist() for found in class_scores(np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([0, 0, 1, 1]))]
    [[2.0], [1.25]]
    """
    about, share = _about_mean(table), float(labels.mean())
    return (labels - share) @ about, share * (1 - share) * (about**2).sum(axis=0)


def survival_scores(table: Floats, labels: Floats) -> tuple[Floats, Floats]:
    r"""Return score and information [W] of each column for times until an event, with Breslow's ties.

    .. math:: U = \sum_{i: \delta_i = 1} \big(x_i - \bar x(T_i)\big),\qquad
              V = \sum_{i: \delta_i = 1} \big(\overline{x^2}(T_i) - \bar x(T_i)^2\big)

    with means over who was still observed at :math:`T_i`.

    Args:
        table: [N, W] values; NaN counts as the column's mean.
        labels: [N, 2] times and events.
    """
    order = np.argsort(-labels[:, 0], kind="stable")
    about, time, event = _about_mean(table)[order], labels[order, 0], labels[order, 1] > 0
    first, second = about.cumsum(axis=0), (about**2).cumsum(axis=0)
    # All of one time are at risk together: the last of them in this order has the sums.
    last = np.searchsorted(-time, -time[event], side="right") - 1
    count = (last + 1)[:, None]
    mean = first[last] / count
    return (about[event] - mean).sum(axis=0), np.maximum(second[last] / count - mean**2, 0.0).sum(axis=0)


def strongest(scores: Floats, information: Floats, keep: int) -> list[int]:
    """Return the places of the columns with the largest statistics, in the order of the columns.

    Args:
        scores: [W] of all sites together.
        information: [W]; a column without any is never kept.
        keep: How many; fewer come back where fewer have information.

    >>> strongest(np.array([1.0, -3.0, 2.0, 9.0]), np.array([1.0, 1.0, 1.0, 0.0]), 2)
    [1, 2]
    """
    statistic = np.where(information > 0, scores**2 / np.where(information > 0, information, 1.0), -1.0)
    ranked = np.argsort(-statistic, kind="stable")[:keep]
    return sorted(int(place) for place in ranked if statistic[place] >= 0)


def _about_mean(table: Floats) -> Floats:
    """Return the columns less their mean; what is missing is the mean."""
    known = ~np.isnan(table)
    mean = np.where(known, table, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.where(known, table - mean, 0.0)
