"""The Python interface: load a study, simulate its federation, use the model.

>>> from flows import api
>>> outcome = api.simulate("studies/pneumonia.yaml", overrides={"rounds.max": 3})  # doctest: +SKIP
>>> outcome.tests["all sites"]["global"]["auroc"].value  # doctest: +SKIP
0.94
>>> scored = api.predict("models:/pneumonia@champion", ["film.dcm"])  # doctest: +SKIP
>>> scored.files[0].decision, scored.files[0].scores  # doctest: +SKIP
('pneumonia', {'pneumonia': 0.87})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from components.assemble import assemble
from components.study import Study, watched
from components.study_file import load_study, study_schema
from flows.build import check_network
from flows.early import EarlyStart
from flows.home import home_folder
from flows.prediction import FileScore, Scored, predict_files
from flows.progress import LiveWatcher
from flows.run import RunOptions, TrainingOutcome, run_training

__all__ = ["FileScore", "Scored", "TrainingOutcome", "load", "predict", "schema", "simulate"]


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Study:
    """Read and check a study file.

    Args:
        path: The YAML file.
        overrides: Values by dotted path that replace the file's, for example ``{"rounds.max": 3}``.

    Raises:
        StudyError: Listing every mistake with file, line, field, what was given and what is allowed.
    """
    return load_study(path, overrides or {}, checks=(check_network, _check_assembly))


def simulate(
    study: str | Path | Study,
    *,
    overrides: Mapping[str, Any] | None = None,
    home: str | Path | None = None,
    fresh: bool = False,
    dispatcher: str = "auto",
    console: Console | None = None,
    early: EarlyStart | None = None,
) -> TrainingOutcome:
    """Run, or resume, a study's federation on this machine.

    Args:
        study: A study file, or a study (whose relative paths then start in the working directory).
        overrides: See `load`; only with a file.
        home: Folder of everything recorded; by default ``WARDROUND_HOME``, or ``.wardround`` here.
        fresh: Start anew even if a training of this study was not finished.
        dispatcher: ``auto``, ``in-process`` or ``processes:N``.
        console: Where to show progress; None shows none.
        early: What a command has started already; see `flows.early`.

    Returns:
        The outcome: ``tests`` holds the test metrics by site, model and metric, each with its 95 % interval.

    Raises:
        WardRoundError: With one message; what was recorded is kept and the same call continues.
        ValueError: If overrides are given with a `Study`.
    """
    if isinstance(study, Study) and overrides:
        raise ValueError("overrides go with a study file; change a Study with model_copy")
    loaded = study if isinstance(study, Study) else load(study, overrides)
    folder = Path.cwd() if isinstance(study, Study) else Path(study).resolve().parent
    options = RunOptions(Path(home) if home is not None else None, dispatcher, fresh, early)
    if console is None:
        return run_training(loaded, study_folder=folder, options=options)
    with LiveWatcher(console, title=loaded.study, rounds=loaded.rounds.max, metric=watched(loaded)) as watcher:
        return run_training(loaded, study_folder=folder, options=options, watcher=watcher)


def predict(
    model: str,
    files: Sequence[str | Path],
    *,
    home: str | Path | None = None,
    site: str = "",
    hospital: str | Path | None = None,
) -> Scored:
    """Score DICOM, NIfTI, PNG or JPEG files with a registered version.

    Args:
        model: For example ``models:/pneumonia@champion`` or ``models:/pneumonia/7``.
        files: The files, in the order of the scores.
        home: Where the version was recorded.
        site: Score as this site's own model, for a strategy with personal layers (FedBN, FedPer).
        hospital: In its place the folder of a hospital, on its own machine.

    Raises:
        WardRoundError: With one message, if a file cannot be read or there is no such version.
    """
    folder = home_folder(Path(home) if home is not None else None)
    return predict_files(
        model, [Path(file) for file in files], home=folder, site=site, hospital=Path(hospital) if hospital else None
    )


def schema() -> dict[str, Any]:
    """Return the JSON Schema of study files."""
    return study_schema()


def _check_assembly(study: Study) -> None:
    assemble(study)
