"""The report of a training: one self-contained HTML file beside the journal."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from components.evaluation.benefit import benefit_words, contrast_words
from components.evaluation.metrics import Estimate
from components.evaluation.report import training_report
from components.evaluation.summary import ReportFigure, RoundSummary, SiteSummary, TrainingSummary
from components.federation import Evaluation, undefined_of
from components.files import storage_errors
from components.rounds import ItemCounts, ScoreSums
from components.site_effects import agreement_remark
from components.study_file import dump_study
from flows.results import (
    ALL_SITES,
    Results,
    agreements_of,
    external_results,
    subgroup_results,
    swapped,
    test_metric,
    treatment_warnings,
    unlearned,
)
from flows.session import Session
from flows.version import code_version

FIGURES = {
    "figures/convergence.png": ("Convergence", "The watched metric on the pooled validation items, round by round."),
    "figures/participation.png": ("Participation", "Who took part in which round."),
    "figures/test_roc.png": ("ROC on the test items", "Each site's curve and the curve of all items together."),
    "figures/test_calibration.png": ("Calibration on the test items", "What a score means: its share of positives."),
    "figures/test_concordance.png": ("Concordance on the test items", "Pairs within each site, and all of them."),
    "figures/test_brier.png": ("Error over time", "The Brier score of the predicted survival, on the test items."),
    "figures/decision.png": ("Decision curve", "What acting on a score is worth, by the score from which one acts."),
    "figures/uplift.png": (
        "Uplift",
        "What treating those with the largest predicted benefit gains, at hospitals with enough to be ranked.",
    ),
    "figures/benefit.png": ("Benefit", "What a predicted benefit means: what was observed, by fifths of the patients."),
    "figures/overlap.png": ("Overlap", "How probable the second arm was for the patients of either."),
    "figures/subgroups.png": ("Subgroups", "Each kind of patients, on the test items."),
    "figures/importance.png": ("What the trees use", "Each feature's part of the gain of all splits."),
    "figures/external.png": ("Left out", "Each hospital by the model trained at the others."),
    "figures/components.png": ("Components", "What of the columns' variance each explains; pale: as near as was told."),
    "figures/comparison.png": ("Compared", "Local-only, federated and pooled model on each site's test items."),
}
SURVIVAL_FIGURES = {
    "figures/test_calibration.png": (
        "Calibration on the test items",
        "What a predicted chance of the event until the first horizon means: the part of the patients in whom it was "
        "seen until then; on the line, as many as predicted.",
    ),
}


def write_report(
    session: Session, results: Results, figures: Mapping[str, bytes], *, tested: Evaluation, champion: int | None
) -> Path:
    """Write the report and return its path.

    Args:
        session: The training.
        results: Test metrics by site and model.
        figures: PNGs by place; those of `FIGURES` are shown.
        tested: The best round on the test items.
        champion: The version that carries ``champion`` now.

    Raises:
        StorageError: If it cannot be written.
    """
    path = session.folder / "report.html"
    with storage_errors("write", path):
        path.write_text(
            training_report(summarise(session, results, figures, tested=tested, champion=champion)), encoding="utf-8"
        )
    return path


def summarise(
    session: Session, results: Results, figures: Mapping[str, bytes], *, tested: Evaluation, champion: int | None
) -> TrainingSummary:
    """Collect what the report says; arguments as of `write_report`."""
    study, progress, told = session.study, session.progress(), test_metric(session.study)
    titles = FIGURES | (SURVIVAL_FIGURES if study.task.survival else {})
    pooled = results[ALL_SITES]
    external = external_results(study, session.ledger, session.folder)
    started = next(entry for entry in session.journal.entries if entry.data.get("training") == session.training)
    return TrainingSummary(
        study=study.study,
        description=study.description,
        study_text=dump_study(study),
        study_digest=study.digest,
        training=session.training,
        started=datetime.fromisoformat(started.time),
        ended=datetime.now(UTC),
        stopped="The global model has converged." if progress.converged else "All rounds of the study are done.",
        code_version=code_version(),
        strategy=_with_arguments(study.strategy.name, study.strategy.hyperparameters),
        network=_with_arguments(study.network.name, study.network.arguments),
        kind=study.task.kind,
        classes=tuple(study.task.classes),
        threshold=study.task.threshold,
        bins=study.evaluate.bins,
        metric=session.metric,
        test_metric=told,
        rounds=tuple(_round(session, number) for number in sorted(session.ledger.rounds)),
        best_round=progress.best_round,
        champion=str(champion or ""),
        sites=tuple(_site(session, site, results, tested, external.get(site, {})) for site in session.sites),
        test=pooled["global"],
        undefined=_undefined(session, tested.pooled),
        comparison={model: row[told] for model, row in pooled.items() if told in row and ":" not in model},
        warnings=(*swapped(results), *treatment_warnings(study, tested, results)),
        remarks=tuple(filter(None, [agreement_remark(agreements_of(study, results)), *unlearned(study, results)])),
        subgroups=subgroup_results(study, tested),
        external=external.get(ALL_SITES, {}),
        figures=tuple(ReportFigure(*titles[place], png) for place, png in figures.items() if place in titles),
        benefit=f"{contrast_words(study)}, {benefit_words(study)}" if study.task.treatment else "",
        table=study.data.records is not None,
        links=session.recorder.links(),
    )


def _round(session: Session, number: int) -> RoundSummary:
    item = session.ledger.rounds[number]
    return RoundSummary(
        number=number,
        version=str(item.version or ""),
        items={site: (counts.usable, counts.expected) for site, counts in _counts(session, item.took_part).items()},
        seconds=item.seconds,
        metric=session.evaluation(number).metrics.get(session.metric),
        weights_digest=item.require_state().weights,
        absent={
            site: item.missing.get(site) or found.reason or "not asked"
            for site, found in session.ledger.preparations.items()
            if site not in item.received
        },
    )


def _site(
    session: Session, site: str, results: Results, tested: Evaluation, external: Mapping[str, Estimate]
) -> SiteSummary:
    row, told = results.get(site, {}), test_metric(session.study)
    return SiteSummary(
        name=site,
        items=_counts(session, [site])[site],
        test=row.get("global", {}),
        undefined=_undefined(session, tested.by_site[site]) if site in tested.by_site else {},
        comparison={model: metrics[told] for model, metrics in row.items() if told in metrics},
        external=external,
    )


def _counts(session: Session, sites: list[str]) -> dict[str, ItemCounts]:
    found = {site: session.ledger.preparations[site].items for site in sites}
    return {site: counts for site, counts in found.items() if counts is not None}


def _undefined(session: Session, sums: ScoreSums) -> Mapping[str, str]:
    return undefined_of(session.study, sums)


def _with_arguments(name: str, arguments: Mapping[str, object]) -> str:
    inside = ", ".join(f"{key}={value}" for key, value in arguments.items())
    return f"{name}({inside})"
