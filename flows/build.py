"""From a study to the network: the one place where configuration meets `models`."""

from __future__ import annotations

import hashlib
import io
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import StudyError
from components.files import storage_errors, write_whole
from components.grown import is_grown
from components.seeds import derive_seed
from components.study import Study, Survival, item_shape
from flows.database_templates import cache_folder

if TYPE_CHECKING:
    from components.table_sums import Fitted
    from models.base import Objective, OptimizerSettings
    from models.classification import Classifier
    from models.survival import SurvivalModel
    from models.tabular import RiskModel, TableArchitecture, TableInput
    from models.treatment import TreatmentDesign, TreatmentModel
    from models.treatment_survival import SurvivalTreatmentModel
    from models.trees import TreesModel

# Fields of a study's data that the exported program depends on.
DECIDE_THE_PROGRAM = {"spatial_size", "channels", "intensity", "window", "records"}
MODELS = Path(__file__).resolve().parent.parent / "models"

# models is imported inside the functions: it brings torch and Lightning, which a coordinator that only
# checks a study, or that waits for its sites, does not need.


def build_module(study: Study, fitted: Fitted | None = None) -> Classifier | SurvivalModel | SurvivalTreatmentModel:
    """Build the study's network with the study's own initial weights.

    Args:
        study: The study.
        fitted: Of a table: what is done to its columns first.

    Raises:
        StudyError: If the network refuses its arguments.
    """
    from components.evaluation.metrics import class_kind
    from models.base import Architecture, Objective, OptimizerSettings
    from models.classification import ImageClassifier

    chosen = study.local.optimizer
    optimizer = OptimizerSettings(chosen.name, chosen.learning_rate, chosen.momentum, chosen.weight_decay)
    try:
        if study.task.survival is not None:
            return _build_survival_model(study, study.task.survival, optimizer, fitted)
        objective = Objective(class_kind(study.task), len(study.task.classes), study.task.imbalance)
        if is_grown(study):
            return _build_trees(study, objective, fitted)
        if study.data.records is not None:
            return _build_table_model(study, objective, optimizer, fitted)
        return ImageClassifier(
            Architecture(study.network.name, study.data.spatial_size, study.data.channels, study.network.arguments),
            objective=objective,
            optimizer=optimizer,
            seed=derive_seed(study.seed, "initial weights"),
        )
    except ValueError as error:
        raise StudyError(str(error), field="network.arguments") from None


def _build_table_model(
    study: Study, objective: Objective, optimizer: OptimizerSettings, fitted: Fitted | None
) -> RiskModel | TreatmentModel:
    """Build the network of a table, with what was fitted to its columns."""
    from models.tabular import RiskModel
    from models.treatment import TreatmentModel

    seed, architecture = derive_seed(study.seed, "initial weights"), _table_architecture(study)
    module: RiskModel | TreatmentModel
    design = _treatment_design(study)
    if design is not None:
        module = TreatmentModel(architecture, objective=objective, optimizer=optimizer, design=design, seed=seed)
    else:
        module = RiskModel(architecture, objective=objective, optimizer=optimizer, seed=seed)
    _take_over(module.inputs, fitted)
    return module


def _build_survival_model(
    study: Study, task: Survival, optimizer: OptimizerSettings, fitted: Fitted | None
) -> SurvivalModel | SurvivalTreatmentModel:
    """Build the network of a survival task, with what was fitted to its table's columns."""
    from models.survival import SurvivalModel, SurvivalObjective
    from models.treatment_survival import SurvivalTreatmentModel

    objective = SurvivalObjective(task.grid.edges, task.places, task.loss, task.ties)
    seed, architecture = derive_seed(study.seed, "initial weights"), _table_architecture(study)
    module: SurvivalModel | SurvivalTreatmentModel
    design = _treatment_design(study)
    if design is not None:
        module = SurvivalTreatmentModel(
            architecture, objective=objective, optimizer=optimizer, design=design, seed=seed
        )
    else:
        module = SurvivalModel(architecture, objective=objective, optimizer=optimizer, seed=seed)
    _take_over(module.inputs, fitted)
    return module


def _treatment_design(study: Study) -> TreatmentDesign | None:
    """Return how benefits are learned; None where none are."""
    from models.treatment import TreatmentDesign

    chosen, arm = study.task.treatment, study.data.records.arm if study.data.records else None
    if chosen is None or arm is None:
        return None
    return TreatmentDesign(chosen.learner, chosen.members, study.task.better, arm.randomised, arm.propensity)


def _table_architecture(study: Study) -> TableArchitecture:
    """Return the network of a table, and its columns."""
    from models.tabular import TableArchitecture

    features = study.data.records.features if study.data.records else []
    columns = [feature.values for feature in features], [feature.indicator for feature in features]
    newton = study.local.method == "newton"
    wide = study.data.records.wide if study.data.records else None
    further, keep, components = (len(wide.columns), wide.kept, wide.components or 0) if wide is not None else (0, 0, 0)
    return TableArchitecture(
        study.network.name, *columns, study.network.arguments, curvature=newton, wide=further, keep=keep,
        components=components,
    )  # fmt: skip


def _take_over(inputs: TableInput, fitted: Fitted | None) -> None:
    """Put what was fitted to a table's columns into a network."""
    if fitted is None:
        return
    inputs.set_fitted(fitted.fill, fitted.mean, fitted.scale)
    if fitted.wide is not None:
        inputs.set_chosen(fitted.wide.chosen, fitted.wide.mean, fitted.wide.scale)
        if fitted.wide.components is not None:
            inputs.set_components(fitted.wide.components.loadings, fitted.wide.components.spread)


def _build_trees(study: Study, objective: Objective, fitted: Fitted | None) -> TreesModel:
    """Build boosted trees, with the bins that were fitted."""
    from models.trees import TreesModel

    features = study.data.records.features if study.data.records else []
    module = TreesModel([feature.values for feature in features], study.network.arguments, objective=objective)
    if fitted is not None:
        module.network.set_edges(fitted.edges)
    return module


def number_of_bins(study: Study) -> int:
    """Return how many bins the trees of a study cut a number into."""
    from models.network_arguments import BoostedTreesArguments

    return BoostedTreesArguments.model_validate(study.network.arguments).bins


def check_network(study: Study) -> None:
    """Check a study's network without building it at full size.

    Raises:
        StudyError: If the network refuses its arguments, or the strategy needs what it does not have.
    """
    from models.network_arguments import BoostedTreesArguments, check_arguments

    try:
        chosen = check_arguments(study.network.name, study.network.arguments)
    except ValueError as error:
        raise StudyError(str(error), field="network.arguments") from None
    if isinstance(chosen, BoostedTreesArguments) and study.rounds.max > chosen.rounds:
        raise StudyError(
            f"given {study.rounds.max}; must be at most {chosen.rounds}: after one round for the first chance and one "
            f"for each of {chosen.depth} levels, all {chosen.trees} trees are grown",
            field="rounds.max",
        )


def export_file(study: Study) -> Path:
    """Return where the exported network of a study is kept, for all studies with the same network.

    In the user's cache folder: exporting takes seconds, and the weights are exchanged in every version.
    """
    import torch

    what = {
        "network": study.network.model_dump(mode="json"),
        "task": [study.task.kind, len(study.task.classes)],
        "survival": study.task.survival.model_dump(mode="json") if study.task.survival else None,
        "method": study.local.method,
        "data": study.data.model_dump(mode="json", include=DECIDE_THE_PROGRAM),
        **(
            {"treatment": study.task.treatment.model_dump(), "better": study.task.better}
            if study.task.treatment
            else {}
        ),
        "code": [str(torch.__version__), version("monai"), *(path.read_text() for path in sorted(MODELS.glob("*.py")))],
    }
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "networks" / f"{key}.pt2"


def export_network(study: Study, file: Path) -> None:
    """Export the study's network, with its preprocessing of intensities, whole or not at all.

    Raises:
        StorageError: If the file cannot be written.
    """
    import torch

    from models.serving import ServedClassifier, ServedRisk, ServedSurvival, ServedTreatment, export_program
    from models.survival import SurvivalModel
    from models.tabular import RiskModel
    from models.treatment import TreatmentModel
    from models.treatment_survival import SurvivalTreatmentModel
    from models.trees import TreesModel

    module, data = build_module(study), study.data
    served: torch.nn.Module
    shape = item_shape(study)
    if isinstance(module, TreatmentModel | SurvivalTreatmentModel):
        served, shape = ServedTreatment(module.inputs, module.network), (module.features,)
    elif isinstance(module, SurvivalModel):
        served = ServedSurvival(module.inputs, module.network, module.baseline)
    elif isinstance(module, RiskModel | TreesModel):
        served = ServedRisk(module.inputs, module.network, kind=module.objective.kind)
    else:
        served = ServedClassifier(
            module.network, kind=module.objective.kind, intensity=data.intensity, window=data.window
        )
    program = export_program(served, shape)
    content = io.BytesIO()
    torch.export.save(program, content)
    with storage_errors("write", file):
        write_whole(file, content.getbuffer())
