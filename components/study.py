"""The study: what a consortium agreed to do, as frozen, strict records.

A study names things from closed tables (networks, strategies, readers); it never names a class or a
module to import. What belongs together across fields is checked here; what needs the tables themselves
(a strategy's hyper-parameters, a network's arguments) is checked by `components.assemble` and `models`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from components.features import Arm as Arm
from components.features import Feature as Feature
from components.features import Records as Records
from components.features import Subgroup as Subgroup
from components.features import Treatment as Treatment
from components.history import Given as Given
from components.history import History as History
from components.history import Index as Index
from components.history import Outcome as Outcome
from components.later import LaterFields
from components.round_rules import Convergence as Convergence
from components.round_rules import Metric as Metric
from components.round_rules import Rounds as Rounds
from components.round_rules import Selection as Selection
from components.round_rules import headline
from components.rounds import Name, SiteName
from components.section import Fraction, Positive, Section, Whole
from components.survival import CENSORED, EVENT
from components.survival import Grid as Grid
from components.survival import Survival as Survival
from components.wide import Wide as Wide

Column = Literal["file", "label", "patient", "split", "time", "event"]
NetworkName = Literal[
    "CNN", "DenseNet", "ResNet", "EfficientNet", "ViT", "LogisticRegression", "MLP", "Linear", "BoostedTrees"
]
TABULAR: frozenset[NetworkName] = frozenset({"LogisticRegression", "MLP", "Linear", "BoostedTrees"})
StrategyName = Literal[
    "FedAvg", "FedProx", "FedBN", "FedPer", "FedAvgM", "FedAdagrad", "FedAdam", "FedYogi", "HistogramBoosting"
]


def _kind_of_sites(value: Any) -> str | None:
    """Tell a list of hospitals from virtual ones."""
    if isinstance(value, list):
        return "folders"
    return "virtual" if isinstance(value, dict | VirtualSites) else None


def _precision(value: Any) -> Any:
    """Take the number 32 for its text: a study file may say it without quotes."""
    return "32" if type(value) is int and value == 32 else value


Precision = Annotated[
    Literal["32", "16-mixed", "bf16-mixed"],
    BeforeValidator(_precision, json_schema_input_type=Literal["32", "16-mixed", "bf16-mixed", 32]),
]


def _without_classes(schema: dict[str, Any]) -> None:
    """Let a survival task have no classes, in the JSON Schema that editors check with."""
    schema["required"] = [name for name in schema.get("required", []) if name != "classes"]
    schema["if"] = {"properties": {"kind": {"const": "survival"}}, "required": ["kind"]}
    schema["else"] = {"required": ["classes"]}


class Task(Section, LaterFields):
    """What is to be predicted.

    Attributes:
        kind: ``binary`` (one score for the second class), ``multiclass`` (one class of several),
            ``multilabel`` (any number of classes), or ``survival`` (the time until an event, of tables).
        classes: Names of the classes, in the order of the labels 0, 1, ...; a binary task has two,
            the second is the positive one. Left out for ``survival``, whose two are ``censored`` and ``event``.
        threshold: Score from which an item counts as positive, for sensitivity and specificity.
        imbalance: How unequal classes are handled: ``none``; ``weighted_loss`` (inverse frequency of the site's own
            training items); ``balanced_sampling`` (each class drawn equally often); ``focal`` (focal loss, gamma 2).
        survival: For ``survival``: its unit, its grid of time and its likelihood.
        treatment: Recommend one of two treatments, for a binary outcome; `data.records.arm` says who was given which.
    """

    model_config = ConfigDict(json_schema_extra=_without_classes)

    later = frozenset({"survival", "treatment"})

    kind: Literal["binary", "multiclass", "multilabel", "survival"] = "binary"
    classes: Annotated[list[str], Field(min_length=2)]
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    imbalance: Literal["none", "weighted_loss", "balanced_sampling", "focal"] = "none"
    survival: Survival | None = None
    treatment: Treatment | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_outcomes(cls, given: Any) -> Any:
        """Give a survival task its two outcomes."""
        if isinstance(given, dict) and given.get("kind") == "survival":
            return {"classes": [CENSORED, EVENT], **given}
        return given

    @model_validator(mode="after")
    def _check(self) -> Task:
        if (self.kind == "survival") != (self.survival is not None):
            raise ValueError("survival (unit, horizons, grid) goes with kind: survival, and only with it")
        if self.kind == "survival" and self.classes != [CENSORED, EVENT]:
            raise ValueError(f"classes must be left out with kind: survival, given {self.classes}")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must differ from each other, given {self.classes}")
        if self.kind == "binary" and len(self.classes) != 2:
            raise ValueError(f"a binary task has 2 classes, given {len(self.classes)}; use multiclass or multilabel")
        if self.treatment is not None and self.treatment.better not in ("", *self.classes):
            raise ValueError(
                f"treatment.better must be one of {', '.join(self.classes)}, given {self.treatment.better!r}"
            )
        return self

    @property
    def better(self) -> int:
        """Number of the class that is wanted for a patient."""
        return self.classes.index(self.treatment.better) if self.treatment and self.treatment.better else 0


class Network(Section):
    """A network by its name in the closed table of `models.networks`, with its own arguments."""

    name: NetworkName = "CNN"
    arguments: dict[str, Any] = Field(default_factory=dict)


class Splits(Section):
    """Fractions of patients (never of images) for training, validation and test; they add up to 1."""

    train: Fraction = 0.7
    validation: Fraction = 0.15
    test: Fraction = 0.15

    @model_validator(mode="after")
    def _check(self) -> Splits:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train, validation and test must add up to 1, they add up to {total:g}")
        return self


_COLUMNS: dict[Column, str] = {"file": "file", "label": "label", "patient": "patient", "split": ""}


class Data(Section, LaterFields):
    """Where a site's items come from and what is done to each before the network sees it.

    Attributes:
        source: Images: ``datalist`` (MONAI datalist JSON), ``table`` (a folder and a CSV that lists its images),
            ``folder`` (whatever the site's folder holds: the datalist if there is one, else the table), or ``npz``
            (MedMNIST-like arrays, for simulations). Health records: ``records`` (a CSV or Parquet file with a row for
            each patient, or patients' records as FHIR or OMOP; `records` says what is read).
        path: For ``npz``: the file, relative to ``WARDROUND_DATA``, or a known data set's name. For the
            other sources with virtual sites: the one folder (relative to the study file) they are cut from.
        datalist: For ``datalist`` and ``folder``: file name of the datalist inside a site's folder.
        table: For ``table`` and ``folder``: file name of the CSV inside a site's folder. For ``records``: that of the
            CSV or Parquet file, where a site's path is no file itself.
        columns: Names of the CSV's columns that hold the file, the label, the patient and (if not
            empty) a split; for a survival task ``time`` and ``event``, not the label. In a datalist, ``patient``
            and ``split`` name keys of its items. An empty ``patient`` says that every item is a patient of its own.
        records: For ``records``: its columns.
        spatial_size: Height, width (and depth) in pixels that every image is resampled to; left out for ``records``.
        channels: 1 for grey images, 3 for colour.
        modality: DICOM modalities accepted (``CR``, ``DX``, ``CT`` ...); empty accepts any.
        intensity: ``minmax`` (each image to [0, 1]); ``zscore`` (each image to mean 0, standard
            deviation 1); ``percentile`` (1st to 99th percentile to [0, 1], clipped); ``window``
            (`window` to [0, 1], clipped); or ``none``.
        window: For ``window``: lowest and highest intensity, in the units of the file (HU for CT).
        augment: Random transforms while training: ``flip`` (left-right), ``rotate`` (up to 10
            degrees), ``noise``, ``contrast``.
        splits: Fractions of patients, used where the source does not name the split itself.
        minimum_usable_fraction: A site whose usable items are a smaller part of its expected ones
            takes no part.
    """

    later = frozenset({"records", "spatial_size"})

    source: Literal["datalist", "table", "folder", "npz", "records"]
    path: str = ""
    datalist: str = "datalist.json"
    table: str = "items.csv"
    columns: dict[Column, str] = Field(default_factory=lambda: dict(_COLUMNS))
    records: Records | None = None
    spatial_size: Annotated[list[Positive], Field(min_length=2, max_length=3)] = Field(default_factory=list)
    channels: Literal[1, 3] = 1
    modality: list[str] = Field(default_factory=list)
    intensity: Literal["minmax", "zscore", "percentile", "window", "none"] = "minmax"
    window: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    augment: list[Literal["flip", "rotate", "noise", "contrast"]] = Field(default_factory=list)
    splits: Splits = Splits()
    minimum_usable_fraction: Annotated[float, Field(ge=0, le=1)] = 0.9

    @model_validator(mode="after")
    def _check(self) -> Data:
        if self.source == "npz" and not self.path:
            raise ValueError("source npz needs 'path': a file relative to WARDROUND_DATA, or a known data set")
        if (self.intensity == "window") != (self.window is not None):
            raise ValueError("'window' (lowest, highest) goes with intensity: window, and only with it")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError(f"window must be lowest < highest, given {self.window}")
        if (self.source == "records") != (self.records is not None):
            raise ValueError("records (the columns of the table) go with source: records, and only with it")
        if (self.source == "records") == bool(self.spatial_size):
            raise ValueError(
                "spatial_size (height, width) is missing; it goes with images, and not with source: records"
            )
        return self


class Site(Section):
    """A hospital: its name and, where it is a folder on this machine, the folder (relative to the study file).

    No site is called ``pooled``, in whatever case: that is all sites' items in one place.
    """

    name: SiteName
    path: str


_NUMBER = r"([0-9]+(\.[0-9]*)?|\.[0-9]+)"


class VirtualSites(Section):
    """Virtual hospitals cut from one data set.

    Attributes:
        count: How many.
        partition: ``iid``; ``dirichlet:ALPHA`` (label skew; smaller is more unequal);
            ``sizes:0.6,0.25,0.15`` (fractions of the items, labels alike); ``column:NAME``
            (by a column of the table or a key of the datalist's items).
    """

    count: Positive | None = None
    partition: Annotated[
        str,
        Field(
            pattern=rf"^(iid|dirichlet:{_NUMBER}|sizes:{_NUMBER}(,{_NUMBER})*|column:.+)$",
            description="iid, dirichlet:ALPHA, sizes:A,B,... (parts that add up to 1) or column:NAME",
        ),
    ] = "iid"

    @model_validator(mode="after")
    def _check(self) -> VirtualSites:
        kind, _, argument = self.partition.partition(":")
        if kind == "sizes":
            sizes = [float(part) for part in argument.split(",")]
            if min(sizes) <= 0 or abs(sum(sizes) - 1) > 1e-6:
                raise ValueError(f"partition sizes must be above 0 and add up to 1, given {argument}")
            if self.count not in (None, len(sizes)):
                raise ValueError(f"count is {self.count}, but sizes names {len(sizes)} sites; make them agree")
        elif kind == "dirichlet" and float(argument) <= 0:
            raise ValueError(f"partition dirichlet needs a concentration above 0, given {argument}")
        if kind in ("iid", "dirichlet") and self.count is None:
            raise ValueError(f"partition {kind} needs 'count': the number of sites")
        return self


Sites = Annotated[
    Annotated[list[Site], Field(min_length=1), Tag("folders")] | Annotated[VirtualSites, Tag("virtual")],
    Discriminator(_kind_of_sites),
    Field(description="a list of hospitals, each {name, path}, or {count, partition} for virtual ones"),
]


class StrategyChoice(BaseModel):
    """A strategy by its name, and its hyper-parameters beside it (checked by `components.assemble`)."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    name: StrategyName = "FedAvg"

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The hyper-parameters given in the study, by name."""
        return dict(self.__pydantic_extra__ or {})


class Optimizer(Section):
    """The optimiser each site trains with; a fresh one every round."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _check(self) -> Optimizer:
        if self.momentum and self.name != "sgd":
            raise ValueError(f"momentum belongs to sgd; {self.name} has its own")
        return self


class LocalTraining(Section, LaterFields):
    """What a site does in one round.

    Attributes:
        method: ``gradient`` (the optimiser, on batches), or ``newton``: for FedAvg with LogisticRegression, or Linear
            and ``task.survival.loss: cox``, an exact Newton step a round from the second on: what all rows in one place
            give (Cox's regression stratified by site). Of the optimiser only `weight_decay` counts, as a ridge.
        lasso: With ``newton``: weight of the absolute coefficients (no intercept); with a ridge, the elastic net.
        epochs: Passes over the site's training items (this or `steps`).
        steps: Optimiser steps (this or `epochs`).
        batch_size: Items per step; the last batch of an epoch may be smaller, or one larger.
        optimizer: See `Optimizer`.
        precision: ``32``, ``16-mixed`` or ``bf16-mixed``.
        device: ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``.
    """

    later = frozenset({"method", "lasso"})

    method: Literal["gradient", "newton"] = "gradient"
    lasso: Annotated[float, Field(ge=0)] = 0.0
    epochs: Positive | None = None
    steps: Positive | None = None
    batch_size: Positive = 32
    optimizer: Optimizer = Optimizer()
    precision: Precision = "32"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _check(self) -> LocalTraining:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give epochs or steps: exactly one of them")
        return self


class Evaluation(Section, LaterFields):
    """How the global model is judged.

    Attributes:
        bins: Resolution of the pooled score histograms: scores are told apart to 1/bins.
        compare: What the final model is compared with, on each site's test items: ``local`` (each site
            alone) and ``pooled`` (all items in one place; in simulations only).
        champion: Which best version may become champion: ``any``, or ``full_roster``, one whose round had an update
            of every site it asked.
        subgroups: For ``records``: patients for whom the final model is judged on their own as well.
        external: ``leave_one_site_out``: one more training for each hospital, without it, judged on all of that
            hospital's items; ``none``.
    """

    later = frozenset({"subgroups", "external"})

    bins: Annotated[int, Field(ge=10, le=10_000)] = 1000
    compare: list[Literal["local", "pooled"]] = Field(default_factory=list)
    champion: Literal["any", "full_roster"] = "any"
    subgroups: list[Subgroup] = Field(default_factory=list)
    external: Literal["none", "leave_one_site_out"] = "none"


class Study(Whole):
    """Everything a federated training is made of; see the attributes' own records."""

    study: Name
    description: str = ""
    task: Task
    network: Network = Network()
    data: Data
    sites: Sites
    strategy: StrategyChoice = StrategyChoice()
    rounds: Rounds = Rounds()
    local: LocalTraining = LocalTraining(epochs=1)
    evaluate: Evaluation = Evaluation()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1

    @model_validator(mode="after")
    def _check(self) -> Study:
        virtual = isinstance(self.sites, VirtualSites)
        if not virtual:
            names = [site.name for site in self.sites]  # type: ignore[union-attr]
            if len(set(names)) != len(names):
                raise ValueError(f"sites: names must differ from each other, given {names}")
            if isinstance(self.rounds.quorum, int) and self.rounds.quorum > len(names):
                raise ValueError(f"rounds.quorum is {self.rounds.quorum}, but there are {len(names)} sites")
        if self.data.source == "npz" and not virtual:
            raise ValueError("data.source npz is one data set: give 'sites' as {count, partition}")
        if virtual and not self.data.path:
            raise ValueError(f"virtual sites are cut from one folder: give data.path for source {self.data.source}")
        return self


def watched(study: Study) -> Metric:
    """Return the pooled validation metric that rounds are compared by."""
    rule = study.rounds.convergence
    return rule.metric if rule is not None else headline(study.task.kind)


def item_shape(study: Study) -> tuple[int, ...]:
    """Return the shape of one item as it is trained on: channels and size of an image, or a table's columns."""
    data = study.data
    return (data.channels, *data.spatial_size) if data.records is None else (len(data.records.encoded),)
