"""The frozen records of a round: what the coordinator keeps, what it asks, what a site answers.

`ServerState` and `Update` hold tensors and stay in memory or in safetensors files. Everything else is
JSON: identifiers, digests and numbers, checked strictly on both sides (no unknown key, no coercion).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from components.later import LaterFields

if TYPE_CHECKING:  # it brings torch, which a hospital's worker does without
    from components.weights import Weights

POOLED = "pooled"  # the site of all items in one place, which a study may compare with
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"
SHA256_PATTERN = r"[0-9a-f]{64}"
DETAILS_DEEP = 8

Name = Annotated[
    str,
    Field(
        pattern=f"^{NAME_PATTERN}$",
        description="a name of letters, digits, '_', '.' and '-' that starts with a letter or digit, at most 63",
    ),
]


def site_name(name: str) -> str:
    """Return the name of a site.

    Raises:
        ValueError: If it is that of all items in one place, in any case: a disk may not tell the cases apart.
    """
    if name.lower() == POOLED:
        raise ValueError(f"{name!r} stands for all sites' items in one place: give the site another name")
    return name


SiteName = Annotated[Name, AfterValidator(site_name)]
Sha256 = Annotated[str, Field(pattern=f"^{SHA256_PATTERN}$")]
Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class ServerState:
    """What a strategy carries from round to round.

    Attributes:
        round: Rounds aggregated so far; 0 before the first.
        step: The strategy's own optimiser steps (FedAdam's t). Never derived from `round`, so that a
            skipped round or a resume does not shift it.
        weights: The exchanged floating-point entries of the global model.
        statistics: Names of those entries of `weights` that are averages of data and not trained
            (BatchNorm's running mean and variance): always averaged, never given to an optimiser.
        slots: Further weights a strategy needs, by name (momentum, second moment, control variate).
    """

    round: int
    step: int
    weights: Weights
    statistics: frozenset[str] = frozenset()
    slots: dict[str, Weights] = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """What one site contributes to one round, after it was verified.

    Attributes:
        site: Name of the site, from its credential.
        round: Number of the round it was made for, counted from 1.
        weights: The site's trained entries, the same names as `ServerState.weights` less the personal
            ones. Full values rather than differences, so that one site's federation equals its local
            training bit for bit; a strategy that needs the difference takes it in double precision.
        weight: Samples trained on, above zero.
        steps: Optimiser steps taken, above zero.
        extras: Further weights that the strategy asked for, by name.
    """

    site: str
    round: int
    weights: Weights
    weight: float
    steps: int = 1
    extras: dict[str, Weights] = field(default_factory=dict)


class Record(BaseModel):
    """Base of the JSON records: frozen, strict, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StateRef(Record):
    """A server state by the digests of its weights, as the journal keeps it."""

    round: int
    step: int
    weights: str
    statistics: list[str]
    slots: dict[str, str]


class RoundPlan(Record):
    """What a round will do; written to the journal before anything is sent.

    Attributes:
        study: Name of the study.
        study_digest: SHA-256 of the study's canonical JSON.
        training: Identifier of the training this round belongs to.
        round: Number of the round, counted from 1.
        attempt: How often this round was planned anew, counted from 1.
        base_digest: Digest of the global weights the sites start from.
        roster: The sites asked, in the order of their names.
        quorum: How many sites must deliver for the round to count.
        required: Sites that must be among them.
        deadline_s: Seconds after which the round is closed with whoever delivered, if the quorum holds.
        instructions: What the strategy asks of the sites, by name.
    """

    study: Name
    study_digest: Sha256
    training: Name
    round: Annotated[int, Field(ge=1)]
    attempt: Annotated[int, Field(ge=1)] = 1
    base_digest: Sha256
    roster: Annotated[list[Name], Field(min_length=1)]
    quorum: Annotated[int, Field(ge=1)]
    required: list[Name] = Field(default_factory=list)
    deadline_s: Annotated[float, Field(gt=0)]
    instructions: dict[str, float | str | bool] = Field(default_factory=dict)


class Order(Record):
    """One piece of work for one site.

    Attributes:
        kind: ``train`` or ``evaluate``.
        site: Whom it is for.
        plan: The round it belongs to. For an evaluation, `plan.base_digest` is still the base of the
            round; the weights to evaluate are `weights_digest`.
        weights_digest: Digest of the weights to train from or to evaluate.
        split: For ``evaluate``: which part of the site's data.
        nonce: Unique for the order; the answer carries it back.
    """

    kind: Literal["train", "evaluate"]
    site: Name
    plan: RoundPlan
    weights_digest: Sha256
    split: Split = "validation"
    nonce: Annotated[str, Field(min_length=1, max_length=64)]


class ItemCounts(Record):
    """How many items a site was expected to have, could use, and set aside."""

    expected: Annotated[int, Field(ge=0)]
    usable: Annotated[int, Field(ge=0)]
    quarantined: Annotated[int, Field(ge=0)]


class PairSums(Record):
    """Pairs of patients of one site of whom it is known who had the event first, as sums.

    Attributes:
        comparable: How many there are, or their weights added up.
        concordant: Those of whom the one with the higher risk score had it first; equal scores count half.
        squares: Over patients, the sum of the squares of the concordant pairs each is in.
        products: The sum of the products of concordant and comparable pairs each is in.
        weights: The sum of the squares of the comparable pairs each is in.
    """

    comparable: float
    concordant: float
    squares: float
    products: float
    weights: float


class CalibrationSums(Record):
    """Patients by their predicted chance of the event until one horizon, in groups of equal width.

    Attributes:
        counts: Patients of each group.
        expected: Sum of their predicted chances.
        observed: Events seen until the horizon, each weighted by the inverse chance of not being censored before.
        squares: Sum of the squared differences of both.
    """

    counts: list[int]
    expected: list[float]
    observed: list[float]
    squares: list[float]


class SurvivalSums(Record):
    """A site's evaluation of a survival model; see `components.evaluation.survival_sums`.

    Attributes:
        events: Patients whose event was seen.
        pairs: Pairs for Harrell's concordance.
        weighted_pairs: Pairs for Uno's.
        followed: By edge of the grid, the patients of sites that follow enough of theirs until then.
        brier: By edge, the sum of the weighted squared errors of those.
        brier_squares: By edge, the sum of their squares.
        calibration: One for each horizon, of the patients of sites that follow enough of theirs until then.
    """

    events: Annotated[int, Field(ge=0)]
    pairs: PairSums
    weighted_pairs: PairSums
    followed: list[Annotated[int, Field(ge=0)]]
    brier: list[float]
    brier_squares: list[float]
    calibration: list[CalibrationSums]


class ArmSums(Record):
    """The patients of one arm in groups of like predicted benefit; see `components.evaluation.benefit`.

    Attributes:
        bins: Place of each group among the bins of the benefit, rising.
        patients: Patients of each group.
        benefits: Sum of their predicted benefits.
        weights: Sum of their weights, one over the chance of their own arm each (and of not being censored).
        squares: Sum of the squares of the weights.
        outcomes: Sum of weight times outcome, from 0 to 1, which is what is wanted.
        square_outcomes: Sum of squared weight times outcome.
        squared_outcomes: Sum of squared weight times squared outcome.
        overlap_bins: Place of each group among the bins of the chance of the second arm, rising.
        overlap: Patients of each of these groups.
    """

    bins: list[Annotated[int, Field(ge=0)]]
    patients: list[Annotated[int, Field(ge=0)]]
    benefits: list[float]
    weights: list[float]
    squares: list[float]
    outcomes: list[float]
    square_outcomes: list[float]
    squared_outcomes: list[float]
    overlap_bins: list[Annotated[int, Field(ge=0)]]
    overlap: list[Annotated[int, Field(ge=0)]]


class BenefitMoments(Record):
    r"""Sums over all patients of one arm, of products of weight w, predicted benefit b and outcome y.

    Attributes:
        once: :math:`\sum w b^i y^j`, for i, j as `components.evaluation.benefit.ONCE` has them.
        twice: :math:`\sum w^2 b^i y^j`, for i, j as `components.evaluation.benefit.TWICE` has them.
    """

    once: Annotated[list[float], Field(min_length=5, max_length=5)]
    twice: Annotated[list[float], Field(min_length=12, max_length=12)]


class TreatmentSums(Record):
    """What a site tells of the benefits that a model predicts; of each pair of arms the first is first.

    Attributes:
        arms: Both arms in groups by predicted benefit, of a site that can tell of more than one group.
        whole: Both arms in one group each, of a site that cannot: its patients count, and are not ranked.
        advice: One group each: those who were given the other arm than is recommended, and those who were given that
            one. None where either are too few.
        moments: Both arms'. None where an arm has fewer patients than these are numbers.
    """

    arms: Annotated[list[ArmSums], Field(min_length=2, max_length=2)]
    whole: Annotated[list[ArmSums], Field(min_length=2, max_length=2)]
    advice: Annotated[list[ArmSums], Field(min_length=2, max_length=2)] | None = None
    moments: Annotated[list[BenefitMoments], Field(min_length=2, max_length=2)] | None = None


class ScoreSums(Record, LaterFields):
    """A site's evaluation as sums that can be added over sites; see `components.evaluation.histograms`.

    Attributes:
        bins: Number of equal bins on [0, 1].
        positives: Per class, a histogram of the scores of the items that have that class: [C][bins].
        negatives: Per class, a histogram of the scores of the items that do not have it: [C][bins].
        score_sums: Per class and bin, the sum of the scores in it (positives and negatives): [C][bins].
        squared_error: Per class, the sum of squared differences of score and truth.
        confusion: Items by true class (row) and predicted class (column): [C][C] for binary and
            multiclass; empty for multilabel.
        loss: Sum of the loss over items.
        count: Number of items.
        groups: The sums of some of the items on their own, by the name of the subgroup; none where they are too few.
        survival: Of a survival task, which has no histograms: what stands in their place.
        treatment: Of a model of treatments; None also where too few patients stand behind an arm.
    """

    later = frozenset({"groups", "survival", "treatment"})

    bins: Annotated[int, Field(ge=2, le=100_000)]
    positives: list[list[int]]
    negatives: list[list[int]]
    score_sums: list[list[float]]
    squared_error: list[float]
    confusion: list[list[int]]
    loss: float
    count: Annotated[int, Field(ge=0)]
    groups: dict[str, ScoreSums] = Field(default_factory=dict)
    survival: SurvivalSums | None = None
    treatment: TreatmentSums | None = None


class UpdateManifest(Record):
    """What a site says about the update it put into its slot; checked against the file itself.

    Attributes:
        weights_digest: `components.weights.digest` of the entries.
        file_sha256: SHA-256 of the safetensors file.
        bytes: Size of the file.
        weight: Samples trained on.
        steps: Optimiser steps taken.
        loss_sum: Sum of the training loss over samples, in the last local epoch.
    """

    weights_digest: Sha256
    file_sha256: Sha256
    bytes: Annotated[int, Field(ge=1)]
    weight: Annotated[float, Field(gt=0)]
    steps: Annotated[int, Field(ge=1)]
    loss_sum: float


SEEN = "order of rounds"  # the stage of an answer that refuses a round which the site has seen, or one before it


def _require_shallow(details: dict[str, Any]) -> dict[str, Any]:
    """Refuse lists and objects within each other without end."""
    level: list[Any] = [details]
    for _ in range(DETAILS_DEEP):
        inner = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        level = [value for values in inner for value in values]
    if any(isinstance(value, dict | list) for value in level):
        raise ValueError(f"details are nested more than {DETAILS_DEEP} deep")
    return details


class Answer(Record):
    """What a site answers to an order.

    Attributes:
        status: ``done``; ``refused`` (policy, data gate, a failed check: `reason` says which); or
            ``failed`` (an error while working: `reason` is fit to leave the hospital).
        nonce: The order's nonce.
        update: For a training that is done.
        sums: For an evaluation that is done.
        items: The site's item counts.
        seconds: Durations by stage.
        details: Further JSON that may leave the site (data digest, class counts), at most `DETAILS_DEEP` levels deep:
            what a site sends is written and read by recursion in more than one place.
    """

    kind: Literal["train", "evaluate"]
    site: Name
    round: Annotated[int, Field(ge=1)]
    nonce: str
    status: Literal["done", "refused", "failed"]
    stage: str = ""
    reason: str = ""
    update: UpdateManifest | None = None
    sums: ScoreSums | None = None
    items: ItemCounts | None = None
    seconds: dict[str, float] = Field(default_factory=dict)
    details: Annotated[dict[str, Any], AfterValidator(_require_shallow)] = Field(default_factory=dict)
