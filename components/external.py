"""Leave one site out: for each site a model trained at all the others, judged on all items of that site.

Each is trained by the plain loop of `components.simulation` with the study's own strategy, rules and seed. Of a table,
what is done to its columns is fitted without the site, too. All of the site's items judge: its model has seen none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from components.dispatch import InitialModel, OrderDispatcher
from components.errors import RefusedError
from components.evaluation.histograms import add_sums
from components.exchange.store import FolderStore
from components.federation import evaluation_order
from components.rounds import ScoreSums, Split
from components.simulation import simulate
from components.strategies import Strategy
from components.study import Study

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Rotation:
    """What a validation at left-out sites needs.

    Attributes:
        study: The study.
        strategy: Its strategy.
        training: Identifier of the training that it belongs to.
        sites: The sites, each of which is left out once.
        initial: Returns the weights to start from when only these sites take part.
        dispatcher: Reaches the sites.
        store: The exchange.
    """

    study: Study
    strategy: Strategy
    training: str
    sites: Sequence[str]
    initial: Callable[[Sequence[str]], InitialModel]
    dispatcher: OrderDispatcher
    store: FolderStore


def leave_one_site_out(rotation: Rotation) -> dict[str, ScoreSums]:
    """Leave each site out once.

    Args:
        rotation: Who takes part; two sites at least.

    Returns:
        By site, the sums over all of its items of the model trained without it.

    Raises:
        RefusedError: If a site cannot evaluate the model.
        WardRoundError: As `components.simulation.simulate`.
    """
    return {site: _without(rotation, site) for site in sorted(rotation.sites)}


def pooled_external(found: Mapping[str, ScoreSums]) -> ScoreSums:
    """Return the sums over everybody, each item judged by the model that was trained without its site."""
    return add_sums([found[site] for site in sorted(found)])


def _without(rotation: Rotation, left_out: str) -> ScoreSums:
    """Train without a site, and judge the best round on all of its items."""
    others = [site for site in rotation.sites if site != left_out]
    best = simulate(
        rotation.study,
        rotation.strategy,
        rotation.dispatcher,
        rotation.store,
        sites=others,
        training=f"{rotation.training}.without-{left_out}"[:63],
        initial=rotation.initial(others),
    ).best
    orders = [evaluation_order(best.plan, left_out, best.ref.weights, split) for split in SPLITS]
    answers = [future.result() for future in [rotation.dispatcher.submit(order) for order in orders]]
    sums = []
    for answer in answers:
        if answer.sums is None:
            raise RefusedError(f"{left_out} could not judge the model trained without it: {answer.reason}")
        sums.append(answer.sums)
    return add_sums(sums)
