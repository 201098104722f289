"""The end of a training in MLflow: test results, figures, report, the champion."""

from __future__ import annotations

from typing import Any

from components.evaluation.benefit import arm_names, benefit_unit, benefit_words
from components.evaluation.benefit_figures import Scale, benefit_figures
from components.evaluation.figures import (
    Participation,
    calibration_figure,
    comparison_figure,
    convergence_figure,
    participation_figure,
    roc_figure,
)
from components.evaluation.risk_figures import (
    components_figure,
    decision_figure,
    estimates_figure,
    importance_figure,
)
from components.evaluation.survival_risk_figures import brier_figure, horizon_figure
from components.federation import Evaluation, load_state, pool_sums
from components.grown import is_grown
from components.round_rules import headline
from components.study import Study
from components.sums_file import read_sums
from components.tracking.aliases import move_champion
from components.tracking.registry import RegisteredVersion, Registry
from components.tracking.runs import Tracker
from components.tracking.tree_files import gain_shares
from flows.recorder import flat
from flows.reporting import write_report
from flows.results import ALL_SITES, Results, external_results, metrics_csv, subgroup_results, test_metric, test_results
from flows.session import Session


def conclude(session: Session, tracker: Tracker, registry: Registry) -> dict[str, Any]:
    """Record what the training came to; may be repeated.

    Returns:
        The best version, where ``champion`` stands and why, and the report's place.
    """
    progress = session.progress()
    best = session.ledger.rounds[progress.best_round]
    name = session.study.study
    version = registry.get(name, best.version or 0)
    results = test_results(session.study, session.ledger, session.folder)
    metric = f"validation/{session.metric}"
    missing = sorted(best.missing) if session.study.evaluate.champion == "full_roster" else []
    objection = f"it was made without {', '.join(missing)}, and evaluate.champion is full_roster" if missing else ""
    champion = move_champion(
        registry, name, training=session.training, metric=metric, mode=session.mode, objection=objection
    )
    _log_tests(session, tracker, registry, version=version, results=results)
    tested = tested_evaluation(session)
    figures = training_figures(session, results, tested)
    for place, content in figures.items():
        tracker.log_bytes(place, content)
    report = write_report(session, results, figures, tested=tested, champion=champion.version)
    tracker.log_text("report.html", report.read_text(encoding="utf-8"))
    _log_tables(session, tracker)
    tracker.finish("FINISHED", "converged" if progress.converged else "all rounds done")
    return {
        "version": version.version,
        "champion": champion.version,
        "champion_reason": champion.reason,
        "report": str(report),
    }


def tested_evaluation(session: Session) -> Evaluation:
    """Return the best round's evaluation on the test items."""
    digest = (session.ledger.tested or {}).get("evaluation")
    return pool_sums(session.study, read_sums(session.folder / "test.json", digest)["global"])


def training_figures(session: Session, results: Results, tested: Evaluation) -> dict[str, bytes]:
    """Draw what belongs to the whole training."""
    ledger, components = session.ledger, session.ledger.components
    evaluations = {number: session.evaluation(number) for number in sorted(ledger.rounds)}
    pooled = {n: item.metrics[session.metric] for n, item in evaluations.items() if session.metric in item.metrics}
    sites = {
        site: {
            number: item.site_metrics[site][session.metric].value
            for number, item in evaluations.items()
            if session.metric in item.site_metrics.get(site, {})
        }
        for site in session.sites
    }
    best = session.progress().best_round
    figures = {
        "figures/convergence.png": convergence_figure(session.metric, pooled, sites, best_round=best),
        "figures/participation.png": participation_figure(participation(session)),
        **_test_figures(session.study, tested),
        **_risk_figures(session, tested),
    }
    if components is not None:
        figures["figures/components.png"] = components_figure(components.explained, components.exact)
    if ledger.compared is not None:
        metric = test_metric(session.study)
        shown = {site: {m: row[m][metric] for m in row if metric in row[m]} for site, row in results.items()}
        shown = {site: models for site, models in shown.items() if models}
        shown[ALL_SITES] = {m: e for m, e in shown[ALL_SITES].items() if not m.startswith("local:")}
        figures["figures/comparison.png"] = comparison_figure(metric, shown)
    return figures


def _test_figures(study: Study, tested: Evaluation) -> dict[str, bytes]:
    """Draw how the best round did on the test items."""
    task = study.task.survival
    if task is None:
        return {
            "figures/test_roc.png": roc_figure(tested.by_site, tested.pooled),
            "figures/test_calibration.png": calibration_figure(tested.by_site, tested.pooled),
        }
    found = {
        "figures/test_calibration.png": horizon_figure(tested.by_site, tested.pooled, task),
        "figures/test_brier.png": brier_figure(tested.by_site, tested.pooled, task),
    }
    sites = {site: metrics["concordance"] for site, metrics in tested.site_metrics.items() if "concordance" in metrics}
    if sites:
        whole = tested.metrics.get("concordance")
        found["figures/test_concordance.png"] = estimates_figure("Each site", "Concordance", sites, whole)
    return found


def _risk_figures(session: Session, tested: Evaluation) -> dict[str, bytes]:
    """Draw what belongs to a risk model, and how models did at sites that they were trained without."""
    figures, study = {}, session.study
    if study.data.records is not None and study.task.kind == "binary" and tested.pooled.count:
        figures["figures/decision.png"] = decision_figure(tested.by_site, tested.pooled)
    if is_grown(study) and study.data.records is not None:
        best = session.ledger.rounds[session.progress().best_round].require_state()
        names = [feature.name for feature in study.data.records.features]
        shares = gain_shares(names, load_state(session.store, best).weights)
        figures |= {"figures/importance.png": importance_figure(shares)} if shares else {}
    if tested.pooled.treatment is not None:
        told = {site: sums.treatment for site, sums in tested.by_site.items() if sums.treatment is not None}
        scale = Scale(study.evaluate.bins, benefit_unit(study), benefit_words(study), arm_names(study))
        figures |= benefit_figures(told, tested.pooled.treatment, scale)
    metric = headline(study.task.kind)
    words = "AUROC" if metric == "auroc" else metric.capitalize()
    groups = {name: found[metric] for name, found in subgroup_results(study, tested).items() if metric in found}
    if groups:
        figures["figures/subgroups.png"] = estimates_figure("Subgroups", words, groups, tested.metrics.get(metric))
    external = external_results(study, session.ledger, session.folder)
    left_out = {site: found[metric] for site, found in external.items() if metric in found and site != ALL_SITES}
    if left_out:
        title, whole = "At hospitals the model never saw", external[ALL_SITES].get(metric)
        figures["figures/external.png"] = estimates_figure(title, words, left_out, whole)
    return figures


def _log_tables(session: Session, tracker: Tracker) -> None:
    """Record what the components are, how each model did at the site it was trained without, and in subgroups."""
    external = external_results(session.study, session.ledger, session.folder)
    number = session.progress().best_round
    for site in sorted(set(external) & set(session.sites)):
        tracker.log_round(number, flat("external", external[site]), site=site)
    if external:
        tracker.log_round(number, flat("external", external[ALL_SITES]))
        tracker.log_text("tables/leave_one_site_out.csv", metrics_csv("left out", external))
    components = session.ledger.components
    if components is not None:
        tracker.log_round(number, {"components/explained": sum(components.explained)})
        tracker.log_text("tables/components.csv", components.csv)
    groups = subgroup_results(session.study, tested_evaluation(session))
    if groups:
        tracker.log_text("tables/subgroups.csv", metrics_csv("group", groups))


def participation(session: Session) -> dict[str, dict[int, Participation]]:
    """Return what happened at each site in each round."""
    grid: dict[str, dict[int, Participation]] = {site: {} for site in session.ledger.preparations}
    for number, item in session.ledger.rounds.items():
        for site in item.plan.roster:
            if site not in item.at_work:
                grid[site][number] = "took part" if site in item.received else "refused"
    return grid


def _log_tests(
    session: Session, tracker: Tracker, registry: Registry, *, version: RegisteredVersion, results: Results
) -> None:
    """Hang the test metrics on the best version's logged model and run, and on the sites' runs; once."""
    number = session.progress().best_round
    for site in session.sites:
        models = results[site]
        tests = {key: value for model, metrics in models.items() for key, value in flat(_split(model), metrics).items()}
        tracker.log_round(number, tests, site=site)
    models = {model: metrics for model, metrics in results[ALL_SITES].items() if not model.startswith("local:")}
    tests = {key: value for model, metrics in models.items() for key, value in flat(_split(model), metrics).items()}
    registry.record_metrics(version, tests, number)


def _split(model: str) -> str:
    return {"global": "test", "local": "test_local_only", "pooled": "test_pooled_data"}[model]
