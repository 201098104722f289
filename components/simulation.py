"""A federated training as a plain loop: no Prefect, no MLflow, no journal.

It calls the same functions as the flows, so it is what the flows are tested against, what research code
can read in one sitting, and how a site's local-only and pooled models are trained for comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.assemble import select_roster
from components.convergence import assess
from components.dispatch import InitialModel, OrderDispatcher
from components.errors import QuorumError, StudyError
from components.exchange.store import FolderStore
from components.federation import (
    Evaluation,
    evaluation_order,
    first_state,
    plan_round,
    pool,
    receive,
    save_state,
    training_order,
    updates_of,
)
from components.rounds import RoundPlan, ServerState, StateRef
from components.strategies import Strategy
from components.study import Study, watched


@dataclass(frozen=True)
class SimulatedRound:
    """One round as it came out."""

    plan: RoundPlan
    ref: StateRef
    evaluation: Evaluation


@dataclass(frozen=True)
class Simulation:
    """A whole training.

    Attributes:
        rounds: The rounds, in order.
        best: The round whose validation metric was best.
        state: The state after the last round.
    """

    rounds: list[SimulatedRound]
    best: SimulatedRound
    state: ServerState


def simulate(
    study: Study,
    strategy: Strategy,
    dispatcher: OrderDispatcher,
    store: FolderStore,
    *,
    sites: Sequence[str],
    training: str,
    initial: InitialModel,
) -> Simulation:
    """Train until the study's convergence rule or its last round.

    Args:
        study: What to train.
        strategy: How updates become the next state.
        dispatcher: How orders reach the sites.
        store: The exchange the sites read from and write to.
        sites: Names of the sites that take part.
        training: Identifier; update slots are kept apart by it.
        initial: The model to start from.

    Returns:
        Every round with its state and evaluation.

    Raises:
        QuorumError: If no site delivered a usable metric.
        RefusedError: If a site's update fails a check; there is no quorum here, every site must deliver.
        StudyError: If several sites shall train asynchronously: here they train round by round.
    """
    if study.rounds.mode == "async" and len(sites) > 1:
        raise StudyError(
            "rounds.mode: async needs what waits for whoever comes first: flows.api.simulate", "rounds.mode"
        )
    state = first_state(strategy, initial, store)
    ref = save_state(store, state)
    rounds: list[SimulatedRound] = []
    left_out = initial.personal(strategy.personal)
    while len(rounds) < study.rounds.max:
        roster = select_roster(study, sorted(sites), state.round + 1) if len(sites) > 1 else list(sites)
        plan = plan_round(study, strategy, state, training=training, roster=roster, base_digest=ref.weights)
        orders = {site: training_order(plan, site) for site in plan.roster}
        futures = {site: dispatcher.submit(order) for site, order in orders.items()}
        answers = {
            site: receive(
                orders[site], futures[site].result(), state, store,
                left_out=left_out, max_change=study.rounds.max_change,
            )
            for site in futures
        }  # fmt: skip
        state = strategy.aggregate(state, updates_of(plan, answers, store))
        ref = save_state(store, state)
        checks = {site: dispatcher.submit(evaluation_order(plan, site, ref.weights)) for site in sites}
        rounds.append(SimulatedRound(plan, ref, pool(study, {site: check.result() for site, check in checks.items()})))
        progress = assess(watched_history(study, rounds), study.rounds.convergence)
        if progress.converged:
            break
    best = assess(watched_history(study, rounds), study.rounds.convergence).best_round
    if not best:
        raise QuorumError("the convergence metric was not defined in any round; are there two classes at validation?")
    return Simulation(rounds, rounds[best - 1], state)


def watched_history(study: Study, rounds: Sequence[SimulatedRound]) -> dict[int, float | None]:
    """Return the history of the metric that the study watches."""
    metric = watched(study)
    return {
        item.plan.round: item.evaluation.metrics[metric].value if metric in item.evaluation.metrics else None
        for item in rounds
    }
