r"""The elastic net: the lowest point of a quadratic form with a ridge and a lasso.

.. math:: \tfrac12 (w - v)^T H (w - v) + g^T (w - v) + \tfrac\lambda2 \lVert w \rVert_2^2 + \mu \sum_{j < d} |w_j|

With gradient g and curvature H of a loss at v, this is one step of the proximal Newton method, whose steps end at the
penalised fit itself, with coefficients that are 0 and not only small.

References:
    Friedman, Hastie, Tibshirani 2010, "Regularization Paths for Generalized Linear Models via Coordinate Descent";
    Simon, Friedman, Hastie, Tibshirani 2011, the same for Cox's regression;
    Lee, Sun, Saunders 2014, "Proximal Newton-Type Methods".
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CLOSE = 1e-12  # of the largest coefficient: a sweep that changes none by more is the last
SWEEPS = 10_000


def lowest_point(
    gradient: Tensor, curvature: Tensor, at: Tensor, *, ridge: float, lasso: float, thinned: int
) -> Tensor:
    """Return where the penalised quadratic form is lowest, by cyclic coordinate descent.

    Args:
        gradient: [P] of the loss at `at`.
        curvature: [P, P], symmetric and positive semidefinite; it need not have an inverse.
        at: [P] coefficients it was measured at.
        ridge: The factor of half the squared coefficients.
        lasso: The factor of the absolute coefficients, above 0.
        thinned: How many coefficients, the first ones, the lasso is on: an intercept after them is not.

    Returns:
        [P] in double precision. The same numbers give the same result on every machine, but for the last bits.

    Raises:
        ValueError: If it does not settle: some coefficients grow without end.
    """
    form, start = curvature.double().numpy(), at.double().numpy()
    slope = gradient.double().numpy() - form @ start
    factor = np.diag(form) + ridge
    found, product = start.copy(), form @ start
    bound = np.where(np.arange(len(found)) < thinned, lasso, 0.0)
    for _ in range(SWEEPS):
        largest = 0.0
        for place in range(len(found)):
            if factor[place] <= 0:  # nothing is known of it
                continue
            pull = factor[place] * found[place] - slope[place] - product[place] - ridge * found[place]
            value = np.sign(pull) * max(abs(pull) - bound[place], 0.0) / factor[place]
            change = value - found[place]
            if change:
                found[place] = value
                product += change * form[:, place]
                largest = max(largest, abs(change))
        if largest <= CLOSE * max(np.abs(found).max(), 1.0):
            return torch.from_numpy(found)
    raise ValueError("the elastic net does not settle")
