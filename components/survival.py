"""The section ``task.survival`` of a study: until when, in what unit, by which likelihood."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.section import Section

CENSORED, EVENT = "censored", "event"
Time = Annotated[float, Field(gt=0)]
Ordered = Annotated[list[float], Field(min_length=2, max_length=2)]


class Grid(Section):
    """Equal cells of time, from 0 on, on which hazards are told, and survival is predicted and judged.

    Attributes:
        end: Where the last cell ends, in the task's unit; nothing is predicted beyond.
        cells: How many.
    """

    end: Time
    cells: Annotated[int, Field(ge=2, le=200)] = 20

    @property
    def edges(self) -> list[float]:
        """Upper edges of the cells, in the task's unit.

        >>> Grid(end=10, cells=4).edges
        [2.5, 5.0, 7.5, 10.0]
        """
        return [self.end * number / self.cells for number in range(1, self.cells + 1)]


class Survival(Section):
    """The time until an event, which is not seen in everybody (``task.kind: survival``).

    The table's columns are named in ``data.columns``: ``time`` (from the common start to the event, or to the end of
    observation) and ``event`` (whether it was seen: 1 or 0, or the words of ``data.records.labels``).

    Attributes:
        unit: Unit of the times, for example ``days``. A hospital whose own feature file gives its column of times
            another takes no part.
        range: Lowest and highest time that can be, in `unit`; a row beyond it is set aside.
        typical: Lowest and highest that the median of a hospital's times can be, in `unit`; a hospital beyond it takes
            no part: it has another unit. Null does not look.
        horizons: Times at which survival is predicted, rising, each an edge of the grid; the first is the one that
            calibration is judged at.
        grid: The cells.
        loss: ``cox``: the partial likelihood within each site, whose shared baseline hazard is constant in each cell;
            ``hazards``: the likelihood of a chance of the event in each cell (discrete time), in which risks need not
            be proportional.
        ties: For ``cox``: ``efron`` or ``breslow``, for events of one site at one time.
        risk_sets: For ``cox``: ``site``: each step is over all training rows of the site, whatever `local.batch_size`;
            ``batch``: over batches, in which a patient is compared with those of his batch only.
    """

    unit: Annotated[str, Field(min_length=1)]
    range: Ordered | None = None
    typical: Ordered | None = None
    horizons: Annotated[list[Time], Field(min_length=1, max_length=10)]
    grid: Grid
    loss: Literal["cox", "hazards"] = "cox"
    ties: Literal["efron", "breslow"] = "efron"
    risk_sets: Literal["site", "batch"] = "site"

    @model_validator(mode="after")
    def _check(self) -> Survival:
        for name, pair in (("range", self.range), ("typical", self.typical)):
            if pair is not None and not 0 <= pair[0] < pair[1]:
                raise ValueError(f"{name} must be lowest < highest, from 0 on, given {pair}")
        if sorted(set(self.horizons)) != self.horizons:
            raise ValueError(f"horizons must rise, given {self.horizons}")
        edges = self.grid.edges
        off = [time for time in self.horizons if min(abs(time - edge) for edge in edges) > 1e-9 * self.grid.end]
        if off:
            step = self.grid.end / self.grid.cells
            raise ValueError(
                f"horizons must be edges of the grid, multiples of {step:g} up to {self.grid.end:g}, given {off}"
            )
        return self

    @property
    def needs_whole_site(self) -> bool:
        """Whether a step is over all training rows of a site."""
        return self.loss == "cox" and self.risk_sets == "site"

    @property
    def places(self) -> list[int]:
        """The place of each horizon among the grid's edges.

        >>> Survival(unit="days", horizons=[5, 10], grid=Grid(end=10, cells=4)).places
        [1, 3]
        """
        step = self.grid.end / self.grid.cells
        return [round(time / step) - 1 for time in self.horizons]

    @property
    def outputs(self) -> list[str]:
        """Names of what the model says: its risk score, and the chance of no event until each horizon.

        >>> Survival(unit="days", horizons=[5, 10], grid=Grid(end=10, cells=4)).outputs
        ['risk', 'survival_5', 'survival_10']
        """
        return ["risk", *(f"survival_{time:g}" for time in self.horizons)]
