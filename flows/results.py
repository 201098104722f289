"""What came out of a training: each model's test metrics by site, and how a person sees them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from components.evaluation.benefit import benefit_warnings, benefit_words, contrast_words
from components.evaluation.benefit_metrics import digits_of, overlap_warnings
from components.evaluation.histograms import add_sums
from components.evaluation.intervals import Estimate, estimate_text
from components.evaluation.opposite import opposite_sites
from components.evaluation.summary import MODEL_NAMES
from components.external import pooled_external
from components.federation import Evaluation, metrics_of, subgroups_of
from components.ledger import TrainingLedger
from components.round_rules import Metric, headline
from components.rounds import POOLED, ScoreSums
from components.site_effects import Agreement, agreement_remark, agreement_warnings, agreements
from components.study import Study, watched
from components.sums_file import read_sums

ALL_SITES = "all sites"
Results = dict[str, dict[str, dict[str, Estimate]]]
External = Mapping[str, Mapping[str, Estimate]]
NOTHING: External = MappingProxyType({})
EXTERNAL_METRICS = {"auroc": "AUROC", "brier": "Brier", "calibration_slope": "slope"}  # what fits beside each other
DIGITS = 3  # after the point
INTERVAL, BESIDE = 25, 20  # letters of a column of intervals, and of all others: the name, and how many items
SURVIVAL_METRICS = {"concordance": "concordance", "integrated_brier": "Brier", "calibration_ratio": "seen/expected"}


def test_results(study: Study, ledger: TrainingLedger, folder: Path) -> Results:
    """Return the test metrics of every model, by site.

    Args:
        study: The study.
        ledger: The training.
        folder: The training's folder beside the journal.

    Returns:
        By site, and for `ALL_SITES` (pooled from sums), by model (``local``, ``global``, ``pooled``), the
        metrics. A site's local model is judged on the site's own test items; for `ALL_SITES`, each local
        model is judged on everybody's, as ``local:SITE``. A site that did not answer when the model was tested
        has no models. Empty before the training was tested.
    """
    if ledger.tested is None:
        return {}
    sums = read_sums(folder / "test.json", ledger.tested["evaluation"])
    if ledger.compared is not None:
        sums |= read_sums(folder / "compared.json", ledger.compared["evaluation"])
    sites = sorted(sums["global"].keys() | {site for site, found in ledger.preparations.items() if found.ready})
    results: Results = {site: _at_site(study, sums, site) for site in sites}
    pooled = {model: add_sums([by_site[site] for site in sites if site in by_site]) for model, by_site in sums.items()}
    results[ALL_SITES] = {model: metrics_of(study, item) for model, item in pooled.items()}
    return results


def external_results(study: Study, ledger: TrainingLedger, folder: Path) -> dict[str, dict[str, Estimate]]:
    """Return the metrics of the models trained without a site, by the site left out, and for `ALL_SITES` together.

    Each is judged on all of the left-out site's items. Empty where the study does not ask for it.
    """
    if ledger.external is None:
        return {}
    sums = read_sums(folder / "external.json", ledger.external["evaluation"])["left_out"]
    found = {site: dict(metrics_of(study, sums[site])) for site in sorted(sums)}
    return {**found, ALL_SITES: dict(metrics_of(study, pooled_external(sums)))}


def subgroup_results(study: Study, tested: Evaluation) -> dict[str, dict[str, Estimate]]:
    """Return the metrics of each subgroup of the study that a site may tell of, in the study's order."""
    groups = tested.pooled.groups
    return {name: metrics_of(study, groups[name]) for name in subgroups_of(study) if name in groups}


def swapped(results: Results) -> list[str]:
    """Say at which sites the model is wrong on the test items although it is right at the others.

    A site whose labels are swapped looks like that; nothing it sends before tells. See `opposite_sites`.
    """
    survival = "concordance" in results.get(ALL_SITES, {}).get("global", {})
    metric = "concordance" if survival else "auroc"
    found = {site: row.get("global", {}).get(metric) for site, row in results.items() if site != ALL_SITES}
    return opposite_sites({site: item for site, item in found.items() if item is not None}, survival=survival)


def unlearned(study: Study, results: Results) -> list[str]:
    """Say which sites' local-only model, of Newton's method, ranks patients as one does that has learned nothing.

    Its first round only measures, at weights of 0: it is the best one where no step made the validation items likelier.
    """
    metric = headline(study.task.kind)
    found = [
        site for site, row in results.items() if metric in (own := row.get("local", {})) and own[metric].value == 0.5
    ]
    if study.local.method != "newton" or not found:
        return []
    return [
        f"{', '.join(found)}: a local-only model of 0.500 has most likely learned nothing: from so few patients, or "
        "outcomes, no step made it better on its own validation items than weights of 0."
    ]


def agreements_of(study: Study, results: Results) -> list[Agreement]:
    """Compare what the hospitals see of a treatment; nothing where there is none."""
    if study.task.treatment is None:
        return []
    return agreements({site: row["global"] for site, row in results.items() if site != ALL_SITES and "global" in row})


def treatment_warnings(study: Study, tested: Evaluation, results: Results) -> list[str]:
    """Say what is to be known before a benefit is believed.

    No trial, no overlap, intervals that are too narrow, hospitals that do not agree, one that tells nothing.
    """
    if study.task.treatment is None:
        return []
    said = benefit_warnings(study) + (overlap_warnings(tested.pooled.treatment) if tested.pooled.treatment else [])
    said += agreement_warnings(agreements_of(study, results))
    silent = sorted(site for site, sums in tested.by_site.items() if sums.count and sums.treatment is None)
    if silent:
        said.append(
            f"{', '.join(silent)}: too few test patients of an arm had, or did not have, the outcome, or were "
            "followed for long enough: nothing is told of the benefits there, and they are not among the pooled ones."
        )
    return said


def metrics_csv(first: str, found: External) -> str:
    """Return metrics as a CSV: a line for each name and metric, with interval and number of items."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([first, "metric", "value", "low", "high", "items"])
    for name, metrics in found.items():
        writer.writerows(
            [name, metric, item.value, item.low, item.high, item.support] for metric, item in metrics.items()
        )
    return text.getvalue()


def external_metrics(found: External) -> dict[str, str]:
    """Return the metrics that such a table shows, with their headings."""
    survival = any("concordance" in row for row in found.values())
    return SURVIVAL_METRICS if survival else EXTERNAL_METRICS


def external_table(found: External, width: int = 80) -> Table:
    """Return what `external_results` found as a table for a terminal of so many columns."""
    table = Table(
        title="Each hospital by a model that never saw it (95 % interval)", title_justify="left",
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False,
    )  # fmt: skip
    table.add_column("left out", overflow="fold")
    metrics, joint = external_metrics(found), _joint(len(external_metrics(found)), width)
    for heading in metrics.values():
        table.add_column(heading, no_wrap=True)
    for site, row in found.items():
        if site == ALL_SITES:
            table.add_section()
        cells = [estimate_text(row.get(metric), DIGITS, joint=joint) for metric in metrics]
        table.add_row(escape(site), *cells)
    return table


def test_metric(study: Study) -> Metric:
    """Return the metric by which tests are told: the watched one, that of ranks where it is the loss."""
    metric = watched(study)
    return headline(study.task.kind) if metric == "loss" else metric


def results_table(results: Results, metric: str, width: int = 80) -> Table:
    """Return the test results as a table: a row for each site, a column for each model, with 95 % intervals.

    It fits into 80 columns with site names of 12 letters; longer ones are folded, and intervals stand below their
    values where so many columns of the terminal have no room for them beside.
    """
    models = [name for name in MODEL_NAMES if any(name in row for row in results.values())]
    title = f"Test {metric.replace('_', ' ')} (95 % interval)"
    # Without edges and inner lines: three models with intervals must fit into 80 columns.
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("hospital", overflow="fold")
    joint = _joint(len(models), width)
    for model in models:
        table.add_column(MODEL_NAMES[model], no_wrap=True)
    table.add_column("items", justify="right", no_wrap=True)
    for site, row in results.items():
        if site == ALL_SITES:
            table.add_section()
        cells = [estimate_text(row.get(model, {}).get(metric), DIGITS, joint=joint) for model in models]
        support = row.get("global", {}).get(metric)
        table.add_row(escape(site), *cells, str(support.support) if support else "")
    return table


def print_results(console: Console, study: Study, results: Results, external: External = NOTHING) -> None:
    """Print the results of the study's own metric, of ranks where that is the loss; nothing, if it was not tested."""
    if ALL_SITES not in results:
        return
    metric = test_metric(study)
    console.print(results_table(results, metric, console.width))
    for text in swapped(results):
        console.print(f"[yellow]{escape(text)}[/yellow]", soft_wrap=True)
    for text in unlearned(study, results):
        console.print(escape(text), highlight=False, soft_wrap=True)
    if study.task.treatment is not None:
        _print_benefit(console, study, results)
    local = [row[metric] for name, row in results[ALL_SITES].items() if name.startswith("local:") and metric in row]
    if local:
        mean = sum(item.value for item in local) / len(local)
        console.print(f"\nEach local-only model on the test items of all hospitals: {mean:.3f} on average.")
    if external:
        console.print()
        console.print(external_table(external, console.width))


def _print_benefit(console: Console, study: Study, results: Results) -> None:
    """Print what following the recommendations gains, whether the hospitals agree, and what must be known."""
    found, unit, compared = results[ALL_SITES].get("global", {}), benefit_words(study), agreements_of(study, results)
    lines = {
        "recommended_gain": f"Patients given the recommended arm did better than the others by ({unit})",
        "effect": f"Mean effect, {contrast_words(study)} ({unit})",
        "qini": "Qini coefficient (0: ranks benefits no better than chance)",
        "benefit_slope": "Observed on predicted benefit (1: as predicted)",
    }
    console.print()
    for name, words in lines.items():
        console.print(f"{escape(words)}: {escape(_told(name, found.get(name)))}", highlight=False, soft_wrap=True)
    if compared:
        console.print(escape(agreement_remark(compared)), highlight=False, soft_wrap=True)
    for text in (*agreement_warnings(compared), *benefit_warnings(study)):
        console.print(f"[yellow]{escape(text)}[/yellow]", soft_wrap=True)


def _at_site(study: Study, sums: dict[str, dict[str, ScoreSums]], site: str) -> dict[str, dict[str, Estimate]]:
    models = {"local": f"local:{site}", "global": "global", "pooled": POOLED}
    found = {name: sums.get(model, {}).get(site) for name, model in models.items()}
    return {name: metrics_of(study, item) for name, item in found.items() if item is not None}


def _told(metric: str, found: Estimate | None) -> str:
    """Write an estimate: numbers of days whole, others to three digits."""
    return estimate_text(found, DIGITS if found is None else digits_of(metric, found, DIGITS))


def _joint(columns: int, width: int) -> str:
    """Return what stands between a value and its interval: a new line where a terminal is too narrow."""
    return " " if BESIDE + columns * INTERVAL <= width else "\n"
