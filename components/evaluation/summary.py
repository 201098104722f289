"""The record of a finished training that its report is written from: plain values, no handles, no tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from components.evaluation.intervals import Estimate
from components.rounds import ItemCounts

MODEL_NAMES = {"local": "local only", "global": "federated", "pooled": "pooled data"}  # in the order of their columns


@dataclass(frozen=True)
class RoundSummary:
    """One round.

    Attributes:
        number: The round, counted from 1.
        version: The registered version it made; empty if none.
        items: By site that took part: items used and items expected.
        absent: By site that was asked and did not deliver, or was not asked: why.
        seconds: How long the round took.
        metric: The watched metric on the pooled validation items, where it is defined.
        weights_digest: Digest of the global weights after the round.
    """

    number: int
    version: str
    items: Mapping[str, tuple[int, int]]
    seconds: float
    metric: Estimate | None
    weights_digest: str
    absent: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SiteSummary:
    """One site, by what may leave it.

    Attributes:
        name: Its name.
        items: Items expected, usable and quarantined. Names of files stay at the site.
        test: The champion's metrics on the site's test items.
        undefined: Metrics that have no value there, with the reason.
        comparison: The watched metric on the site's test items by model: ``local``, ``global``, ``pooled``.
        external: Metrics on all of the site's items of the model that was trained without the site.
    """

    name: str
    items: ItemCounts
    test: Mapping[str, Estimate]
    undefined: Mapping[str, str] = field(default_factory=dict)
    comparison: Mapping[str, Estimate] = field(default_factory=dict)
    external: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportFigure:
    """A picture of the report: its title, a sentence that says what is seen, and the PNG."""

    title: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class TrainingSummary:
    """Everything the report of one training says.

    Attributes:
        study: Name of the study, which is also the registered model's.
        description: The study's own description.
        study_text: The study as YAML or JSON, shown as it is.
        study_digest: Digest of the study.
        training: Identifier of the training.
        started: When it started, with a time zone.
        ended: When it ended, with a time zone.
        stopped: Why it ended, as a sentence.
        code_version: Version of WardRound, and the commit if known.
        strategy: The strategy with its hyper-parameters, as text.
        network: The network with its arguments, as text.
        kind: The task's kind.
        classes: Names of the classes.
        threshold: Score from which an item counts as positive.
        bins: Bins of the score histograms.
        metric: The watched metric.
        test_metric: The metric by which tests and comparisons are told.
        rounds: The rounds, in order.
        best_round: The round whose version is the champion, if there is one.
        champion: The champion's version; empty if there is none.
        sites: The sites, in the order of their names.
        benefit: What the benefits of a treatment are: of which arm over which, and in what; empty without one.
        test: The champion's metrics on all test items together.
        undefined: Metrics that have no value there, with the reason.
        comparison: The watched metric on all test items, by model.
        warnings: What somebody has to look at, as sentences.
        remarks: What is worth knowing beside the metrics, as sentences.
        subgroups: By subgroup, the champion's metrics on the test items of the sites that may tell of it.
        external: Metrics on everybody's items, each judged by the model trained without his site.
        figures: Pictures.
        table: Whether the items are rows of a table.
        links: By name, where more is to be found. Only http and https addresses become links.
    """

    study: str
    description: str
    study_text: str
    study_digest: str
    training: str
    started: datetime
    ended: datetime
    stopped: str
    code_version: str
    strategy: str
    network: str
    kind: str
    classes: tuple[str, ...]
    threshold: float
    bins: int
    metric: str
    test_metric: str
    rounds: tuple[RoundSummary, ...]
    best_round: int | None
    champion: str
    sites: tuple[SiteSummary, ...]
    test: Mapping[str, Estimate]
    undefined: Mapping[str, str] = field(default_factory=dict)
    comparison: Mapping[str, Estimate] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    subgroups: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    external: Mapping[str, Estimate] = field(default_factory=dict)
    figures: tuple[ReportFigure, ...] = ()
    benefit: str = ""
    table: bool = False
    links: Mapping[str, str] = field(default_factory=dict)
