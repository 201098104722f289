"""What a hospital's administrator writes: where the data of each study is, and what may be done with it.

::

    data:
      pneumonia: /data/chest-films     # a study's name and a folder; "*" is any study
    policy:
      studies: [pneumonia]             # what takes part; "*" is every study
      networks: [CNN, DenseNet]
      max_epochs: 20
      min_sites: 3
    disclosure:
      smallest_cell: 10              # of analyses: no number from fewer patients leaves, whatever a study says
    memory_gb: 64                      # for the processes of all studies together; half the machine's if left out

The file is read at every request: a change counts from the next one on. It is read as a study file is
(`components.yaml_lines`): a key given twice, a tag or an alias is refused, with its line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from components.analytics.plan import AnalysisStudy, Disclosure
from components.errors import NoDataError, RefusedError, StudyError
from components.files import storage_errors
from components.mistakes import dotted, explain
from components.rounds import NAME_PATTERN, Name, Record
from components.site_source import SiteSource
from components.study import NetworkName, Study
from components.yaml_lines import parse_yaml

FILE = "hospital.yaml"
ANY = "*"
EXAMPLE = "write where the data is, for example  data: {'*': /data}"
# One pattern and not two kinds of text, so that a mistake is told once.
StudyName = Annotated[str, Field(pattern=rf"^({NAME_PATTERN}|\*)$", description="the name of a study, or '*' for any")]


class Policy(Record):
    """What a hospital lets be done at its site.

    Attributes:
        studies: Names of the studies that take part; ``*`` is every one.
        networks: Names of the networks that may be trained, of the closed table.
        max_epochs: Most local epochs a round may ask for.
        max_steps: Most optimiser steps a round may ask for, where a study counts steps.
        min_sites: Fewest sites a round, or an analysis, must have: a sum over fewer says too much about each.
        analyses: Which versions of those studies are analysed: ``accepted`` (those the administrator has read and
            accepted, see `components.governance.acceptances`) or ``any``.
    """

    studies: list[StudyName] = Field(default_factory=lambda: [ANY])
    networks: list[str] = Field(default_factory=lambda: list(get_args(NetworkName)))
    max_epochs: Annotated[int, Field(ge=1)] = 50
    max_steps: Annotated[int, Field(ge=1)] = 100_000
    min_sites: Annotated[int, Field(ge=1)] = 2
    analyses: Literal["accepted", "any"] = "accepted"


class HospitalSettings(Record):
    """The file `FILE` of a hospital.

    Attributes:
        data: By study, the folder of the site's items; ``*`` is any other study.
        sources: By study, where the items are when that is no folder of the site's own (virtual sites).
        policy: What may be done.
        disclosure: What may leave of analyses. A study may be stricter, and never milder; what the file leaves out
            has the default.
        memory_gb: How much memory the processes of all studies may hold together (10^9 bytes): beyond it, those
            of studies that wait for nothing are ended, the longest idle first. Half the machine's by default.
        memory_growth_gb: How much more a process may hold after a round than after its first training before it
            is replaced by a fresh one (10^9 bytes).
    """

    data: dict[StudyName, str] = Field(default_factory=dict)
    sources: dict[Name, SiteSource] = Field(default_factory=dict)
    policy: Policy = Policy()
    disclosure: Disclosure = Disclosure()
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    memory_growth_gb: Annotated[float, Field(gt=0)] = 2.0

    @model_validator(mode="after")
    def _some_data(self) -> Self:
        """Refuse a hospital without data."""
        if not self.data and not self.sources:
            raise ValueError(f"data names no folder; {EXAMPLE}")
        return self

    def source_of(self, study: str, site: str) -> SiteSource:
        """Return where the site's items for a study are.

        Raises:
            NoDataError: If the hospital has named no data for it.
        """
        if study in self.sources:
            return self.sources[study]
        folder = self.data.get(study, self.data.get(ANY))
        if folder is None:
            raise NoDataError(f"{site} has no data for the study {study}")
        part = {"site": site, "kind": "folder", "path": str(Path(folder).absolute())}
        return SiteSource.model_validate({"name": site, "parts": [part]})

    def table_of(self, study: AnalysisStudy, site: str) -> Path:
        """Return where the table of an analysis is.

        Raises:
            NoDataError: If the hospital has named no data for it.
            RefusedError: If those are no folder of the site's own.
        """
        (part, *more) = self.source_of(study.study, site).parts
        if more or part.kind != "folder" or part.rows is not None:
            raise RefusedError(f"the data of {site} for {study.study} are no folder of its own with a table")
        return Path(part.path) / study.analysis.table.name


def read_settings(folder: Path) -> HospitalSettings:
    """Read a hospital's settings.

    Raises:
        StudyError: If the file is not there or not valid, naming line, field and what is wrong, one line for each
            mistake. It may show what was written, folders too: it stays at the hospital (`fit_to_leave`).
        StorageError: If it cannot be read.
    """
    path = folder / FILE
    with storage_errors("read", path):
        if not path.exists():
            raise StudyError(f"{FILE} is not in the hospital's folder; {EXAMPLE}")
        text = path.read_bytes()
    try:
        document = parse_yaml(text.decode("utf-8-sig"), FILE, empty=EXAMPLE)
    except UnicodeDecodeError as error:
        raise StudyError(f"{FILE} is not text in UTF-8: save it anew in that encoding") from error
    try:
        return HospitalSettings.model_validate(document.value)
    except ValidationError as error:
        mistakes = explain(error, HospitalSettings, sources=document.sources)
        placed = sorted(((document.line(mistake.place), mistake) for mistake in mistakes), key=lambda found: found[0])
        lines = [f"{FILE}{f':{line}' if line else ''}: {mistake}" for line, mistake in placed]
        raise StudyError("\n".join(dict.fromkeys(lines)), field=dotted(placed[0][1].field)) from error


def review_study(policy: Policy, study: Study) -> None:
    """Refuse a study that the hospital's policy does not allow.

    Raises:
        RefusedError: Naming the rule, fit to leave the hospital.
    """
    _review_name(policy, study.study)
    if study.network.name not in policy.networks:
        raise RefusedError(f"the hospital's policy does not allow the network {study.network.name}")
    if study.local.epochs is not None and study.local.epochs > policy.max_epochs:
        raise RefusedError(f"{study.local.epochs} local epochs; the hospital's policy allows {policy.max_epochs}")
    if study.local.steps is not None and study.local.steps > policy.max_steps:
        raise RefusedError(f"{study.local.steps} local steps; the hospital's policy allows {policy.max_steps}")


def review_analysis(policy: Policy, study: AnalysisStudy, *, accepted: bool) -> None:
    """Refuse a study of an analysis that the hospital's policy does not allow.

    Args:
        policy: The policy.
        study: The study.
        accepted: Whether the administrator has accepted this very version of it.

    Raises:
        RefusedError: Naming the rule, fit to leave the hospital.
    """
    _review_name(policy, study.study)
    if policy.analyses == "accepted" and not accepted:
        raise RefusedError(
            f"its administrator has not accepted this version of {study.study}, {study.digest[:12]}: "
            "wardround hospital accept"
        )


def _review_name(policy: Policy, study: str) -> None:
    """Refuse a study that the policy does not name."""
    if ANY not in policy.studies and study not in policy.studies:
        raise RefusedError(f"the hospital's policy does not name the study {study}")


def review_roster(policy: Policy, roster: list[str]) -> None:
    """Refuse a round, or an analysis, of too few sites.

    Raises:
        RefusedError: Naming the rule.
    """
    if len(roster) < policy.min_sites:
        raise RefusedError(f"a round of {len(roster)} sites; the hospital's policy asks for {policy.min_sites}")
