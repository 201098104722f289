r"""Principal components of rows that stay where they are, from products of their summed squares with a few vectors.

With all sites' rows :math:`z_i` (less the pooled means, divided by the pooled deviations, 0 where a value is missing),
:math:`A = \frac1n\sum_i z_i z_i^T` is as large as the columns are many, and nobody forms it. Round by round, a site
tells of a block of vectors :math:`Q_j`, the same for all sites,

.. math:: \frac1{n_k} Z_k^T (Z_k Q_j), \qquad
          A Q_j = \sum_k \frac{n_k}{n} \cdot \frac1{n_k} Z_k^T (Z_k Q_j),

and the next block is what of :math:`A Q_j` is orthogonal to all before. In :math:`V = [Q_1, Q_2, \dots]` the leading
eigenvectors of :math:`V^T A V` (Rayleigh, Ritz) become those of :math:`A`: at the latest when :math:`V` has as many
vectors as there are rows or columns, and far earlier where they stand out. How near they are follows from what was
told: the residual of a vector over its distance to the next variance bounds the sine of its angle to the true one.

The first block is the same in every study of as many columns, so that repeating a study tells nothing new.

Reference:
    Golub, Underwood 1977, "The block Lanczos method for computing eigenvalues"; as block Krylov iteration, Musco, Musco
    2015, "Randomized Block Krylov Methods for Stronger and Faster Approximate Singular Value Decomposition",
    algorithm 2. Hospitals' products, summed: Hartebrodt, Röttger 2022, "Federated horizontally partitioned principal
    component analysis for biomedical applications", whose subspace iteration forgets what the rounds before told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from components.rounds import Record
from components.seeds import generator

Floats = NDArray[np.float64]
Number = Annotated[float, Field(allow_inf_nan=False)]
NEAR = 1e-7  # sine of the largest angle at which a component is the pooled rows' own
NOTHING = 1e-10  # of the largest variance: below it is rounding
MOST_ROUNDS = 100


class ToldComponents(Record):
    """What is said of principal components.

    Attributes:
        spread: By component, its standard deviation over all training rows: what it is divided by.
        explained: By component, its part of the variance of all columns that take part.
        exact: By component, whether it is that of all rows in one place, to `NEAR`; else it is as near as the sites
            could tell.
        products: Products of each column that every site told.
        rounds: In so many rounds.
    """

    spread: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    explained: list[Number]
    exact: list[bool]
    products: int
    rounds: int

    @property
    def csv(self) -> str:
        """A line for each component."""
        lines = ["component,explained,explained_together,exact"]
        together = np.cumsum(self.explained)
        for place, (part, exact) in enumerate(zip(self.explained, self.exact, strict=True)):
            lines.append(f"{place + 1},{part:.6f},{together[place]:.6f},{str(exact).lower()}")
        return "\n".join(lines) + "\n"


class FittedComponents(ToldComponents):
    """Principal components of the columns that take part.

    Attributes:
        loadings: By component, its coefficient of each column, [C][P]; of length 1, the largest one positive.
    """

    loadings: list[list[Number]]

    @property
    def told(self) -> ToldComponents:
        """What is said of them."""
        return ToldComponents.model_validate(self.model_dump(exclude={"loadings"}))


@dataclass(frozen=True)
class Krylov:
    """What is known of the summed squares of all rows.

    Attributes:
        vectors: Orthonormal, [P, T].
        products: :math:`A` times each, [P, T].
    """

    vectors: Floats
    products: Floats

    @classmethod
    def begin(cls, columns: int) -> Krylov:
        """Know nothing, of so many columns."""
        return cls(np.empty((columns, 0)), np.empty((columns, 0)))

    @property
    def told(self) -> int:
        """Products that are known, T."""
        return int(self.vectors.shape[1])

    def extended(self, block: Floats, products: Floats) -> Krylov:
        """Know another block's products, too."""
        return Krylov(np.hstack([self.vectors, block]), np.hstack([self.products, products]))


@dataclass(frozen=True)
class Leading:
    """Leading components as far as they are known.

    Attributes:
        vectors: [P, C], by falling variance.
        variances: [C].
        exact: Whether each is known to `NEAR`, [C].
    """

    vectors: Floats
    variances: Floats
    exact: NDArray[np.bool_]


def block_width(components: int) -> int:
    """Return how many vectors a round's block has: few, since more of them tell less each, and more make fewer rounds.

    >>> block_width(2), block_width(10), block_width(50)
    (2, 2, 10)
    """
    return max(2, -(-components // 5))


def most_products(rows: int) -> int:
    """Return how many products of each column a site tells at most.

    As many as it has rows would give all products of its columns with each other, and with them its rows but for a
    rotation; so it stays below.

    >>> most_products(80)
    79
    """
    return max(rows - 1, 0)


def next_block(found: Krylov, width: int) -> Floats:
    """Return the next vectors to ask for, [P, at most width]; none where there is no direction left."""
    columns, told = found.vectors.shape
    width = min(width, columns - told)
    if width < 1:
        return np.empty((columns, 0))
    largest = np.abs(found.products).max(initial=0.0)
    left = (
        _orthonormal(found.products[:, -width:], found.vectors, NOTHING * largest) if told else np.empty((columns, 0))
    )
    if left.shape[1]:
        return left
    fresh = generator(0, "principal components", columns, told).normal(size=(columns, width))
    return _orthonormal(fresh, found.vectors, 0.0)


def leading(found: Krylov, count: int) -> Leading | None:
    """Return the leading components; None where fewer than `count` that vary are known."""
    if found.told < count:
        return None
    form = found.vectors.T @ found.products
    variances, turned = np.linalg.eigh((form + form.T) / 2)
    variances, turned = variances[::-1], turned[:, ::-1]
    if not variances[count - 1] > NOTHING * variances[0]:
        return None
    vectors = found.vectors @ turned[:, :count]
    residuals = np.linalg.norm(found.products @ turned[:, :count] - vectors * variances[:count], axis=0)
    apart = np.abs(variances[:count, None] - variances[None, :])
    apart[np.arange(count), np.arange(count)] = np.inf
    whole = found.told == len(found.vectors)
    distance = apart.min(axis=1) if found.told > count or whole else np.zeros(count)
    exact = (residuals <= NEAR * distance) | whole
    largest = np.abs(vectors).argmax(axis=0)
    return Leading(vectors * np.sign(vectors[largest, np.arange(count)]), variances[:count], exact)


def _orthonormal(block: Floats, before: Floats, least: float) -> Floats:
    """Return orthonormal vectors of what of a block is orthogonal to `before`, and longer than `least`."""
    for _ in range(2):  # once leaves what rounding made of it
        block = block - before @ (before.T @ block)
    vectors, lengths, _ = np.linalg.svd(block, full_matrices=False)
    vectors = vectors[:, lengths > least]
    vectors = vectors - before @ (before.T @ vectors)
    found: Floats = np.linalg.qr(vectors)[0]
    return found
