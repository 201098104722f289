"""Whether a training can begin: enough sites ready, and a metric that has a value on their items."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from components.assemble import field_of_quorum, quorum_of, select_roster
from components.dispatch import Preparation
from components.errors import DataError, SeenRoundError
from components.evaluation.histograms import sums_from_scores
from components.evaluation.metrics import class_kind, undefined_metrics
from components.grown import is_grown
from components.ledger import RoundLedger
from components.study import Study, watched
from components.table_sums import Fitted, TableSums, check_table_sums, fit, fit_bins
from flows.build import number_of_bins

if TYPE_CHECKING:
    from flows.session import Session


def require_quorum(study: Study, preparations: Mapping[str, Preparation], absent: str = "") -> None:
    """Refuse to start with fewer ready sites than a round needs.

    Args:
        study: The study.
        preparations: What each site found.
        absent: In a simulation, what of its data is not on this machine, in words.

    Raises:
        DataError: Naming each site that is not ready, and why.
    """
    reasons = {site: found.reason for site, found in preparations.items() if not found.ready}
    ready, roster = len(preparations) - len(reasons), select_roster(study, sorted(preparations), 1)
    needed = quorum_of(study, len(roster))
    if ready < needed:
        looked = f"Looked for {absent}. " if absent else ""
        raise DataError(
            f"{ready} of {len(preparations)} sites are ready, a round needs {needed}. {reasons_text(reasons)}. "
            f"{looked}Mend their data, or lower {field_of_quorum(study)} or data.minimum_usable_fraction in the study"
        )


def fitted_to(study: Study, preparations: Mapping[str, Preparation]) -> Fitted | None:
    """Fit what is done to a table's columns to the sums of the sites that are ready; None for images.

    Raises:
        DataError: If a feature has no value, or one only, at all sites together.
        RefusedError: If a site's sums are not those of the study's features.
    """
    records = study.data.records
    if records is None:
        return None
    sums: dict[str, TableSums] = {}
    for site, found in sorted(preparations.items()):
        if found.ready:
            check_table_sums(records, found.sums, site, binned=is_grown(study))
            sums |= {site: found.sums} if found.sums else {}
    return fit_bins(records, sums, number_of_bins(study)) if is_grown(study) else fit(records, sums)


def lacking_sites(session: Session) -> str:
    """Return what a next round lacks of sites that are ready, in words; empty if it has enough."""
    study, ready = session.study, session.sites
    needed = study.rounds.updates_needed or quorum_of(study, len(select_roster(study, session.ledger.members, 1)))
    absent = [site for site in study.rounds.required if site not in ready]
    if len(ready) >= needed and not absent:
        return ""
    reasons = {site: found.reason for site, found in session.ledger.preparations.items() if not found.ready}
    reasons |= {site: "not in this federation" for site in absent if site not in reasons}
    return f"{len(ready)} of {needed} sites are ready, missing: {reasons_text(reasons)}"


def require_metric(study: Study, preparations: Mapping[str, Preparation]) -> None:
    """Refuse to start if the watched metric has no value on the validation items of all ready sites together.

    Raises:
        DataError: Saying what is missing.
    """
    metric = watched(study)
    counts = [found.class_counts.get("validation", []) for found in preparations.values() if found.ready]
    totals = [sum(column) for column in zip(*counts, strict=True)]
    task = study.task
    if task.survival is not None:
        _require_events(metric, totals)
        return
    kind = class_kind(task)
    columns = 1 if kind == "binary" else len(task.classes)
    labels = _labels(totals, multilabel=kind == "multilabel")
    scores = np.full((len(labels), columns), 1 / len(task.classes))
    sums = sums_from_scores(scores, labels, kind=kind, classes=task.classes, bins=2, threshold=task.threshold)
    reason = undefined_metrics(sums, kind=kind, threshold=task.threshold, classes=task.classes).get(metric)
    if reason is not None:
        items = ", ".join(f"{count} of {name}" for name, count in zip(task.classes, totals, strict=True))
        raise DataError(
            f"{metric} cannot be watched: {reason}. The validation items of all sites are {items}: correct "
            "task.classes or the labels, give the sites more items, or watch another rounds.convergence.metric"
        )


def _require_events(metric: str, totals: list[int]) -> None:
    """Refuse to watch a survival model on validation items without an event."""
    events = totals[1] if totals else 0
    if not events:
        raise DataError(
            f"{metric} cannot be watched: none of the {sum(totals)} validation items of all sites has an event; "
            "check the columns of time and event, or make data.splits.validation larger"
        )


def forgotten(item: RoundLedger, seen: Collection[str]) -> SeenRoundError | None:
    """Return what ends a training whose journal is older than what its sites have seen.

    Args:
        item: The round.
        seen: Sites that refuse it because they have seen it, or a later one, otherwise.

    Returns:
        None as long as the round can have enough without them.
    """
    plan = item.plan
    if not seen or (len(plan.roster) - len(seen) >= plan.quorum and not set(plan.required) & set(seen)):
        return None
    return SeenRoundError(
        f"{', '.join(sorted(seen))} refuse round {plan.round} of {plan.training}: they have seen it, or later rounds, "
        f"before. This coordinator's journal is older than theirs, as after a restore. Start anew:  wardround train "
        f"STUDY --fresh ; or have the administrator of each accept that these rounds are done again:  wardround "
        f"hospital accept-older {plan.training} , and run the same command. Nothing was changed"
    )


def reasons_text(reasons: Mapping[str, str]) -> str:
    """Say each reason once, with the sites that have it.

    >>> reasons_text({"east": "site east: no items", "north": "no room", "west": "site west: no items"})
    'east, west: no items; north: no room'
    """
    sites: dict[str, list[str]] = {}
    for site, reason in sorted(reasons.items()):
        bare = reason.removeprefix("site ").removeprefix(site).removeprefix(":").strip()
        sites.setdefault(bare, []).append(site)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in sites.items())


def _labels(totals: list[int], *, multilabel: bool) -> np.ndarray:
    """Return labels with these numbers of items by class; of several labels, one more item that has none."""
    if not multilabel:
        return np.repeat(np.arange(len(totals)), totals)
    return (np.arange(max(totals, default=0) + 1)[:, None] < np.asarray(totals)[None, :]).astype(float)
