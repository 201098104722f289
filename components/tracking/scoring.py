"""Getting a registered version back: the files that were asked for, each checked by its digest."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow.artifacts
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from components.errors import ServiceError, StorageError
from components.rounds import ServerState
from components.study import Study
from components.tracking import tags as names
from components.tracking.connection import mlflow_errors
from components.tracking.package import MANIFEST, PREPROCESSING, SERVER_STATE, STUDY, WEIGHTS, file_digest
from components.tracking.registry import RegisteredVersion, Registry
from components.weights import Weights

_URI = re.compile(r"models:/(?P<name>[^/@:]+)(?:/(?P<version>\d+)|@(?P<alias>[A-Za-z0-9_.-]+))")


@dataclass(frozen=True)
class ScoringModel:
    """What is needed to score new files with a registered version.

    Attributes:
        version: Which version it is.
        weights: The global weights.
        study: The study it was trained for: network, data and task.
        preprocessing: Preprocessing and outputs as plain values.
        lineage: Where it comes from.
    """

    version: RegisteredVersion
    weights: Weights
    study: Study
    preprocessing: dict[str, Any]
    lineage: dict[str, Any]


def load_version(uri: str, tracking_uri: str) -> ScoringModel:
    """Load a registered version for scoring, without its exported program.

    Args:
        uri: ``models:/<name>/<version>`` or ``models:/<name>@<alias>``.
        tracking_uri: Where MLflow is.

    Raises:
        ServiceError: If there is no such version, or MLflow cannot be reached.
        StorageError: If a file is missing or is not what its digest says.
        ValueError: If `uri` is no such address.
    """
    registry = Registry(tracking_uri)
    version = resolve(registry, uri)
    with tempfile.TemporaryDirectory() as scratch:
        folder = fetch(registry, version, (WEIGHTS, STUDY, PREPROCESSING), Path(scratch))
        try:
            return ScoringModel(
                version=version,
                weights=load_file(folder / WEIGHTS),
                study=Study.model_validate_json((folder / STUDY).read_bytes()),
                preprocessing=json.loads((folder / PREPROCESSING).read_text()),
                lineage=json.loads((folder / MANIFEST).read_text())["lineage"],
            )
        except (SafetensorError, ValidationError, ValueError, KeyError) as error:
            raise StorageError(f"{version.uri} cannot be read by this version of WardRound: {error}") from error


def load_state(registry: Registry, version: RegisteredVersion) -> ServerState:
    """Read back the server's state after a version's round; it continues bit for bit.

    Raises:
        StorageError: If a file is missing or is not what its digest says.
        ServiceError: If MLflow cannot be reached.
    """
    with tempfile.TemporaryDirectory() as scratch:
        manifest = _manifest(registry, version, _location(registry, version), Path(scratch))
        wanted = [name for name in (WEIGHTS, SERVER_STATE) if name in manifest["files"]]
        folder = fetch(registry, version, wanted, Path(scratch))
        slots: dict[str, Weights] = {}
        for name, tensor in (load_file(folder / SERVER_STATE) if SERVER_STATE in wanted else {}).items():
            slot, _, entry = name.partition("/")
            slots.setdefault(slot, {})[entry] = tensor
        server = manifest["server"]
        return ServerState(
            server["round"], server["step"], load_file(folder / WEIGHTS), frozenset(server["statistics"]), slots
        )


def weights_path(registry: Registry, uri: str, into: Path, *, digest: str | None = None) -> Path:
    """Fetch a version's weights file.

    Args:
        registry: The registry.
        uri: ``models:/<name>/<version>`` or ``models:/<name>@<alias>``.
        into: Folder for what has to be downloaded.
        digest: SHA-256 the file must have, from the journal; the registry's tags alone can be overwritten.

    Raises:
        StorageError: If the file is missing or is not what its digest says.
        ServiceError: If there is no such version, or MLflow cannot be reached.
    """
    version = resolve(registry, uri)
    file = fetch(registry, version, (WEIGHTS,), into) / WEIGHTS
    _check_digest(file, digest or version.tags.get(names.WEIGHTS_DIGEST, ""), version)
    return file


def resolve(registry: Registry, uri: str) -> RegisteredVersion:
    """Return the version behind ``models:/<name>/<version>`` or ``models:/<name>@<alias>``.

    Raises:
        ValueError: If `uri` is no such address.
        ServiceError: If there is no such version.
    """
    parts = _URI.fullmatch(uri)
    if parts is None:
        raise ValueError(f"a version is named models:/<study>/<number> or models:/<study>@<alias>, given {uri!r}")
    if parts["version"]:
        return registry.get(parts["name"], int(parts["version"]))
    found = registry.get_alias(parts["name"], parts["alias"])
    if found is None:
        raise ServiceError(
            f"{uri} is not in the registry at {registry.tracking_uri}: no model {parts['name']!r} with alias "
            f"{parts['alias']!r}; train it first, or name a version"
        )
    return found


def fetch(registry: Registry, version: RegisteredVersion, files: Sequence[str], into: Path) -> Path:
    """Bring files of a version's package to this machine and check each against the manifest.

    Args:
        registry: The registry.
        version: Whose.
        files: Their places in the package.
        into: Folder for downloads; not used where the artifacts lie on this machine.

    Returns:
        The folder that holds them.

    Raises:
        StorageError: If a file is missing or is not what its digest says.
        ServiceError: If MLflow cannot be reached.
    """
    location = _location(registry, version)
    manifest = _manifest(registry, version, location, into)
    for name in files:
        expected = manifest["files"].get(name)
        if expected is None:
            raise StorageError(f"{version.uri} has no file {name!r} in its package; was it registered by WardRound?")
        _check_digest(_get_file(registry, version, location, name, into), expected["sha256"], version)
    return _local_folder(location) or into


def _manifest(registry: Registry, version: RegisteredVersion, location: str, into: Path) -> dict[str, Any]:
    """Read the manifest that the version's tag names."""
    file = _get_file(registry, version, location, MANIFEST, into)
    _check_digest(file, version.tags.get(names.PACKAGE_DIGEST, ""), version)
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def _location(registry: Registry, version: RegisteredVersion) -> str:
    """Where MLflow keeps the version's files."""
    with mlflow_errors(f"find the files of {version.uri}", registry.tracking_uri):
        return str(registry.client.get_model_version_download_uri(version.name, str(version.version)))


def _local_folder(location: str) -> Path | None:
    """The folder behind a location on this machine; None if it is elsewhere."""
    parts = urlsplit(location)
    return Path(url2pathname(parts.path)) if parts.scheme in ("", "file") else None


def _get_file(registry: Registry, version: RegisteredVersion, location: str, name: str, into: Path) -> Path:
    """Return one file, downloaded if it is elsewhere."""
    folder = _local_folder(location)
    if folder is not None:
        return folder / name
    with mlflow_errors(f"download {name} of {version.uri}", registry.tracking_uri):
        path = mlflow.artifacts.download_artifacts(
            artifact_uri=f"{location}/{name}", dst_path=str(into), tracking_uri=registry.tracking_uri
        )
    return Path(path)


def _check_digest(file: Path, expected: str, version: RegisteredVersion) -> None:
    """Compare a file with what it should be."""
    try:
        found = file_digest(file)
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"{version.uri}: cannot read {file.name} in the artifact store: {reason}") from error
    if found != expected:
        raise StorageError(
            f"{version.uri}: {file.name} in the artifact store is not what was registered (SHA-256 {found[:12]}, "
            f"not {expected[:12] or 'recorded'}); restore it from a backup or use another version"
        )
