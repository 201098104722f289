"""What the global model is compared with: each site alone, and all items in one place.

Both are trained by the plain loop of `components.simulation`, from the same initial weights, with the
same local training, the same rule for stopping and for choosing the best round, and are judged on the
same test items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass

from components.assemble import assemble
from components.dispatch import InitialModel, OrderDispatcher
from components.errors import RefusedError
from components.exchange.store import FolderStore
from components.federation import evaluation_order
from components.grown import is_grown
from components.rounds import POOLED, ScoreSums
from components.simulation import simulate
from components.strategies import FedAvg, Strategy
from components.study import Study

TestSums = dict[str, ScoreSums]


@dataclass(frozen=True)
class Contest:
    """What a comparison needs.

    Attributes:
        study: The study.
        training: Identifier of the training that the comparison belongs to.
        sites: Sites whose test items judge.
        initial: The weights that all start from.
        dispatcher: Reaches the sites, and `POOLED` if the pooled model is asked for.
        store: The exchange.
    """

    study: Study
    training: str
    sites: Sequence[str]
    initial: InitialModel
    dispatcher: OrderDispatcher
    store: FolderStore


def compare_models(contest: Contest, kinds: Sequence[str]) -> dict[str, TestSums]:
    """Train the models to compare with, side by side, and test each at every site.

    Args:
        contest: Who takes part.
        kinds: ``local``, ``pooled``, or both.

    Returns:
        By model (``local:SITE`` or ``pooled``), each site's sums on its test items.
    """
    homes: dict[str, str] = {POOLED: POOLED} if POOLED in kinds else {}
    if "local" in kinds:
        homes |= {f"local:{site}": site for site in contest.sites}
    with ThreadPoolExecutor(len(homes)) as threads:
        # Each with the caller's context: what the dispatcher finds there (a server's address) counts here too.
        running = {
            model: threads.submit(copy_context().run, _train_and_test, contest, site) for model, site in homes.items()
        }
        return {model: future.result() for model, future in running.items()}


def own_test_sums(compared: Mapping[str, TestSums], site: str) -> TestSums:
    """Return, by kind of model, one site's sums on its own test items."""
    chosen = {"local": compared.get(f"local:{site}", {}).get(site), "pooled": compared.get(POOLED, {}).get(site)}
    return {kind: sums for kind, sums in chosen.items() if sums is not None}


def _strategy(study: Study) -> Strategy:
    """Return what makes one place's updates the next state: they are the state, unless it has to be grown."""
    return assemble(study).strategy if is_grown(study) else FedAvg()


def _train_and_test(contest: Contest, home: str) -> TestSums:
    """Train at one place and test the best round's weights at every site."""
    result = simulate(
        contest.study,
        _strategy(contest.study),
        contest.dispatcher,
        contest.store,
        sites=[home],
        training=f"{contest.training}.{home}",
        initial=contest.initial,
    )
    best = result.best
    orders = [evaluation_order(best.plan, site, best.ref.weights, "test") for site in contest.sites]
    answers = [future.result() for future in [contest.dispatcher.submit(order) for order in orders]]
    sums = {}
    for answer in answers:
        if answer.sums is None:
            raise RefusedError(f"{answer.site} could not test the model of {home}: {answer.reason}")
        sums[answer.site] = answer.sums
    return sums
