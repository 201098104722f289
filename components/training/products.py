"""One site's half of the principal components: the products of its own rows that all sites are asked for.

See `components.principal`. What comes to a site in the place of weights names the columns that take part, their pooled
means and scales, and a block of vectors; its answer has the products in the vectors' place.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from components.errors import RefusedError
from components.principal import block_width, most_products
from components.training.local import SiteResult
from components.weights import is_finite

if TYPE_CHECKING:
    from components.data.site_data import SiteData
    from components.features import Records

INSTRUCTION = "components"  # of a plan whose sites tell products
ABOUT, VECTORS = ("chosen", "mean", "scale"), "vectors"


@torch.no_grad()
def multiply_site(weights: Mapping[str, Tensor], data: SiteData, records: Records, *, number: int) -> SiteResult:
    """Tell the products of a site's own training rows with a block of vectors, as means over the rows.

    Args:
        weights: `chosen` [P], `mean` [P], `scale` [P] and `vectors` [P, B], all float64.
        data: The site's data.
        records: The study's table.
        number: Which block this is, counted from 1.

    Returns:
        `vectors` [P, B], the products in their place; rows count as samples.

    Raises:
        RefusedError: If the block is none of this study's, or the site would tell more than
            `components.principal.most_products`.

    Guarantees:
        No number rests on fewer known values than ``smallest_cell``: a column with fewer counts as its mean here.
    """
    started = time.perf_counter()
    assert records.wide is not None  # the caller's check
    chosen, mean, scale = _about(weights, len(records.wide.columns))
    vectors = _vectors(weights, len(chosen))
    rows = data.images("train")[:, len(records.features) :].double().index_select(1, chosen)
    _require_few(len(rows), number, vectors.shape[1], records.wide.components or 0)
    known = ~torch.isnan(rows)
    counted = known & (known.sum(dim=0) >= records.smallest_cell)
    scaled = torch.where(counted, (rows - mean) / scale, 0.0)
    products = scaled.T @ (scaled @ vectors) / len(scaled)
    if not is_finite(products):
        raise RefusedError("a product of the rows is not finite; the vectors cannot be used")
    return SiteResult({VECTORS: products}, len(rows), steps=1, loss_sum=0.0, seconds=time.perf_counter() - started)


def _about(weights: Mapping[str, Tensor], columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return places, means and scales of the columns that take part."""
    if set(weights) != {*ABOUT, VECTORS}:
        raise RefusedError("what was sent is no block of vectors; has every site the same version?")
    chosen, mean, scale = (weights[name] for name in ABOUT)
    places = chosen.round().long()
    fits = all(item.dtype == torch.float64 and item.shape == chosen.shape and is_finite(item) for item in (mean, scale))
    if not fits or chosen.dim() != 1 or not len(places) or bool((scale <= 0).any()):
        raise RefusedError("the columns' means and scales do not fit")
    if int(places[0]) < 0 or int(places[-1]) >= columns or bool((places.diff() <= 0).any()):
        raise RefusedError(f"the block is of columns that the study's {columns} wide ones are not")
    return places, mean, scale


def _vectors(weights: Mapping[str, Tensor], columns: int) -> Tensor:
    """Return the block, orthonormal vectors of the columns that take part."""
    vectors = weights[VECTORS]
    if vectors.dtype != torch.float64 or vectors.dim() != 2 or len(vectors) != columns or not is_finite(vectors):
        raise RefusedError(f"the block has not one number for each of {columns} columns")
    if not torch.allclose(vectors.T @ vectors, torch.eye(vectors.shape[1], dtype=torch.float64), atol=1e-6):
        raise RefusedError("the block's vectors are not orthonormal")
    return vectors


def _require_few(rows: int, number: int, width: int, components: int) -> None:
    """Refuse to tell about as much as the rows themselves."""
    told = (number - 1) * block_width(components) + width
    if width > block_width(components) or told > most_products(rows):
        raise RefusedError(
            f"{told} products of each column were asked of {rows} training rows; fewer than the rows are told"
        )
