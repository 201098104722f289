"""The section ``rounds`` of a study: how many, what closes one, what makes it count, and when to stop."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from components.rounds import Name
from components.section import Fraction, Positive, Section

Watched = Literal[
    "auroc", "average_precision", "accuracy", "balanced_accuracy",
    "sensitivity", "specificity", "brier", "calibration_error", "loss",
    "concordance", "concordance_ipcw", "integrated_brier",
]  # fmt: skip
# Calibration is best at 1, 0 and 1, so that neither more nor less of it is better; benefits are judged at the end.
Metric = Literal[
    "auroc", "average_precision", "accuracy", "balanced_accuracy",
    "sensitivity", "specificity", "brier", "calibration_error", "loss",
    "concordance", "concordance_ipcw", "integrated_brier",
    "calibration_slope", "calibration_intercept", "calibration_ratio",
    "effect", "recommended_gain", "auuc", "qini", "benefit_slope", "benefit_offset",
]  # fmt: skip


def headline(kind: str) -> Metric:
    """Return the metric that a kind of task is told by where the study names no other: one of ranks.

    >>> headline("survival"), headline("binary")
    ('concordance', 'auroc')
    """
    return "concordance" if kind == "survival" else "auroc"


def _kind_of_quorum(value: Any) -> str | None:
    """Tell a number of sites (1, 2, ...) from a fraction of the roster (0.5, 1.0): by the decimal point."""
    if isinstance(value, int) and not isinstance(value, bool):
        return "sites_needed"
    return "part_needed" if isinstance(value, float) else None


Quorum = Annotated[
    Annotated[Positive, Tag("sites_needed")] | Annotated[Fraction, Tag("part_needed")],
    Discriminator(_kind_of_quorum),
    Field(
        description="a whole number, 1 or more (that many sites), or a number with a decimal point, "
        "above 0 and at most 1 (that part of the roster; 1.0 is all of it)"
    ),
]


class Convergence(Section):
    """When the global model counts as converged.

    Attributes:
        metric: Pooled validation metric that is watched; of a survival task ``concordance``, ``concordance_ipcw``,
            ``brier``, ``integrated_brier`` or ``loss``.
        mode: ``max`` or ``min``: which direction is better.
        patience: Rounds without an improvement after which the training stops.
        min_delta: Smallest change that counts as an improvement.
    """

    metric: Watched = "auroc"
    mode: Literal["max", "min"] = "max"
    patience: Positive = 3
    min_delta: Annotated[float, Field(ge=0)] = 0.001

    @model_validator(mode="after")
    def _check(self) -> Convergence:
        lower_is_better = self.metric in ("brier", "calibration_error", "loss", "integrated_brier")
        if lower_is_better != (self.mode == "min"):
            better = "min" if lower_is_better else "max"
            raise ValueError(f"metric {self.metric} goes with mode: {better}, given {self.mode}")
        return self


class Selection(Section):
    """Which sites are asked in a round: all of them, a fraction, or a number, drawn by seed and round."""

    fraction: Fraction | None = None
    count: Positive | None = None

    @model_validator(mode="after")
    def _check(self) -> Selection:
        if self.fraction is not None and self.count is not None:
            raise ValueError("give fraction or count, not both; neither asks all sites")
        return self


class Rounds(Section):
    """How many rounds, and what makes one count.

    Attributes:
        max: Rounds at the most.
        mode: ``sync``: a round asks its sites and closes when they have answered. ``async`` (FedBuff): a round closes
            as soon as `buffer` sites have delivered; nobody stops the others, whose updates count in a later round.
        buffer: For ``async``: how many sites' updates make the next version.
        max_staleness: For ``async``: work that began more versions ago than this is dropped, and its site begins anew;
            null sets no limit.
        convergence: When to stop earlier; null runs all rounds.
        quorum: What must deliver a valid update: a whole number is that many sites, a number with a
            decimal point is that part of the roster, rounded up. So ``1`` is one site, ``1.0`` is all.
        required: Sites without which no round counts.
        deadline_s: Longest that a round waits, in seconds, before it is closed with whoever delivered, if the
            quorum holds; for ``async``, before a site is asked anew. A federation learns shorter ones for each site
            (`components.deadlines`).
        late: What becomes of an update that arrives after its round was closed: ``drop``, or ``discount``, which
            uses it in the next round: what the site learned is divided by the square root of 1 + the rounds it is late.
        max_change: Largest L2 norm of what one update may change of the trained weights; null sets no limit. Checked
            at the site before anything leaves it, and again on arrival.
        selection: Which sites are asked.
    """

    max: Positive = 10
    mode: Literal["sync", "async"] = "sync"
    buffer: Positive = 2
    max_staleness: Annotated[int, Field(ge=0)] | None = None
    convergence: Convergence | None = Convergence()
    quorum: Quorum = 1.0
    required: list[Name] = Field(default_factory=list)
    deadline_s: Annotated[float, Field(gt=0)] = 3600.0
    late: Literal["drop", "discount"] = "drop"
    max_change: Annotated[float, Field(gt=0)] | None = None
    selection: Selection = Selection()

    @property
    def updates_needed(self) -> int | None:
        """How many sites must deliver, where that does not depend on how many are asked."""
        if self.mode == "async":
            return self.buffer
        return self.quorum if isinstance(self.quorum, int) else None
