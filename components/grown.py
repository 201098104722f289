"""Studies whose model is grown from summed histograms: boosted trees, and what they ask of a study."""

from __future__ import annotations

from components.study import LocalTraining, Study

_SAID = "with network.name: BoostedTrees"


def is_grown(study: Study) -> bool:
    """Return whether the study's model is grown from sums."""
    return study.network.name == "BoostedTrees"


def tree_mistakes(study: Study) -> list[tuple[str, str]]:
    """Return what a study says that trees do not have, and what it lacks that they need: field and words."""
    name = study.strategy.name
    if is_grown(study) != (name == "HistogramBoosting"):
        wanted = "must be HistogramBoosting" if is_grown(study) else "it grows trees; must be another"
        return [("strategy.name", f"given {name}; {wanted} with network.name: {study.network.name}")]
    if not is_grown(study):
        return []
    return [*_rules(study), *_local(study), *_ranges(study)]


def _rules(study: Study) -> list[tuple[str, str]]:
    """Refuse what has no meaning for a level of a tree."""
    needed = [("task.imbalance", study.task.imbalance, "none"), ("rounds.late", study.rounds.late, "drop")]
    found = [(field, f"given {given}; must be {wanted} {_SAID}") for field, given, wanted in needed if given != wanted]
    others: dict[str, object] = {"task.kind: survival": study.task.survival, "task.treatment": study.task.treatment}
    others["data.records.wide"] = study.data.records and study.data.records.wide
    found += [("network.name", f"given BoostedTrees; must be another with {name}") for name, it in others.items() if it]
    if study.rounds.max_change is not None:
        found.append(
            ("rounds.max_change", f"given {study.rounds.max_change:g}; leave it out {_SAID}: no site changes it")
        )
    return found


def _local(study: Study) -> list[tuple[str, str]]:
    """Refuse words about a training that does not happen: a site adds up its rows, once."""
    plain = LocalTraining(epochs=1)
    return [
        (f"local.{field}", f"is about training by gradients; leave it out {_SAID}")
        for field in LocalTraining.model_fields
        if field != "device" and getattr(study.local, field) != getattr(plain, field)
    ]


def _ranges(study: Study) -> list[tuple[str, str]]:
    """Refuse a number that cannot be cut into bins."""
    features = study.data.records.features if study.data.records else []
    return [
        (f"data.records.features[{place}].range", f"is missing; {feature.name} is cut into bins of it {_SAID}")
        for place, feature in enumerate(features)
        if feature.type == "numeric" and feature.range is None
    ]
