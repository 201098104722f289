"""From a study to the network: the one place where configuration meets `models`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import StudyError
from components.seeds import derive_seed
from components.study import Study

if TYPE_CHECKING:
    from models.classification import ImageClassifier

# models is imported inside the functions: it brings torch and Lightning, which a coordinator that only
# checks a study, or that waits for its sites, does not need.


def build_module(study: Study) -> ImageClassifier:
    """Build the study's network with the study's own initial weights.

    Raises:
        StudyError: If the network refuses its arguments.
    """
    from models.base import Architecture, Objective, OptimizerSettings
    from models.classification import ImageClassifier

    chosen = study.local.optimizer
    try:
        return ImageClassifier(
            Architecture(study.network.name, study.data.spatial_size, study.data.channels, study.network.arguments),
            objective=Objective(study.task.kind, len(study.task.classes), study.task.imbalance),
            optimizer=OptimizerSettings(chosen.name, chosen.learning_rate, chosen.momentum, chosen.weight_decay),
            seed=derive_seed(study.seed, "initial weights"),
        )
    except ValueError as error:
        raise StudyError(str(error), field="network.arguments") from None


def check_network(study: Study) -> None:
    """Check a study's network without building it at full size.

    Raises:
        StudyError: If the network refuses its arguments, or the strategy needs what it does not have.
    """
    from models.network_arguments import check_arguments

    try:
        check_arguments(study.network.name, study.network.arguments)
    except ValueError as error:
        raise StudyError(str(error), field="network.arguments") from None


def build_template(study: Study, folder: Path) -> None:
    """Export the study's network, with its preprocessing of intensities, and write its template package."""
    from components.tracking.package import build_template as write_template
    from models.serving import ServedClassifier, export_program

    served = ServedClassifier(
        build_module(study).network, kind=study.task.kind, intensity=study.data.intensity, window=study.data.window
    )
    write_template(study, export_program(served, study.data.spatial_size, study.data.channels), folder)
