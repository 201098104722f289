"""The rounds in which all sites tell products of their rows, before the first weights; see `components.principal`.

Orders, slots and updates are those of a training's rounds, under an identifier of their own: what is sealed, signed and
checked there is so here. They end before anything is in the journal; who is killed in them begins them anew, and every
site is asked the same again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from components.dispatch import OrderDispatcher
from components.errors import DataError, RefusedError
from components.exchange.store import FolderStore
from components.federation import receive, slot_of, training_order
from components.principal import (
    MOST_ROUNDS,
    FittedComponents,
    Floats,
    Krylov,
    Leading,
    block_width,
    leading,
    most_products,
    next_block,
)
from components.rounds import Answer, Order, RoundPlan, ServerState
from components.study import Study
from components.training.products import ABOUT, INSTRUCTION, VECTORS
from components.weights import WeightedMean, Weights
from components.wide_sums import FittedWide

CHECK_EVERY_S, SAID_AFTER_S = 1.0, 15.0


@dataclass(frozen=True)
class Asked:
    """Who is asked for products, and how they are reached.

    Attributes:
        study: The study.
        rows: Training rows of each site.
        training: Identifier of these rounds; no other rounds may have it.
        dispatcher: Reaches the sites.
        store: The exchange.
        say: Is told what is done, and for whom is waited.
        check: Called while somebody is waited for; raises what ends the waiting.
    """

    study: Study
    rows: Mapping[str, int]
    training: str
    dispatcher: OrderDispatcher
    store: FolderStore
    say: Callable[[str], None]
    check: Callable[[], object]


def fit_components(asked: Asked, wide: FittedWide, components: int) -> FittedComponents:
    """Fit the leading principal components of the columns that take part, over the training rows of all sites.

    Args:
        asked: Who is asked.
        wide: The columns, with their means and scales.
        components: How many.

    Returns:
        Those of all rows in one place to `components.principal.NEAR`, as far as `exact` says so.

    Raises:
        DataError: If fewer vary, or a site has too few rows.
        RefusedError: If a site's answer is none, or fails a check.
    """
    places = np.setdiff1d(np.arange(len(wide.chosen)), wide.constant)
    columns = _columns(wide, places)
    most, width = min(most_products(rows) for rows in asked.rows.values()), block_width(components)
    found, number, told = Krylov.begin(len(places)), 0, None
    while number < MOST_ROUNDS and (told is None or not told.exact.all()):
        block = next_block(found, min(width, most - found.told))
        if not block.shape[1]:
            break
        number += 1
        asked.say(f"principal components: all hospitals' products with {found.told + block.shape[1]} vectors")
        found = found.extended(block, _product(asked, columns, block, number))
        told = leading(found, components)
    if told is None:
        raise DataError(
            f"fewer than {components} principal components of {len(places)} columns can be told from {found.told} "
            "products of each; lower data.records.wide.components"
        )
    return _fitted(told, found, number, wide=wide, places=places, rows=sum(asked.rows.values()))


def _columns(wide: FittedWide, places: np.ndarray) -> Weights:
    """Return the columns that vary, with means and scales, as they are sent."""
    values = {"chosen": wide.chosen, "mean": wide.mean, "scale": wide.scale}
    return {name: torch.tensor(values[name], dtype=torch.float64)[torch.from_numpy(places)] for name in ABOUT}


def _product(asked: Asked, columns: Weights, block: Floats, number: int) -> Floats:
    """Return the products of all sites' rows with a block, as a mean over the rows."""
    weights = {**columns, VECTORS: torch.from_numpy(np.ascontiguousarray(block))}
    plan = RoundPlan(
        study=asked.study.study,
        study_digest=asked.study.digest,
        training=asked.training,
        round=number,
        base_digest=asked.store.put_weights(weights),
        roster=sorted(asked.rows),
        quorum=len(asked.rows),
        deadline_s=asked.study.rounds.deadline_s,
        instructions={INSTRUCTION: True},
    )
    orders = {site: training_order(plan, site) for site in plan.roster}
    answers = {site: asked.dispatcher.submit(order) for site, order in orders.items()}
    _wait(asked, answers)
    mean = WeightedMean()
    for site, order in orders.items():
        update = _received(asked, order, answers[site].result(), ServerState(number - 1, 0, weights))
        mean.add({VECTORS: update}, asked.rows[site])
    found: Floats = mean.entry(VECTORS).numpy()
    return found


def _wait(asked: Asked, answers: Mapping[str, Future[Answer]]) -> None:
    """Wait for everybody's answer: without one of them there is no sum over all rows."""
    since, said = time.monotonic(), ""
    while (found := wait(answers.values(), timeout=CHECK_EVERY_S, return_when=FIRST_EXCEPTION)).not_done:
        for future in found.done:
            future.result()  # or raise what was wrong with it
        asked.check()
        absent = ", ".join(site for site, future in answers.items() if not future.done())
        if time.monotonic() - since > SAID_AFTER_S and absent != said:
            said = absent
            asked.say(f"principal components: waiting for the products of {absent}")


def _received(asked: Asked, order: Order, answer: Answer, state: ServerState) -> Tensor:
    """Return a site's products, checked."""
    update = receive(order, answer, state, asked.store, left_out=ABOUT).update
    assert update is not None  # received
    if update.weight != asked.rows[order.site]:
        raise RefusedError(
            f"{order.site}: its products are over {update.weight:g} rows, and it said it has {asked.rows[order.site]}"
        )
    return asked.store.get_update(slot_of(order.plan, order.site), update)[VECTORS]


def _fitted(
    told: Leading, found: Krylov, number: int, *, wide: FittedWide, places: np.ndarray, rows: int
) -> FittedComponents:
    """Return components as they are registered; a column that does not vary has no part in any."""
    loadings = np.zeros((len(told.variances), len(wide.chosen)))
    loadings[:, places] = told.vectors.T
    return FittedComponents(
        loadings=loadings.tolist(),
        spread=[math.sqrt(variance) for variance in told.variances],
        explained=(told.variances * rows / wide.known).tolist(),
        exact=told.exact.tolist(),
        products=found.told,
        rounds=number,
    )
