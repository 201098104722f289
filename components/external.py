"""Leave one site out: for each site a model trained at all the others, judged on all items of that site.

Each is trained by the plain loop of `components.simulation` with the study's own strategy, rules and seed. Of a table,
what is done to its columns is fitted without the site, too. All of the site's items judge: its model has seen none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass

from components.checks import verify_answer
from components.dispatch import InitialModel, OrderDispatcher
from components.evaluation.histograms import add_sums
from components.exchange.store import FolderStore
from components.federation import check_evaluation, evaluation_order
from components.rounds import Answer, Order, ScoreSums, Split
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
        items: The sites, each of which is left out once, and how many usable items each has said it has.
        initial: Returns the weights to start from when only these sites take part.
        dispatcher: Reaches the sites.
        store: The exchange.
    """

    study: Study
    strategy: Strategy
    training: str
    items: Mapping[str, int]
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
        RefusedError: If a site cannot evaluate the model, or its sums cannot be.
        WardRoundError: As `components.simulation.simulate`.
    """
    return {site: _without(rotation, site) for site in sorted(rotation.items)}


def pooled_external(found: Mapping[str, ScoreSums]) -> ScoreSums:
    """Return the sums over everybody, each item judged by the model that was trained without its site."""
    return add_sums([found[site] for site in sorted(found)])


def _without(rotation: Rotation, left_out: str) -> ScoreSums:
    """Train without a site, and judge the best round on all of its items."""
    others = sorted(site for site in rotation.items if site != left_out)
    checked = _Checked(rotation)
    best = simulate(
        rotation.study,
        rotation.strategy,
        checked,
        rotation.store,
        sites=others,
        training=f"{rotation.training}.without-{left_out}"[:63],
        initial=rotation.initial(others),
    ).best
    orders = [evaluation_order(best.plan, left_out, best.ref.weights, split) for split in SPLITS]
    answers = [future.result() for future in [checked.submit(order) for order in orders]]
    return add_sums([answer.sums for answer in answers if answer.sums is not None])


class _Checked:
    """Passes orders on, and believes no evaluation before it was checked; updates are checked where they are used."""

    def __init__(self, rotation: Rotation) -> None:
        self._rotation = rotation

    def submit(self, order: Order) -> Future[Answer]:
        """See `components.dispatch.OrderDispatcher`."""
        found, checked = self._rotation.dispatcher.submit(order), Future[Answer]()
        found.add_done_callback(lambda done: self._pass_on(order, done, checked))
        return checked

    def _pass_on(self, order: Order, done: Future[Answer], checked: Future[Answer]) -> None:
        """Give on what came, or what is wrong with it."""
        try:
            answer = done.result()
            if order.kind == "evaluate":
                self._check(order, answer)
        except (Exception, CancelledError) as error:
            checked.set_exception(error)
        else:
            checked.set_result(answer)

    def _check(self, order: Order, answer: Answer) -> None:
        """Refuse an evaluation that is none, or cannot be."""
        verify_answer(answer, order)
        assert answer.sums is not None  # verified
        check_evaluation(self._rotation.study, answer.sums, self._rotation.items[order.site])
