"""How an order reaches a site: one small interface, whatever lies between.

`flows.dispatch` has the dispatchers that run sites in this process or in a pool of processes; a test's
double is the same interface around a function.
"""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import Field

from components.analytics.plan import AnalysisStudy, Disclosure
from components.features import Categories, FeatureName
from components.later import LaterFields
from components.rounds import Answer, ItemCounts, Name, Order, Record, Sha256
from components.site_source import SiteSource
from components.study import Study
from components.table_sums import Fitted, TableSums


class SiteSetting(Record):
    """What a process must know to act as one site.

    Attributes:
        study: The study, as the hospital knows it.
        source: Where the site's items are.
        state: The site's own folder: its journal, its quarantine list, its cache, its personal entries.
        store: Root of the exchange the site fetches weights from and submits updates to.
    """

    study: Study
    source: SiteSource
    state: str
    store: str

    @property
    def site(self) -> str:
        """Name of the site."""
        return self.source.name

    @property
    def purpose(self) -> str:
        """What a process of this setting is for: the study."""
        return self.study.study

    @property
    def version(self) -> str:
        """Digest of the study."""
        return self.study.digest

    @property
    def state_folder(self) -> Path:
        """The site's own folder."""
        return Path(self.state)


class DeskSetting(Record):
    """What a process must know to answer the questions of analyses for one site, whatever their study.

    Attributes:
        site: Name of the site.
        state: The site's own folder of what it told, for all analyses together.
    """

    site: Name
    state: str

    @property
    def purpose(self) -> str:
        """What a process of this setting is for; no study can have this name."""
        return "(analyses)"

    @property
    def version(self) -> str:
        """Of no study."""
        return ""


class DeskQuestion(Record):
    """One question as a site's process is asked it, after it was reviewed.

    Attributes:
        study: The study.
        analysis: Identifier of the analysis: all its questions are about the table as its first one found it.
        file: The table.
        policy: The hospital's own policy.
        request: The question, JSON.
    """

    study: AnalysisStudy
    analysis: Name
    file: str
    policy: Disclosure
    request: str


class InitialModel(Record, LaterFields):
    """A freshly initialised global model, in the exchange.

    Attributes:
        weights_digest: Digest of the exchanged entries.
        statistics: Names of the entries that are averages of data.
        normalisation: Names of the entries of normalisation layers.
        output: Names of the entries of the output layers, where the strategy leaves them at the sites.
        parameters: Number of trained parameters.
    """

    later = frozenset({"output"})

    weights_digest: Sha256
    statistics: list[str]
    normalisation: list[str]
    output: list[str] = Field(default_factory=list)
    parameters: int

    def personal(self, kind: str) -> list[str]:
        """Return the entries that stay at the sites, by a strategy's ``personal``."""
        return {"none": [], "normalisation": self.normalisation, "output": self.output}[kind]


class Preparation(Record, LaterFields):
    """What a site says of its data before the first round.

    Attributes:
        site: Name of the site.
        ready: Whether it can take part.
        reason: Why not.
        has_data: Whether its hospital names any data for the study; one that does not takes no part.
        items: Expected, usable and quarantined items.
        data_digest: SHA-256 over the usable items, their labels and their preprocessing.
        class_counts: Items by class, for each split.
        sums: Of a table: sums over its training rows.
        columns: Where the study has a pattern of wide columns: those of the site's table that it meets, and no more.
        categories: Where the study leaves categories to the sites: by feature, values that enough patients share.
        sums_file: In a journal: digest of the file beside it that has the sums, where they are long.
        seconds: How long opening the data took.
    """

    later = frozenset({"categories", "columns", "has_data", "sums", "sums_file"})

    site: Name
    ready: bool
    reason: str = ""
    has_data: bool = True
    items: ItemCounts | None = None
    data_digest: str = ""
    class_counts: dict[str, list[int]] = Field(default_factory=dict)
    sums: TableSums | None = None
    columns: list[str] = Field(default_factory=list)
    categories: dict[FeatureName, Categories] = Field(default_factory=dict)
    sums_file: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    seconds: float = 0.0


class Progress(Record):
    """How far a site is with a training, while it goes on.

    Attributes:
        site: Name of the site.
        training: Which training.
        round: Which round of it.
        epoch: The pass over its items that it is in, counted from 1, of `epochs`.
        share: How much of that pass is done, from 0 to 1.
        left_s: Estimate of the seconds until it has trained.
    """

    site: Name
    training: Name
    round: Annotated[int, Field(ge=1)]
    epoch: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]
    share: Annotated[float, Field(ge=0, le=1)]
    left_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class OrderDispatcher(Protocol):
    """Sends orders to sites: what a training needs once its sites are ready."""

    def submit(self, order: Order) -> Future[Answer]:
        """Send an order. The future holds the site's answer, or raises `SiteError` if it was lost."""
        ...


class Dispatcher(OrderDispatcher, Protocol):
    """Sends work to sites. Every call returns at once; errors arrive in the future."""

    def initialise(self, study: Study, fitted: Fitted | None = None) -> Future[InitialModel]:
        """Build the study's network from its seed and put its weights into the exchange.

        Args:
            study: The study.
            fitted: Of a table: what is done to its columns first; it becomes a part of the weights.
        """
        ...

    def prepare(self, site: str) -> Future[Preparation]:
        """Let a site open its data and say what it found."""
        ...

    def export(self, study: Study, file: Path) -> Future[Path]:
        """Export the study's network for its users (`torch.export`) into a file."""
        ...

    def close(self) -> None:
        """Stop the sites; orders in flight are abandoned."""
        ...
