"""Scoring new files with a registered version, through the preprocessing that was registered with it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from components.errors import DataError, StudyError
from components.exchange.files import storage_errors


@dataclass(frozen=True)
class FileScore:
    """What a model says of one file.

    Attributes:
        file: The file.
        scores: Probability by class; in a binary task of the positive class alone.
        decision: Name of the class: by the study's threshold (binary), or the most probable one; for
            several labels, those from the threshold on, joined by ``+`` (or ``none``).
    """

    file: Path
    scores: dict[str, float]
    decision: str


@dataclass(frozen=True)
class Scored:
    """Scores, and the version they come from.

    Attributes:
        version: Its address, for example ``models:/pneumonia/7``.
        warning: What the user must know about this version; empty if nothing.
        files: One score for each file, in the order given.
    """

    version: str
    warning: str
    files: list[FileScore]


def predict_files(model: str, files: Sequence[Path], *, home: Path) -> Scored:
    """Score files.

    Args:
        model: For example ``models:/pneumonia@champion`` or ``models:/pneumonia/7``.
        files: DICOM, NIfTI, PNG or JPEG files; folders of one DICOM series.
        home: Folder of everything recorded; not used if ``MLFLOW_TRACKING_URI`` is set.

    Raises:
        DataError: If a file is missing or cannot be read as the study's images are.
        ServiceError: If there is no such version.
        StorageError: If the version's files are not what was registered.
        StudyError: If `model` is no version's address.
    """
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        raise DataError(f"no such file: {', '.join(missing[:5])}")
    # Torch, MLflow and the study's readers: only once there is something to score.
    import torch

    from components.data.decode import preprocess_files
    from components.tracking.scoring import load_version
    from components.training.exchanged_entries import load_entries
    from flows.build import build_module
    from flows.recorder import tracking_uri

    try:
        version = load_version(model, tracking_uri(home))
    except ValueError as error:
        raise StudyError(str(error)) from None
    study = version.study
    images = preprocess_files(study.data, files)
    module = build_module(study).eval()
    load_entries(module, version.weights)
    with torch.inference_mode():
        probabilities = module.probabilities(module(images)).tolist()
    outputs = [str(name) for name in version.preprocessing["outputs"]]
    scored = [
        FileScore(
            file,
            dict(zip(outputs, row, strict=True)),
            decide(row, study.task.kind, study.task.classes, study.task.threshold),
        )
        for file, row in zip(files, probabilities, strict=True)
    ]
    return Scored(version.version.uri, _warning(study.strategy.name), scored)


def decide(scores: Sequence[float], kind: str, classes: Sequence[str], threshold: float) -> str:
    """Return the name of the class that scores speak for; see `FileScore`.

    >>> decide([0.7], "binary", ["normal", "opacity"], 0.5)
    'opacity'
    >>> decide([0.2, 0.5, 0.3], "multiclass", ["a", "b", "c"], 0.5)
    'b'
    >>> decide([0.6, 0.1, 0.8], "multilabel", ["a", "b", "c"], 0.5)
    'a+c'
    """
    if kind == "binary":
        return classes[int(scores[0] >= threshold)]
    if kind == "multiclass":
        return classes[max(range(len(scores)), key=scores.__getitem__)]
    found = [name for name, score in zip(classes, scores, strict=True) if score >= threshold]
    return "+".join(found) or "none"


def print_scores(console: Console, scored: Scored, output: Path | None) -> None:
    """Print the scores as a table, or write them to a CSV file."""
    names = list(scored.files[0].scores) if scored.files else []
    if scored.warning:
        console.print(f"[yellow]{escape(scored.warning)}[/yellow]")
    if output is not None:
        with storage_errors("write", output.absolute()):
            output.write_text(_as_csv(scored, names), encoding="utf-8")
        console.print(f"{len(scored.files)} scores of {scored.version} in {escape(str(output))}")
        return
    table = Table(title=f"{scored.version}: research use only, not a diagnosis", title_justify="left")
    table.add_column("file", overflow="fold")
    for name in names:
        table.add_column(escape(f"score {name}"), justify="right")
    table.add_column("decision")
    for item in scored.files:
        table.add_row(escape(str(item.file)), *(f"{item.scores[name]:.4f}" for name in names), escape(item.decision))
    console.print(table)


def _as_csv(scored: Scored, names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *(f"score_{name}" for name in names), "decision", "model"])
    for item in scored.files:
        writer.writerow([item.file, *(item.scores[name] for name in names), item.decision, scored.version])
    return text.getvalue()


def _warning(strategy: str) -> str:
    if strategy != "FedBN":
        return ""
    return (
        "This version was trained with FedBN: each site keeps its own normalisation layers, and this file has "
        "only their first values. Outside the sites it was trained at, its scores mean little."
    )
