"""The model package: what one registered version consists of.

=========================== =====================================================================
``MLmodel``                 MLflow's description: signature (raw images in, probabilities out), flavours
``data/model.pt2``          the exported program with this version's weights
``weights.safetensors``     the weights that training and aggregation read
``server_state.safetensors``  a strategy's further weights (momentum ...), if it has any
``study.json``              the study
``preprocessing.json``      what was done to an image before the network saw it, classes, threshold
``code/``, ``data/features.json``  of a table: what turns its cells into the program's numbers
``manifest.json``           SHA-256 and size of each file, and the version's lineage
=========================== =====================================================================

and MLflow's ``requirements.txt``, ``conda.yaml``, ``python_env.yaml`` and input example. What is the same
for all versions of a study is made once (`build_template`); a version then costs what its bytes cost.
No pickle is read. `torch.export.save` itself keeps the shape of the example input as a small
torch-saved tensor inside ``model.pt2``; nothing of ours ever opens it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
import yaml
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType
from torch import Tensor
from torch.export import ExportedProgram

from components.data import encoding
from components.data.records import encoded_features
from components.errors import StorageError
from components.evaluation.benefit import BENEFIT, benefit_warnings
from components.rounds import ServerState
from components.strategies.table import STRATEGIES
from components.study import Records, Study, item_shape
from components.tracking.archive import archive_slots, replace_weights
from components.weights import buffer, describe, header, layout

WEIGHTS, SERVER_STATE = "weights.safetensors", "server_state.safetensors"
STUDY, PREPROCESSING, MANIFEST = "study.json", "preprocessing.json", "manifest.json"
PROGRAM, MLMODEL = "data/model.pt2", "MLmodel"
CODE, TABLE_MODEL = "code", "wardround_table_model.py"
_TEMPLATE = "template.json"
_EXAMPLE_LIMIT = 10_000  # numbers in an input example: JSON of 200 kB


@dataclass(frozen=True)
class Template:
    """What all versions of a study have in common, on disk.

    Attributes:
        folder: Holds the common files, and the exported program with some weights.
        key: What the template was made from: study and library versions.
    """

    folder: Path
    key: str


@dataclass(frozen=True)
class Package:
    """A version's package, ready to be registered.

    Attributes:
        folder: Holds the files.
        weights_digest: SHA-256 of ``weights.safetensors``, which is `components.weights.digest`.
        digest: SHA-256 of ``manifest.json``, which names every other file's.
        metadata: The manifest's content.
    """

    folder: Path
    weights_digest: str
    digest: str
    metadata: dict[str, Any] = field(default_factory=dict)


def preprocessing_of(study: Study) -> dict[str, Any]:
    """Return what a user of the model must know to feed it and to read its answers."""
    fields = {"records"} if study.data.records else {"spatial_size", "channels", "modality", "intensity", "window"}
    data = study.data.model_dump(mode="json", include=fields)
    fields = {"kind", "classes", "threshold", "survival", "treatment"}
    task = study.task.model_dump(mode="json", include=fields)
    return {**data, **task, "outputs": outputs_of(study)}


def outputs_of(study: Study) -> list[str]:
    """Return the names of the output's columns: the positive class alone in a binary task; see `Survival.outputs`.

    A recommendation has the probability of the positive class in either arm (of survival its restricted mean), the
    benefit of the second arm over the first (a difference of these, above 0 where the second is better) and the ends of
    its 95 % interval.
    """
    arm, survival = study.data.records.arm if study.data.records else None, study.task.survival
    if arm is not None and survival is not None:
        return [*(f"mean survival {level}" for level in arm.levels), *BENEFIT]
    if arm is not None:
        return [*(f"{study.task.classes[1]} {level}" for level in arm.levels), *BENEFIT]
    if study.task.survival is not None:
        return study.task.survival.outputs
    return study.task.classes[1:] if study.task.kind == "binary" else list(study.task.classes)


def find_template(folder: Path, study: Study) -> Template | None:
    """Return the template an earlier process made for this study with these libraries, if there is one."""
    try:
        key = json.loads((folder / _TEMPLATE).read_text())["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Template(folder, key) if key == _template_key(study) else None


def build_template(study: Study, program: ExportedProgram | Path, folder: Path) -> Template:
    """Write what all versions of a study have in common.

    Args:
        study: The study.
        program: The exported network, or the ``pt2`` file it was saved in. Takes float32 [N, C, *spatial] as
            read from the files, returns float32 [N, K] in [0, 1]; exported on the CPU for any N.
        folder: Where to; a template already there is replaced.

    Raises:
        StorageError: If the folder cannot be written, or the program's weights cannot be replaced in place.
    """
    draft = folder.with_name(f"{folder.name}.new")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        (draft / "data").mkdir(parents=True)
        if isinstance(program, Path):
            shutil.copyfile(program, draft / PROGRAM)
        else:
            torch.export.save(program, draft / PROGRAM)
        archive_slots(draft / PROGRAM)
        _write_json(draft / STUDY, study.model_dump(mode="json"))
        _write_json(draft / PREPROCESSING, preprocessing_of(study))
        _write_environment(draft)
        if study.data.records is not None:
            _write_table_model(draft, study, study.data.records)
        _write_description(draft, study)
        _write_json(draft / _TEMPLATE, {"key": _template_key(study)})
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    except OSError as error:
        raise StorageError(f"cannot write the model template to {folder}: {error.strerror or error}") from error
    return Template(folder, _template_key(study))


def write_package(
    template: Template,
    folder: Path,
    state: ServerState,
    *,
    lineage: Mapping[str, Any],
    extra_files: Mapping[str, bytes] | None = None,
) -> Package:
    """Write the package of one version.

    Args:
        template: From `build_template` of the same study.
        folder: Where to; a package already there is replaced.
        state: The global model after a round.
        lineage: Where the version comes from, as JSON values (training, round, base version, roster ...);
            goes into the manifest. Without clock times, so that the same round gives the same package.
        extra_files: Further files by their place, for example ``figures/roc.png``.

    Raises:
        ValueError: If the weights do not fit the exported program.
        StorageError: If the folder cannot be written.
    """
    try:
        shutil.rmtree(folder, ignore_errors=True)
        ignored = shutil.ignore_patterns(_TEMPLATE, "model.pt2", MLMODEL)
        shutil.copytree(template.folder, folder, ignore=ignored)
        (folder / "data").mkdir(exist_ok=True)
        replace_weights(template.folder / PROGRAM, folder / PROGRAM, state.weights)
        write_weights(folder / WEIGHTS, state.weights)
        if state.slots:
            flat = {
                f"{slot}/{name}": tensor for slot, entries in state.slots.items() for name, tensor in entries.items()
            }
            write_weights(folder / SERVER_STATE, flat)
        for place, content in (extra_files or {}).items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(content)
        description = yaml.safe_load((template.folder / MLMODEL).read_text())
        description["model_uuid"] = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(dict(lineage), sort_keys=True)).hex
        (folder / MLMODEL).write_text(yaml.safe_dump(description))
        server = {"round": state.round, "step": state.step, "statistics": sorted(state.statistics)}
        return _seal(folder, {"format": 1, "lineage": dict(lineage), "server": server})
    except OSError as error:
        raise StorageError(f"cannot write the model package to {folder}: {error.strerror or error}") from error


def require_weights(package: Package, digest: str) -> None:
    """Refuse a package of other weights than it is made of: their file may be damaged while they are read from it.

    Raises:
        StorageError: If they are not those.
    """
    if package.weights_digest != digest:
        raise StorageError(f"the weights {digest} were damaged in the store while their version was written")


def write_weights(file: Path, weights: Mapping[str, Tensor]) -> None:
    """Write weights as safetensors, in the layout whose SHA-256 is `components.weights.digest`."""
    entries = describe(weights)
    with file.open("wb") as out:
        out.write(header(entries))
        for name in layout(entries):
            out.write(buffer(weights[name]))


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _seal(folder: Path, content: dict[str, Any]) -> Package:
    """Write the manifest over all files that are there."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": file_digest(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {**content, "files": files}
    _write_json(folder / MANIFEST, manifest)
    return Package(folder, str(files[WEIGHTS]["sha256"]), file_digest(folder / MANIFEST), manifest)


def _template_key(study: Study) -> str:
    """What a template depends on."""
    libraries = f"mlflow {mlflow.__version__} torch {torch.__version__} python {platform.python_version()}"
    code = f" code {file_digest(Path(encoding.__file__))}" if study.data.records else ""
    return f"{study.digest} {libraries}{code}"


def _write_environment(folder: Path) -> None:
    """Write what a serving environment needs; stated, since finding it out would cost MLflow seconds."""
    packages = [
        f"mlflow=={mlflow.__version__}",
        f"torch=={torch.__version__.split('+')[0]}",
        f"numpy=={np.__version__}",
    ]
    (folder / "requirements.txt").write_text("\n".join(packages) + "\n")
    python = platform.python_version()
    conda = {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": packages}],
    }
    (folder / "conda.yaml").write_text(yaml.safe_dump(conda, sort_keys=False))
    tools = {"python": python, "build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"]}
    (folder / "python_env.yaml").write_text(yaml.safe_dump(tools, sort_keys=False))


def _write_description(folder: Path, study: Study) -> None:
    """Write MLmodel, as `mlflow.pytorch.save_model` does without its second export."""
    records, shape = study.data.records, item_shape(study)
    model = Model(
        signature=_table_signature(records, outputs_of(study)) if records else _image_signature(study, shape),
        metadata={
            "study": study.study,
            "study_digest": study.digest,
            "outputs": outputs_of(study),
            **_warning_of(study),
        },
    )
    model.add_flavor("pytorch", model_data="data", pytorch_version=str(torch.__version__), code=None)
    model.add_flavor(
        "python_function",
        loader_module=TABLE_MODEL.removesuffix(".py") if records else "mlflow.pytorch",
        python_version=platform.python_version(),
        data="data",
        code=CODE if records else None,
        env={"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
        **({} if records else {"config": {"device": None}}),
    )
    if records is None and int(np.prod(shape)) <= _EXAMPLE_LIMIT:
        example = json.dumps({"inputs": np.zeros((1, *shape)).tolist()})
        for name in ("input_example.json", "serving_input_example.json"):
            (folder / name).write_text(example)
        model.saved_input_example_info = {
            "artifact_path": "input_example.json",
            "serving_input_path": "serving_input_example.json",
            "type": "ndarray",
            "format": "tf-serving",
        }
    model.save(str(folder / MLMODEL))


def _image_signature(study: Study, shape: tuple[int, ...]) -> ModelSignature:
    """Return what goes in and comes out, as arrays."""
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *shape))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, len(outputs_of(study))))]),
    )


def _table_signature(records: Records, outputs: list[str]) -> ModelSignature:
    """Return what goes in and comes out, as columns by name.

    A column may hold anything: MLflow would refuse whole numbers where it expects floating-point ones, and text such as
    ``?`` where it expects a number; the model itself says what it cannot use.
    """
    anything = AnyType()  # type: ignore[no-untyped-call]
    inputs: list[ColSpec | TensorSpec] = [ColSpec(anything, feature.column_name) for feature in records.all_features]
    told: list[ColSpec | TensorSpec] = [ColSpec("double", name) for name in outputs]
    told += [ColSpec("string", encoding.RECOMMENDED)] if records.arm else []
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(told))


def _write_table_model(folder: Path, study: Study, records: Records) -> None:
    """Write what turns a table's cells into the program's input: a module of our own, and the features."""
    (folder / CODE).mkdir()
    shutil.copyfile(Path(encoding.__file__), folder / CODE / TABLE_MODEL)
    about: dict[str, Any] = {"features": encoded_features(records), "outputs": outputs_of(study)}
    if records.arm is not None:
        about["arms"] = records.arm.levels
    _write_json(folder / "data" / "features.json", about | _warning_of(study))


def _warning_of(study: Study) -> dict[str, str]:
    """Return what a user must know of every number of this study's models; nothing where there is nothing."""
    said = " ".join(text for text in (personal_warning(study), *benefit_warnings(study)) if text)
    return {"warning": said} if said else {}


def personal_warning(study: Study) -> str:
    """Say that a version lacks what its strategy leaves at the sites; empty where it leaves nothing."""
    personal = STRATEGIES[study.strategy.name].personal
    if personal == "none":
        return ""
    meaning = "little" if personal == "normalisation" else "nothing"
    return (
        f"This version was trained with {study.strategy.name}: each site keeps its own {personal} layers, and this "
        f"file has only their first values: its scores mean {meaning}. At a site it was trained at, wardround predict "
        "--site NAME scores as the site's own."
    )


def _write_json(file: Path, content: object) -> None:
    """Write JSON that is the same for the same content."""
    file.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
