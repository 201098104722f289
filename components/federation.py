"""The coordinator's side of a round as plain functions: plan, order, receive, aggregate, pool.

`components.simulation` calls them in a loop; `flows.driven_round` calls the same ones, step by step.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from components.assemble import quorum_of
from components.checks import expected_entries, verify_answer, verify_update
from components.dispatch import InitialModel
from components.errors import RefusedError
from components.evaluation.benefit import benefit_unit
from components.evaluation.benefit_checks import check_treatment
from components.evaluation.benefit_metrics import benefit_metrics, untold_benefits
from components.evaluation.histograms import add_sums, check_sums
from components.evaluation.intervals import Undefined
from components.evaluation.metrics import Estimate, class_kind, estimate_metrics, undefined_metrics
from components.evaluation.subgroups import group_names
from components.evaluation.survival_metrics import survival_outcomes
from components.evaluation.survival_sums import check_survival
from components.exchange.store import FolderStore, Slot
from components.rounds import Answer, Order, RoundPlan, ScoreSums, ServerState, Split, StateRef, Update
from components.strategies import Strategy
from components.study import Study


@dataclass(frozen=True)
class Evaluation:
    """A global version judged on one split of every site that answered.

    Attributes:
        by_site: Each site's sums.
        pooled: Their sum.
        metrics: Pooled metrics with intervals, from `pooled`; never a mean over sites.
        site_metrics: Each site's own metrics.
    """

    by_site: dict[str, ScoreSums]
    pooled: ScoreSums
    metrics: dict[str, Estimate]
    site_metrics: dict[str, dict[str, Estimate]]


def save_state(store: FolderStore, state: ServerState) -> StateRef:
    """Write a state's weights and slots into the store."""
    return StateRef(
        round=state.round,
        step=state.step,
        weights=store.put_weights(state.weights),
        statistics=sorted(state.statistics),
        slots={name: store.put_weights(slot) for name, slot in sorted(state.slots.items())},
    )


def load_state(store: FolderStore, ref: StateRef) -> ServerState:
    """Read a state back; it continues bit for bit."""
    return ServerState(
        round=ref.round,
        step=ref.step,
        weights=store.get(ref.weights),
        statistics=frozenset(ref.statistics),
        slots={name: store.get(digest) for name, digest in ref.slots.items()},
    )


def first_state(strategy: Strategy, initial: InitialModel, store: FolderStore) -> ServerState:
    """Return the strategy's state before the first round."""
    return strategy.init(store.get(initial.weights_digest), frozenset(initial.statistics))


def plan_round(
    study: Study, strategy: Strategy, state: ServerState, *, training: str, roster: list[str], base_digest: str
) -> RoundPlan:
    """Plan the round after `state`.

    Args:
        study: The study.
        strategy: Its strategy, for the instructions to the sites.
        state: The state the round starts from.
        training: Identifier of the training.
        roster: Names of the sites that are asked, in order.
        base_digest: Digest of `state.weights` in the exchange.
    """
    return RoundPlan(
        study=study.study,
        study_digest=study.digest,
        training=training,
        round=state.round + 1,
        base_digest=base_digest,
        roster=roster,
        quorum=quorum_of(study, len(roster)) if len(roster) > 1 else 1,
        required=sorted(study.rounds.required),
        deadline_s=study.rounds.deadline_s,
        instructions=strategy.instructions(state),
    )


def training_order(plan: RoundPlan, site: str) -> Order:
    """Return the order to train in a round."""
    return Order(kind="train", site=site, plan=plan, weights_digest=plan.base_digest, nonce=_nonce(plan, site, "train"))


def evaluation_order(plan: RoundPlan, site: str, weights_digest: str, split: Split = "validation") -> Order:
    """Return the order to evaluate the weights a round ended with."""
    nonce = _nonce(plan, site, "evaluate", weights_digest, split)
    whole = plan if site in plan.roster else plan.model_copy(update={"roster": sorted([*plan.roster, site])})
    return Order(kind="evaluate", site=site, plan=whole, weights_digest=weights_digest, split=split, nonce=nonce)


def slot_of(plan: RoundPlan, site: str) -> Slot:
    """Return the write-once place of a site's update in a round."""
    return Slot(training=plan.training, round=plan.round, attempt=plan.attempt, site=site)


def receive(
    order: Order,
    answer: Answer,
    state: ServerState,
    store: FolderStore,
    *,
    left_out: Iterable[str] = (),
    most_samples: float | None = None,
    max_change: float | None = None,
) -> Answer:
    """Check a site's answer to a training order, and the update it put into its slot.

    Args:
        order: What was asked.
        answer: What came back.
        state: The state the round started from: it says which entries an update must have.
        store: The exchange.
        left_out: Entries that stay at the sites (personal ones).
        most_samples: Largest weight that is believed: the items the site said it has.
        max_change: Largest L2 norm of the change of the trained entries; None sets no limit.

    Returns:
        The answer, now trustworthy.

    Raises:
        RefusedError: If the site refused or failed, or anything in answer or file is not as it must be.
    """
    verify_answer(answer, order, most_samples=most_samples)
    if answer.update is None:
        raise RefusedError(f"{answer.site} answered 'done' without an update")
    expected = expected_entries(state.weights, left_out)
    base = {name: state.weights[name] for name in expected.keys() - state.statistics} if max_change else None
    update = store.get_update(slot_of(order.plan, order.site), answer.update)
    verify_update(update, expected, base=base, most_change=max_change)
    return answer


def base_evaluation_order(plan: RoundPlan, site: str) -> Order:
    """Return the order to evaluate the weights that a round begins with; its slot is not that of the round's result."""
    return evaluation_order(plan.model_copy(update={"attempt": plan.attempt + 1}), site, plan.base_digest)


def updates_of(
    plans: RoundPlan | Mapping[str, RoundPlan],
    answers: Mapping[str, Answer],
    store: FolderStore,
    *,
    current: RoundPlan | None = None,
    statistics: Collection[str] = (),
) -> Iterator[Update]:
    """Yield the received updates one at a time, in the order of the sites' names.

    Args:
        plans: The plan, or by site the plan of the attempt that it answered; one of an earlier round makes the
            update a late one, see `late_update`.
        answers: The sites' answers.
        store: Where the updates are.
        current: The plan of the round they count in; by default the newest of the plans.
        statistics: Names of the entries that are averages of data; see `late_update`.

    Raises:
        RefusedError: If an answer has no update, or it is not as stated.
    """
    by_site = {site: plans if isinstance(plans, RoundPlan) else plans[site] for site in answers}
    current = current or max(by_site.values(), key=lambda plan: plan.round, default=None)
    for site in sorted(answers):
        assert current is not None  # there is an answer, so there is a plan
        if by_site[site].round < current.round:
            yield late_update(by_site[site], current, answers[site], store, statistics=statistics)
        else:
            # No name is kept: the strategy drops each update before it asks for the next.
            yield _update(by_site[site], answers[site], store)


def late_update(
    plan: RoundPlan, current: RoundPlan, answer: Answer, store: FolderStore, *, statistics: Collection[str] = ()
) -> Update:
    r"""Return an update of an earlier round as one of the current round.

    .. math:: w_t + s(\tau) \, (w^k - w_{t - \tau}), \qquad s(\tau) = 1 / \sqrt{1 + \tau}

    What the site learned, the difference to the weights it began with, is discounted by its staleness and added to
    the current weights. So the weighted mean of a round's updates is FedBuff's step, with samples for its count:
    :math:`w_t + \sum_k n_k s(\tau_k) \Delta_k / \sum_k n_k`. Divided out of the weight of the update instead, the
    discount would be lost where it is the only one, or where all sites count the same.

    Args:
        plan: The plan it was trained for.
        current: The plan of the round it is used in, :math:`\tau` rounds later.
        answer: The site's answer.
        store: Where the update, and both rounds' weights, are.
        statistics: Names of the entries that are averages of data: not learned, they are moved towards the site's by
            :math:`s(\tau)`, since a difference could carry a variance below zero.

    Reference:
        Nguyen et al., Federated Learning with Buffered Asynchronous Aggregation, AISTATS 2022, algorithm 1 with the
        polynomial staleness function, :math:`a = 0.5`.
    """
    update, now, before = _update(plan, answer, store), store.get(current.base_digest), store.get(plan.base_digest)
    discount = 1 / math.sqrt(1 + current.round - plan.round)
    weights = {}
    for name, value in update.weights.items():
        start = now[name] if name in statistics else before[name]
        weights[name] = (now[name].double() + discount * (value.double() - start.double())).to(value.dtype)
    return replace(update, round=current.round, weights=weights)


def _update(plan: RoundPlan, answer: Answer, store: FolderStore) -> Update:
    """Read an update."""
    manifest = answer.update
    if manifest is None:
        raise RefusedError(f"{answer.site} has no update in round {plan.round}")
    return Update(
        site=answer.site,
        round=plan.round,
        weights=store.get_update(slot_of(plan, answer.site), manifest),
        weight=manifest.weight,
        steps=manifest.steps,
    )


def pool(study: Study, answers: Mapping[str, Answer]) -> Evaluation:
    """Add the sites' sums and take the metrics of the total."""
    found = {site: answers[site].sums for site in sorted(answers)}
    return pool_sums(study, {site: sums for site, sums in found.items() if sums is not None})


def pool_sums(study: Study, sums: Mapping[str, ScoreSums]) -> Evaluation:
    """Add sums by site and take the metrics of the total.

    Raises:
        ValueError: If there are none.
    """
    pooled = add_sums(list(sums.values()))
    return Evaluation(
        by_site=dict(sums),
        pooled=pooled,
        metrics=metrics_of(study, pooled),
        site_metrics={site: metrics_of(study, value) for site, value in sums.items()},
    )


def metrics_of(study: Study, sums: ScoreSums) -> dict[str, Estimate]:
    """Return the study's metrics of some sums."""
    task = study.task
    if task.survival is not None:
        outcomes = survival_outcomes(sums, task.survival)
        found: dict[str, Estimate] = {
            name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Estimate)
        }
    else:
        kind = class_kind(task)
        found = dict(estimate_metrics(sums, kind=kind, threshold=task.threshold, classes=task.classes).items())
    if sums.treatment is None:
        return found
    return found | benefit_metrics(sums.treatment, study.evaluate.bins, benefit_unit(study))


def undefined_of(study: Study, sums: ScoreSums) -> dict[str, str]:
    """Return the study's metrics that some sums give no value of, each with the reason."""
    task = study.task
    if task.survival is not None:
        outcomes = survival_outcomes(sums, task.survival)
        reasons: dict[str, str] = {
            name: found.reason for name, found in outcomes.items() if isinstance(found, Undefined)
        }
    else:
        kind = class_kind(task)
        reasons = dict(undefined_metrics(sums, kind=kind, threshold=task.threshold, classes=task.classes).items())
    if sums.treatment is None:
        return reasons
    return reasons | untold_benefits(benefit_metrics(sums.treatment, study.evaluate.bins))


def check_evaluation(study: Study, sums: ScoreSums, most_items: int | None) -> None:
    """Refuse sums that no evaluation of the study's model could have given.

    Raises:
        RefusedError: As `check_sums` and `check_survival`.
    """
    task, groups = study.task, subgroups_of(study)
    if task.survival is None:
        kind, bins = class_kind(task), study.evaluate.bins
        check_sums(
            sums, kind=kind, classes=task.classes, bins=bins, most_items=most_items, groups=groups,
            treatment=task.treatment is not None,
        )  # fmt: skip
        return
    if sums.groups.keys() - set(groups):
        raise RefusedError("the evaluation has subgroups that the study does not ask for")
    check_survival(sums, task.survival, most_items)
    if sums.treatment is not None:
        if task.treatment is None:
            raise RefusedError("the evaluation has benefits of a treatment that the study does not ask for")
        check_treatment(sums.treatment, bins=study.evaluate.bins, most_items=sums.count, survival=True)
    for group in sums.groups.values():
        check_survival(group, task.survival, sums.count)


def subgroups_of(study: Study) -> list[str]:
    """Return the names of the subgroups that a study asks for, in its order."""
    records = study.data.records
    return [name for names in group_names(records, study.evaluate.subgroups) for name in names] if records else []


def _nonce(plan: RoundPlan, site: str, *what: str) -> str:
    """Derive the order's nonce: the same order always has the same one, any other order another."""
    text = json.dumps([plan.model_dump(mode="json"), site, *what], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
