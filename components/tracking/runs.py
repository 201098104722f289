"""Runs: one experiment per study, a parent run per training, a child run per site."""

from __future__ import annotations

import math
import re
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from components.errors import ServiceError
from components.tracking import links
from components.tracking import tags as names
from components.tracking.connection import connect, mlflow_errors
from components.tracking.datasets import SiteDataset

RunStatus = Literal["FINISHED", "KILLED", "FAILED"]

_PLAIN = re.compile(r"[A-Za-z0-9_.:/ -]+")  # what may stand between quotes in a search
_PARAMS_PER_BATCH = 100
_TAG_LENGTH = 5000
MODEL_KIND = "custom_model_development"  # MLflow's interface then shows models and runs, not traces and agents


class Recorded(Protocol):
    """A study as it is recorded: one that trains, or one that analyses."""

    @property
    def study(self) -> str:
        """Its name."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of what it says."""
        ...

    def model_dump_json(self, *, indent: int | None = None) -> str:
        """Return it as JSON."""
        ...


class Tracker:
    """The runs of one training. Everything may be repeated; nothing is recorded twice.

    Meant for one thread at a time (a background thread beside the training).

    Args:
        tracking_uri: Where MLflow is; see `components.tracking.connection.connect`.
        experiment: Name of the experiment: the study's.
        artifact_root: Folder or address under which the experiment keeps its files; None takes the
            server's own. Only used when the experiment is new.

    Raises:
        ServiceError: If MLflow cannot be reached, or the experiment was deleted there.
        StorageError: If the database or a folder cannot be written.
    """

    def __init__(self, tracking_uri: str, *, experiment: str, artifact_root: str | Path | None = None) -> None:
        self.tracking_uri = tracking_uri
        self.client = connect(tracking_uri)
        self.experiment = experiment
        with self._border("open the experiment"):
            self.experiment_id = self._open_experiment(artifact_root)
        self.run_id = ""
        self._training = ""
        self._site_runs: dict[str, str] = {}
        self._running: set[str] = set()
        self._steps: dict[str, dict[str, set[int]]] = {}
        self._new_runs: set[str] = set()

    def start_training(
        self,
        training: str,
        *,
        study: Recorded,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        role: Literal["training", "analysis"] = "training",
    ) -> str:
        """Open the run of a training: the one that carries its name, else a new one.

        Args:
            training: Identifier of the training, unique in the experiment.
            study: The study; kept as ``study.json`` with the run.
            params: Recorded once; a parameter that the run already has keeps its value.
            tags: Further tags.
            role: What the run is of.

        Returns:
            The run's identifier. The run is in state RUNNING.

        Raises:
            ServiceError: If MLflow does not do what is asked.
            StorageError: If the database or a folder cannot be written.
        """
        self._training = training
        own = {names.STUDY: study.study, names.STUDY_DIGEST: study.digest, names.TRAINING: training}
        with self._border("open the training's run"):
            known = self._find_runs()
            self._site_runs = {
                run.data.tags[names.SITE]: run.info.run_id for run in known if names.SITE in run.data.tags
            }
            parents = [run for run in known if run.data.tags.get(names.ROLE) == role]
            recorded: set[str] = set()
            if parents:
                self.run_id = parents[0].info.run_id
                recorded = set(parents[0].data.params)
                self._set_running(self.run_id)
            else:
                self.run_id = self._create_run(training, {**own, names.ROLE: role})
            self._log_params({key: value for key, value in params.items() if key not in recorded})
        note = links.training_note(study.study, training, tags.get(names.PREFECT_URL), tags.get(names.PREFECT_RUN))
        self.set_tags({names.NOTE: note, **tags})
        self.log_text("study.json", study.model_dump_json(indent=2))
        return self.run_id

    def site_run(self, site: str) -> str:
        """Return the child run of a site; found by its tags, made if there is none; in state RUNNING."""
        with self._border(f"open the run of site {site}"):
            if site not in self._site_runs:
                tags = {
                    names.ROLE: "site",
                    names.SITE: site,
                    names.TRAINING: self._training,
                    names.STUDY: self.experiment,
                }
                self._site_runs[site] = self._create_run(
                    f"{self._training}-{site}", {**tags, names.PARENT_RUN: self._open_run()}
                )
            self._set_running(self._site_runs[site])
        return self._site_runs[site]

    def log_site_data(self, dataset: SiteDataset) -> None:
        """Record a site's data as a dataset of its run and of the parent; MLflow keeps one of each."""
        runs = (self.site_run(dataset.site), self._open_run())
        with self._border(f"record the data of site {dataset.site}"):
            for run_id in runs:
                self.client.log_inputs(run_id, [dataset.to_input()])

    def log_round(self, round_number: int, metrics: Mapping[str, float], *, site: str | None = None) -> None:
        """Record metrics of a round, with the round's number as the step.

        The metrics of a global version are recorded by `Registry.register`, which hangs them on the
        version too; here go a site's metrics, and of the training what is no version's (seconds, sites).

        Args:
            round_number: Counted from 1.
            metrics: By name; values that are not finite are left out.
            site: Whose; None for the training itself.

        Guarantees:
            A metric has one value per round, however often this is called and whatever crashed between.
        """
        run_id = self._open_run() if site is None else self.site_run(site)
        with self._border(f"record metrics of round {round_number}"):
            new = self._unrecorded(run_id, metrics, round_number)
            now = int(time.time() * 1000)
            if new:
                self.client.log_batch(run_id, metrics=[Metric(key, new[key], now, round_number) for key in new])
            for key in new:
                self._steps[run_id][key].add(round_number)

    def set_tags(self, tags: Mapping[str, str], *, site: str | None = None) -> None:
        """Set tags on the parent run, or on a site's."""
        run_id = self._open_run() if site is None else self.site_run(site)
        with self._border("set tags"):
            self.client.log_batch(run_id, tags=[RunTag(key, str(value)[:_TAG_LENGTH]) for key, value in tags.items()])

    def log_bytes(self, path: str, content: bytes) -> None:
        """Keep a file with the parent run.

        Args:
            path: Its place among the run's artifacts, for example ``figures/roc.png``.
            content: Its content; a file already there is replaced.
        """
        place = PurePosixPath(path)
        with self._border(f"keep {path}"), tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / place.name
            file.write_bytes(content)
            parent = None if place.parent == PurePosixPath(".") else str(place.parent)
            self.client.log_artifact(self._open_run(), str(file), parent)

    def log_text(self, path: str, text: str) -> None:
        """Keep a text file (UTF-8) with the parent run; see `log_bytes`."""
        self.log_bytes(path, text.encode())

    def log_files(self, folder: Path, path: str | None = None) -> None:
        """Keep a folder's files with the parent run, under `path`."""
        with self._border(f"keep the files of {folder.name}"):
            self.client.log_artifacts(self._open_run(), str(folder), path)

    def finish(self, status: RunStatus, reason: str = "") -> None:
        """End the parent run and all its children, also those of an earlier process.

        Args:
            status: ``FINISHED``; ``KILLED`` for a training that was interrupted; ``FAILED``.
            reason: Kept as a tag of the parent.
        """
        if reason:
            self.set_tags({names.STATUS_REASON: reason})
        with self._border("end the training's runs"):
            for run_id in (*self._site_runs.values(), self._open_run()):
                self.client.set_terminated(run_id, status)
        self._running.clear()

    def end_training(self, training: str, status: RunStatus) -> int:
        """End every run of another training of this study that is still RUNNING.

        Returns:
            How many there were.
        """
        with self._border(f"end the runs of training {training}"):
            left = [run for run in self._find_runs(training) if run.info.status == "RUNNING"]
            for run in left:
                self.client.set_terminated(run.info.run_id, status)
        return len(left)

    def _border(self, action: str) -> AbstractContextManager[None]:
        """Where MLflow's errors become ours."""
        return mlflow_errors(action, self.tracking_uri)

    def _open_run(self) -> str:
        """Return the parent run's identifier."""
        if not self.run_id:
            raise ValueError("no training is open: call start_training first")
        return self.run_id

    def _open_experiment(self, artifact_root: str | Path | None) -> str:
        """Find or make the experiment."""
        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            location = None if artifact_root is None else _location(artifact_root, self.experiment)
            try:
                return str(self.client.create_experiment(self.experiment, location, tags={names.KIND: MODEL_KIND}))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                return self._open_experiment(artifact_root)
        if found.lifecycle_stage != "active":
            raise ServiceError(
                f"experiment {self.experiment!r} was deleted in MLflow; restore it "
                f"(mlflow experiments restore -x {found.experiment_id}) or give the study another name"
            )
        return str(found.experiment_id)

    def _find_runs(self, training: str | None = None) -> list[Run]:
        """Return all runs of a training, the oldest first."""
        training = self._training if training is None else training
        if not _PLAIN.fullmatch(training):
            raise ValueError(f"a training's name holds letters, digits and _.:/- only, given {training!r}")
        query, found, token = f"tags.`{names.TRAINING}` = '{training}'", list[Run](), None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], query, order_by=["attributes.start_time ASC"], page_token=token
            )
            found.extend(page)
            token = page.token
            if not token:
                return found

    def _create_run(self, name: str, tags: Mapping[str, str]) -> str:
        """Make a run; being new, it has no metrics to be looked up."""
        source = {"mlflow.source.name": "wardround", "mlflow.source.type": "JOB"}
        run_id = str(self.client.create_run(self.experiment_id, run_name=name, tags={**source, **tags}).info.run_id)
        self._new_runs.add(run_id)
        self._running.add(run_id)
        return run_id

    def _set_running(self, run_id: str) -> None:
        """Take a run of an earlier process up again."""
        if run_id not in self._running:
            self.client.update_run(run_id, status="RUNNING")
            self._running.add(run_id)

    def _log_params(self, params: Mapping[str, object]) -> None:
        """Record parameters in batches of MLflow's size."""
        entries = [Param(key, str(value)[:_TAG_LENGTH]) for key, value in sorted(params.items())]
        for start in range(0, len(entries), _PARAMS_PER_BATCH):
            self.client.log_batch(self.run_id, params=entries[start : start + _PARAMS_PER_BATCH])

    def _unrecorded(self, run_id: str, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """Leave out what the run already has at this step; a run found again is asked once per metric."""
        steps = self._steps.setdefault(run_id, {})
        new = {}
        for key, value in metrics.items():
            if key not in steps:
                known = [] if run_id in self._new_runs else self.client.get_metric_history(run_id, key)
                steps[key] = {metric.step for metric in known}
            if step not in steps[key] and math.isfinite(value):
                new[key] = float(value)
        return new


def _location(root: str | Path, experiment: str) -> str:
    """Return the experiment's own place under the root."""
    text = str(root)
    return f"{text.rstrip('/')}/{experiment}" if "://" in text else (Path(text).absolute() / experiment).as_uri()
