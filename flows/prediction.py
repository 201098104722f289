"""Scoring new files with a registered version, through the preprocessing that was registered with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import DataError, ServiceError, StudyError
from components.evaluation.benefit import benefit_warnings, benefit_words
from components.study import Study, Task

if TYPE_CHECKING:
    from torch import Tensor

    from components.tracking.scoring import ScoringModel
    from components.weights import Weights

_NAMED = 5  # rows that cannot be scored, in a message


@dataclass(frozen=True)
class FileScore:
    """What a model says of one file, or of one row of a table.

    Attributes:
        file: The file; of a table with the number of the row, counted from 1, after a colon.
        scores: Probability by class; in a binary task of the positive class alone; of survival the risk score and the
            chance of no event until each horizon; of treatments what `components.tracking.package.outputs_of` names.
        decision: Name of the class: by the study's threshold (binary), or the most probable one; for
            several labels, those from the threshold on, joined by ``+`` (or ``none``); of survival, whether the event
            is expected until the last horizon, by the threshold; of treatments, the arm.
    """

    file: Path
    scores: dict[str, float]
    decision: str


@dataclass(frozen=True)
class Scored:
    """Scores, and the version they come from.

    Attributes:
        version: Its address, for example ``models:/pneumonia/7``; with the site whose own model it is.
        warning: What the user must know about this version; empty if nothing.
        files: One score for each file, in the order given.
        arm: Of treatments: what the decision is about, the column of the arm.
        benefit: Of treatments: of what over what, and what it is measured in.
    """

    version: str
    warning: str
    files: list[FileScore]
    arm: str = ""
    benefit: str = ""


def predict_files(
    model: str, files: Sequence[Path], *, home: Path, site: str = "", hospital: Path | None = None
) -> Scored:
    """Score files.

    Args:
        model: For example ``models:/pneumonia@champion`` or ``models:/pneumonia/7``.
        files: DICOM, NIfTI, PNG or JPEG files; folders of one DICOM series. Of a tabular study: CSV or Parquet files
            with the study's columns.
        home: Folder of everything recorded; not used for the version if ``MLFLOW_TRACKING_URI`` is set.
        site: Score as this site's own model: with the layers that a personal strategy (FedBN, FedPer) left at it,
            as they were when the version was judged: a site of a simulation or of ``wardround up`` under `home`.
        hospital: In its place the folder of a hospital, on its own machine.

    Returns:
        The scores. Without `site` and `hospital` they are those of
        ``mlflow.pyfunc.load_model(model).predict(images)`` for float32 images ``[N, C, *spatial_size]`` as read from
        the files (DICOM after its rescale slope and with white for bright, volumes turned to posterior, left,
        superior) and resampled to the study's size (averaged where it shrinks, linear where it grows), before any
        normalisation of intensities: the registered program does that itself.

    Raises:
        DataError: If a file is missing or cannot be read as the study's images are, or nothing of `site` or
            `hospital` is kept here.
        ServiceError: If there is no such version.
        StorageError: If the version's files are not what was registered.
        StudyError: If `model` is no version's address, its strategy leaves nothing at the sites, or both `site` and
            `hospital` are given.
    """
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        raise DataError(f"no such file: {', '.join(missing[:5])}; look at the spelling and at the folder you are in")
    # Torch, MLflow and the study's readers: only once there is something to score.
    import torch

    from components.tracking.package import personal_warning
    from components.training.exchanged_entries import load_entries
    from flows.build import build_module
    from models.survival import SurvivalModel
    from models.treatment import TreatmentModel
    from models.treatment_survival import SurvivalTreatmentModel

    version = _load(model, home)
    study = version.study
    module = build_module(study).eval()
    own = _personal(version, home, site, hospital) if site or hospital else {}
    load_entries(module, {**version.weights, **own})
    names, items = _read_items(study, files)
    with torch.inference_mode():
        if isinstance(module, TreatmentModel | SurvivalTreatmentModel):
            probabilities = module.recommend(items).tolist()
        else:
            scores = module(items)
            said = module.predictions if isinstance(module, SurvivalModel) else module.probabilities
            probabilities = said(scores).tolist()
    outputs = [str(name) for name in version.preprocessing["outputs"]]
    scored = [
        FileScore(file, dict(zip(outputs, row, strict=True)), _decision(row, study))
        for file, row in zip(names, probabilities, strict=True)
    ]
    name = version.version.uri + (f" at {site or hospital}" if own else "")
    warnings = ["" if own else personal_warning(study), *benefit_warnings(study)]
    arm = study.data.records.arm if study.data.records else None
    warning = " ".join(text for text in warnings if text)
    if arm is None:
        return Scored(name, warning, scored)
    benefit = f"{arm.levels[1]} over {arm.levels[0]}, in {benefit_words(study)}"
    return Scored(name, warning, scored, arm.column, benefit)


def _read_items(study: Study, files: Sequence[Path]) -> tuple[list[Path], Tensor]:
    """Return what is to be scored, by name and as the network takes it.

    Raises:
        DataError: If a file, or a row of a table, is not what the study says.
    """
    records = study.data.records
    if records is None:
        from components.data.decode import preprocess_files

        return list(files), preprocess_files(study.data, files)
    import torch

    from components.data.encoding import CellError, encode_row
    from components.data.records import encoded_features, read_table

    features, names, rows, wrong = encoded_features(records), [], [], []
    for file in files:
        for number, row in enumerate(read_table(file, study.data, str(file), labelled=False), start=1):
            names.append(file.with_name(f"{file.name}:{number}"))
            try:
                rows.append(encode_row(row.extras, features))
            except CellError as error:
                wrong.append(f"{file}: row {number}: {error}")
    if wrong:
        more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        count = f"{len(wrong)} of {len(names)} rows cannot be scored: " if len(wrong) > 1 else ""
        raise DataError(f"{count}{'; '.join(wrong[:_NAMED])}{more}; correct or leave out what is wrong")
    return names, torch.tensor(rows, dtype=torch.float32)


def _load(model: str, home: Path) -> ScoringModel:
    """Load a version; say so where nothing was recorded at all."""
    from components.tracking.scoring import load_version
    from flows.recorder import local_uri, tracking_uri
    from flows.servers import nothing_recorded

    uri = tracking_uri(home)
    if uri == local_uri(home) and not (home / "mlflow.db").exists():
        raise ServiceError(f"{model}: {nothing_recorded(home)}")
    try:
        return load_version(model, uri)
    except ValueError as error:
        raise StudyError(str(error)) from None


def _personal(version: ScoringModel, home: Path, site: str, hospital: Path | None) -> Weights:
    """Return what a site kept of its own when the version was judged.

    Raises:
        StudyError: If the strategy leaves nothing at the sites, or both a site and a hospital's folder are given.
        DataError: If nothing of it is here.
    """
    from components.strategies.table import STRATEGIES
    from components.training.personal import load_personal

    study, training, number = version.study, str(version.lineage["training"]), int(version.lineage["round"])
    if site and hospital is not None:
        raise StudyError("give --site, a site's name, or --hospital, a hospital's folder, not both")
    called = f"--site {site}" if hospital is None else f"--hospital {hospital}"
    if STRATEGIES[study.strategy.name].personal == "none":
        raise StudyError(
            f"{called}: {version.version.uri} was trained with {study.strategy.name}, which leaves nothing at the "
            "sites: its scores are the same at each, so leave it out"
        )
    here = _sites_here(home, study.study, training) if hospital is None else {}
    folder = here.get(site) if hospital is None else hospital / "studies" / study.study
    own = load_personal(folder, training, number + 1) if folder is not None else {}
    if not own:
        there = f"there are layers of {', '.join(sorted(here))}" if here else "there are none"
        raise DataError(
            f"{called}: no layers that it kept in round {number} of {training}: {there}; they never leave the machine "
            "of their site"
        )
    return own


def _sites_here(home: Path, study: str, training: str) -> dict[str, Path]:
    """Return the folders of a simulation's sites, or of hospitals on this machine, that kept layers of a training."""
    simulated = (home / "sites" / study).glob(f"*/personal/{training}")
    served = (home / "federation" / "hospitals").glob(f"*/studies/{study}/personal/{training}")
    found = {path.parents[1].name: path.parents[1] for path in simulated}
    return found | {path.parents[3].name: path.parents[1] for path in served}


def _decision(scores: Sequence[float], study: Study) -> str:
    """Return the class, or the arm that a patient is expected to be better off with."""
    arm = study.data.records.arm if study.data.records else None
    return decide(scores, study.task) if arm is None else arm.levels[int(scores[2] > 0)]


def decide(scores: Sequence[float], task: Task) -> str:
    """Return the name of the class that scores speak for; see `FileScore`.

    >>> decide([0.7], Task(classes=["normal", "opacity"]))
    'opacity'
    >>> decide([0.2, 0.5, 0.3], Task(kind="multiclass", classes=["a", "b", "c"]))
    'b'
    >>> decide([0.6, 0.1, 0.8], Task(kind="multilabel", classes=["a", "b", "c"]))
    'a+c'
    """
    if task.survival is not None:
        survival, place = task.survival, len(task.survival.horizons)
        until = f"{survival.horizons[-1]:g} {survival.unit}"
        return f"event by {until}" if 1 - scores[place] >= task.threshold else f"no event by {until}"
    if task.kind == "binary":
        return task.classes[int(scores[0] >= task.threshold)]
    if task.kind == "multiclass":
        return task.classes[max(range(len(scores)), key=scores.__getitem__)]
    found = [name for name, score in zip(task.classes, scores, strict=True) if score >= task.threshold]
    return "+".join(found) or "none"
