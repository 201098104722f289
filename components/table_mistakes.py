"""What a study of tables, of survival or of treatments cannot have, and what only one of them can: field and words."""

from __future__ import annotations

from typing import get_args

from components.history import DAYS
from components.study import TABULAR, NetworkName, Study

CLASS_METRICS = {"brier", "loss"}  # that there are of classes, too
SURVIVAL_METRICS = {"concordance", "concordance_ipcw", "integrated_brier"} | CLASS_METRICS


def survival_mistakes(study: Study) -> list[tuple[str, str]]:
    """Refuse what a survival task cannot have, and what only one can."""
    data, rule = study.data, study.rounds.convergence
    both, named = {"time", "event"}, {key for key in ("time", "event") if data.columns.get(key)}
    if study.task.survival is None:
        found = [(f"data.columns.{key}", "belongs to task.kind: survival; leave it out") for key in sorted(named)]
        if rule is not None and rule.metric in SURVIVAL_METRICS - CLASS_METRICS:
            found.append(("rounds.convergence.metric", f"given {rule.metric}; it goes with task.kind: survival"))
        if study.network.name == "Linear":
            found.append(("network.name", "given Linear; it goes with task.kind: survival"))
        return found
    found = [(f"data.columns.{key}", "is missing; a survival task needs both columns") for key in sorted(both - named)]
    if data.source != "records":
        found.append(("data.source", f"given {data.source}; must be records with task.kind: survival"))
    if rule is not None and rule.metric not in SURVIVAL_METRICS:
        allowed = ", ".join(sorted(SURVIVAL_METRICS))
        found.append(("rounds.convergence.metric", f"given {rule.metric}; must be one of {allowed} for survival"))
    if study.task.imbalance != "none":
        found.append(("task.imbalance", f"given {study.task.imbalance}; must be none with task.kind: survival"))
    if study.network.name == "LogisticRegression":
        found.append(("network.name", "given LogisticRegression; must be Linear or MLP with task.kind: survival"))
    return found


def records_mistakes(study: Study) -> list[tuple[str, str]]:
    """Refuse what a study of tables cannot have, and what only one of them can."""
    records, name, evaluate = study.data.records, study.network.name, study.evaluate
    tables, images = (", ".join(sorted(names)) for names in (TABULAR, set(get_args(NetworkName)) - TABULAR))
    found: list[tuple[str, str]] = []
    if (records is not None) != (name in TABULAR):
        allowed = tables if records is not None else images
        found.append(("network.name", f"given {name}; must be one of {allowed} with data.source: {study.data.source}"))
    if records is None:
        text = "belongs to data.source: records; leave it out for images"
        return [*found, ("evaluate.subgroups", text if evaluate.subgroups else "")]
    if records.labels and sorted(records.labels) != sorted(study.task.classes):
        given = ", ".join(records.labels)
        found.append(("data.records.labels", f"given {given}; must name each of task.classes: {study.task.classes}"))
    found += history_mistakes(study)
    if records.wide is not None and study.task.kind not in ("binary", "survival"):
        found.append(("data.records.wide", f"given with {study.task.kind}; goes with task.kind: binary or survival"))
    if study.data.augment:
        found.append(("data.augment", "belongs to images; leave it out for data.source: records"))
    features = {feature.name: feature for feature in records.features}
    for place, subgroup in enumerate(evaluate.subgroups):
        feature, field = features.get(subgroup.feature), f"evaluate.subgroups[{place}]"
        if feature is None:
            found.append((f"{field}.feature", f"given {subgroup.feature!r}; must be one of {', '.join(features)}"))
        elif (feature.type == "numeric") != bool(subgroup.edges):
            found.append((f"{field}.edges", f"go with a numeric feature, and {feature.name} is {feature.type}"))
    return found


def history_mistakes(study: Study) -> list[tuple[str, str]]:
    """Refuse a task that no outcome of dated records is, and an outcome that says too little or too much for it."""
    history = None if study.data.records is None else study.data.records.history
    if history is None:
        return []
    field, survival = "data.records.history.label.follow_up", study.task.survival
    if survival is None:
        found = [(field, "goes with task.kind: survival, and only with it")] if history.label.follow_up else []
        if study.task.kind != "binary":
            text = f"given {study.task.kind}; must be binary or survival with data.records.history: whether, or when"
            found.append(("task.kind", text))
        return found
    found = []
    if not history.label.follow_up:
        text = "is missing; for survival it says what shows that a patient was looked on: record, visit or period"
        found.append((field, text))
    if survival.unit not in DAYS:
        text = f"given {survival.unit!r}; must be one of {', '.join(DAYS)} with data.records.history, which has dates"
        found.append(("task.survival.unit", text))
    return found


def treatment_mistakes(study: Study) -> list[tuple[str, str]]:
    """Refuse a study of treatments that lacks the arm, or asks for what its model cannot be."""
    chosen, records, task = study.task.treatment, study.data.records, study.task
    arm = None if records is None else records.arm
    if chosen is None:
        return [("data.records.arm", "goes with task.treatment, and only with it" if arm else "")]
    found = [] if arm else [("task.treatment", "needs data.records.arm: the column with each patient's treatment")]
    if task.kind not in ("binary", "survival"):
        found.append(("task.kind", f"given {task.kind}; must be binary or survival with task.treatment"))
    plain = [("task.imbalance", task.imbalance, "none"), ("local.method", study.local.method, "gradient")]
    found += [(name, f"given {it}; must be {own} with task.treatment") for name, it, own in plain if it != own]
    if chosen.learner == "single" and study.network.name in ("LogisticRegression", "Linear"):
        text = f"given {study.network.name}; must be MLP with learner: single, or one arm were better for everybody"
        found.append(("network.name", text))
    text = "belongs to a binary outcome; of survival the longer is the better"
    return [*found, ("task.treatment.better", text if task.survival is not None and chosen.better else "")]
