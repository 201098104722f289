"""The registry: every round is a model version, registered once however often it is tried."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import mlflow
from mlflow.entities import LoggedModel, LoggedModelStatus, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from components.errors import StorageError
from components.failpoints import failpoint
from components.tracking import tags as names
from components.tracking.connection import connect, mlflow_errors
from components.tracking.package import Package

_GLOBAL_URI = threading.Lock()


@dataclass(frozen=True)
class Release:
    """What is to be registered after a round.

    Attributes:
        name: Of the registered model: the study's.
        training: Identifier of the training.
        round: Number of the round, counted from 1.
        run_id: The training's run.
        package: The files.
        metrics: Pooled metrics of this version; recorded on the run and on the version's logged model,
            with the round as the step. Values that are not finite are left out.
        tags: Lineage: base version, strategy, roster, who took part, items per site, code version ...
        evaluation_data: Digest of the data behind `metrics`.
        description: Markdown for the version's page.
    """

    name: str
    training: str
    round: int
    run_id: str
    package: Package
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    evaluation_data: str = ""
    description: str = ""

    @property
    def round_key(self) -> str:
        """What makes this version the only one of its round."""
        return f"{self.training}/{self.round}"

    def all_tags(self) -> dict[str, str]:
        """Return the given tags and those that follow from the other fields."""
        own = {
            names.TRAINING: self.training,
            names.ROUND: str(self.round),
            names.ROUND_KEY: self.round_key,
            names.WEIGHTS_DIGEST: self.package.weights_digest,
            names.PACKAGE_DIGEST: self.package.digest,
            names.METRICS: json.dumps(finite(self.metrics), sort_keys=True),
            names.EVALUATION_DATA: self.evaluation_data,
        }
        return {**{key: str(value) for key, value in self.tags.items()}, **own}


@dataclass(frozen=True)
class RegisteredVersion:
    """A version as the registry knows it.

    Attributes:
        name: Of the registered model.
        version: Its number, counted from 1.
        model_id: Its logged model, which carries its metrics.
        run_id: The training's run.
        tags: Its tags.
    """

    name: str
    version: int
    model_id: str
    run_id: str
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        """The address MLflow loads it by."""
        return f"models:/{self.name}/{self.version}"

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics it was registered with."""
        return dict(json.loads(self.tags.get(names.METRICS) or "{}"))


class Registry:
    """Registers versions, finds them, and moves aliases.

    Args:
        tracking_uri: Where MLflow is; see `components.tracking.connection.connect`.

    Raises:
        ServiceError: If MLflow cannot be reached.
        StorageError: If its database cannot be written.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri
        self.client = connect(tracking_uri)
        self._experiments: dict[str, str] = {}
        self._named: set[str] = set()

    def register(self, release: Release) -> RegisteredVersion:
        """Register a round's version: its files, its metrics, then the version itself.

        Each step is looked up by the round key before it is made, so it may be called again after a
        crash at any point: one logged model and one version are used, and no metric is recorded twice.

        Raises:
            StorageError: If the round is registered with other weights, or a file cannot be written.
            ServiceError: If MLflow does not do what is asked.
        """
        with mlflow_errors(f"register round {release.round_key}", self.tracking_uri):
            found = self._find(release.name, release.round_key)
            if found is not None:
                _check_same(found, release)
            model, is_new = self._open_model(release)
            self._store_files(model, release)
            self._record_metrics(model, release.run_id, release.metrics, release.round, is_new=is_new)
            if found is None:
                found = self._create_version(model, release)
                failpoint("registry.version_created")
            self._link_model(model, found)
        return found

    def record_metrics(self, version: RegisteredVersion, metrics: Mapping[str, float], step: int) -> None:
        """Record further metrics of a version (of its test) on its logged model and its run, once.

        Raises:
            ServiceError: If MLflow does not do what is asked.
        """
        with mlflow_errors(f"record metrics of {version.uri}", self.tracking_uri):
            model = self.client.get_logged_model(version.model_id)
            self._record_metrics(model, version.run_id, metrics, step, is_new=False)

    def find_by_round_key(self, name: str, round_key: str) -> RegisteredVersion | None:
        """Return the version of a round, if it was registered."""
        with mlflow_errors(f"look up round {round_key}", self.tracking_uri):
            return self._find(name, round_key)

    def versions(self, name: str, training: str) -> list[RegisteredVersion]:
        """Return the versions of a training, the oldest first."""
        query = f"name = '{name}' and tags.`{names.TRAINING}` = '{training}'"
        with mlflow_errors(f"list the versions of {name}", self.tracking_uri):
            found, token = list[ModelVersion](), None
            while True:
                page = self.client.search_model_versions(query, max_results=1000, page_token=token)
                found.extend(page)
                token = page.token
                if not token:
                    break
        return sorted((_registered(version) for version in found), key=lambda version: version.version)

    def get(self, name: str, version: int) -> RegisteredVersion:
        """Return a version by its number.

        Raises:
            ServiceError: If there is none.
        """
        with mlflow_errors(f"find version {version} of {name}", self.tracking_uri):
            return _registered(self.client.get_model_version(name, str(version)))

    def get_alias(self, name: str, alias: str) -> RegisteredVersion | None:
        """Return the version an alias stands at; None if the model or the alias is not there."""
        with mlflow_errors(f"find {name}@{alias}", self.tracking_uri):
            try:
                return _registered(self.client.get_model_version_by_alias(name, alias))
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Move an alias to a version."""
        with mlflow_errors(f"move alias {alias} of {name}", self.tracking_uri):
            self.client.set_registered_model_alias(name, alias, str(version))
        failpoint("registry.alias_moved")

    def set_tag(self, version: RegisteredVersion, key: str, value: str) -> None:
        """Set a tag on a version."""
        with mlflow_errors(f"tag version {version.version} of {version.name}", self.tracking_uri):
            self.client.set_model_version_tag(version.name, str(version.version), key, value)

    def _find(self, name: str, round_key: str) -> RegisteredVersion | None:
        """The oldest version with this round key."""
        query = f"name = '{name}' and tags.`{names.ROUND_KEY}` = '{round_key}'"
        found = [_registered(version) for version in self.client.search_model_versions(query)]
        return min(found, key=lambda version: version.version, default=None)

    def _open_model(self, release: Release) -> tuple[LoggedModel, bool]:
        """Find the round's logged model, also a half-made one, or make it."""
        experiment = self._experiment_of(release.run_id)
        query = f"tags.`{names.ROUND_KEY}` = '{release.round_key}' AND source_run_id = '{release.run_id}'"
        found = self.client.search_logged_models([experiment], query)
        if found:
            return min(found, key=lambda model: (model.creation_timestamp, model.model_id)), False
        model = self.client.create_logged_model(
            experiment,
            name=f"{release.name}-round-{release.round}".replace(".", "_"),
            source_run_id=release.run_id,
            tags={key: value[:8000] for key, value in release.all_tags().items()},
            model_type="federated",
        )
        failpoint("registry.model_created")
        return model, True

    def _store_files(self, model: LoggedModel, release: Release) -> None:
        """Upload the package, unless this very package was uploaded whole."""
        same = model.tags.get(names.PACKAGE_DIGEST) == release.package.digest
        if model.status == LoggedModelStatus.READY and same:
            return
        self.client.log_model_artifacts(model.model_id, str(release.package.folder))
        failpoint("registry.artifacts_written")
        if not same:
            self.client.set_logged_model_tags(model.model_id, release.all_tags())
        self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)

    def _record_metrics(
        self, model: LoggedModel, run_id: str, metrics: Mapping[str, float], step: int, *, is_new: bool
    ) -> None:
        """Record a version's metrics once: on the run, and through the same call on the logged model."""
        have = {metric.key for metric in model.metrics or [] if metric.step == step}
        now = int(time.time() * 1000)
        batch = []
        for key, value in finite(metrics).items():
            if key in have:
                continue
            stamp = (now, value)
            if not is_new:  # MLflow keeps one point for equal key, step, time and value
                history = self.client.get_metric_history(run_id, key)
                stamp = next(((point.timestamp, point.value) for point in history if point.step == step), stamp)
            batch.append(Metric(key, stamp[1], stamp[0], step, model_id=model.model_id))
        if batch:
            self.client.log_batch(run_id, metrics=batch)
        failpoint("registry.metrics_recorded")

    def _create_version(self, model: LoggedModel, release: Release) -> RegisteredVersion:
        """Make the version from the logged model."""
        self._open_name(release.name)
        with _tracking_uri_in_force(self.tracking_uri):
            version = self.client.create_model_version(
                release.name,
                source=f"models:/{model.model_id}",
                run_id=release.run_id,
                tags=release.all_tags(),
                description=release.description or None,
                await_creation_for=0,
                model_id=model.model_id,
            )
        return _registered(version)

    def _link_model(self, model: LoggedModel, version: RegisteredVersion) -> None:
        """Tell the logged model which version it is (a server does so by itself, a bare database does not)."""
        value = json.dumps([{"name": version.name, "version": version.version}])
        if names.MODEL_VERSIONS not in model.tags and not self.tracking_uri.startswith("http"):
            self.client.set_logged_model_tags(model.model_id, {names.MODEL_VERSIONS: value})

    def _open_name(self, name: str) -> None:
        """Make the registered model, once."""
        if name in self._named:
            return
        try:
            self.client.create_registered_model(
                name, description=f"Global models of study {name}, one version per round."
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        self._named.add(name)

    def _experiment_of(self, run_id: str) -> str:
        """Return the experiment of a run."""
        if run_id not in self._experiments:
            self._experiments[run_id] = str(self.client.get_run(run_id).info.experiment_id)
        return self._experiments[run_id]


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Leave out what is not a number that can be compared.

    >>> finite({"auroc": 0.9, "brier": float("nan")})
    {'auroc': 0.9}
    """
    return {key: float(value) for key, value in metrics.items() if math.isfinite(value)}


def _registered(version: ModelVersion) -> RegisteredVersion:
    """Keep of MLflow's record what we use."""
    source = str(version.source)
    return RegisteredVersion(
        name=version.name,
        version=int(version.version),
        model_id=source.removeprefix("models:/") if source.startswith("models:/") else "",
        run_id=version.run_id or "",
        tags=dict(version.tags),
    )


def _check_same(found: RegisteredVersion, release: Release) -> None:
    """Refuse to register another model for a round that has its version."""
    if found.tags.get(names.WEIGHTS_DIGEST) != release.package.weights_digest:
        raise StorageError(
            f"round {release.round_key} is registered as {found.uri} with other weights "
            f"({found.tags.get(names.WEIGHTS_DIGEST, 'no digest')[:12]}, now {release.package.weights_digest[:12]}); "
            "compare the journal, then delete that version or start a new training"
        )


@contextmanager
def _tracking_uri_in_force(uri: str) -> Iterator[None]:
    """Make MLflow's global tracking address ours while a version is created.

    A bare database resolves the source ``models:/m-...`` through the global address, whatever the client's
    own is. The one place where global state is touched; free where the process has set the address itself.
    """
    if uri.startswith("http") or mlflow.get_tracking_uri() == uri:
        yield
        return
    with _GLOBAL_URI:
        was_set = mlflow.is_tracking_uri_set()  # type: ignore[no-untyped-call]
        before = mlflow.get_tracking_uri() if was_set else None
        mlflow.set_tracking_uri(uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # None: as if never set
