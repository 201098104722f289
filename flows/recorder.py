"""What a training leaves in MLflow, written by a thread of its own beside the training.

One thread, one queue: versions are registered in the order of their rounds, and no round waits for the
registry. Everything may be called again after a crash; the tracker and the registry look up before they
create.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from components.dispatch import Preparation
from components.errors import ServiceError
from components.evaluation.figures import calibration_figure, roc_figure
from components.evaluation.intervals import Estimate
from components.federation import Evaluation, load_state
from components.ledger import RoundLedger
from components.study import Study
from flows.build import export_file
from flows.embedded_mlflow import seed_mlflow
from flows.local_record import addresses
from flows.servers import check_reachable, users_prefect
from flows.version import code_version

if TYPE_CHECKING:
    from components.tracking.package import Template
    from components.tracking.registry import Registry
    from components.tracking.runs import RunStatus, Tracker
    from flows.coordinator import CoordinatorConfig
    from flows.session import Session

# components.tracking is imported by the recorder's own thread: MLflow takes seconds to import and to open
# its database, while the main thread has a training to start.

T = TypeVar("T")
PATIENCE_S, AGAIN_S = 60.0, 1.0
MLFLOW_UI = "http://127.0.0.1:5000"


def tracking_uri(home: Path) -> str:
    """Return where a home records.

    The user's own tracking server (``MLFLOW_TRACKING_URI``), else that of the home's federation while it is up,
    else the database in the home folder.
    """
    federation = addresses(home)
    return os.environ.get("MLFLOW_TRACKING_URI") or (federation.mlflow if federation else local_uri(home))


def local_uri(home: Path) -> str:
    """Return the address of the database in the home folder."""
    return f"sqlite:///{home / 'mlflow.db'}"


class Recorder:
    """Records one training.

    Args:
        study: The study.
        home: Folder of everything recorded.
        mlflow_url: A federation's tracking server; the user's own comes before it.
        prefect_ui: Address of the Prefect UI, for links; empty where it has none that lasts.

    Raises:
        ServiceError: If the tracking server does not answer.
    """

    def __init__(self, study: Study, home: Path, *, mlflow_url: str = "", prefect_ui: str = "") -> None:
        users = os.environ.get("MLFLOW_TRACKING_URI", "")
        self._study, self._home, self._uri = study, home, users or mlflow_url or tracking_uri(home)
        check_reachable(self._uri, name="MLflow")
        self._thread, self._ending = ThreadPoolExecutor(1, thread_name_prefix="recorder"), Event()
        self._opened: Future[tuple[Tracker, Registry]] | None = None
        self._template: Future[Template] | None = None
        self._started: Future[None] | None = None
        self._prefect_ui = os.environ.get("WARDROUND_PREFECT_UI") or prefect_ui
        self._flow_run = ""

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()

    def start(self, session: Session, flow_run: str) -> None:
        """Open the training's runs, and have the network exported, both in the background; once."""
        if self._started is not None:
            return
        self._opened = self._thread.submit(self._patiently, self._open)
        self._flow_run = flow_run
        self._started = self._thread.submit(self._patiently, self._start, session)
        self._template = self._thread.submit(self._find_template, session)

    def add_site(self, session: Session, found: Preparation) -> None:
        """Record the data of a site that joined; in the background, once the runs are open."""
        if self._started is not None:
            self._thread.submit(self._patiently, self._log_site, session, found)

    def register(self, session: Session, number: int) -> Future[int]:
        """Register the version of a round and record its metrics; the future holds the version's number."""
        return self._thread.submit(self._patiently, self._register, session, number)

    def conclude(self, session: Session) -> Future[dict[str, Any]]:
        """Record the test results, figures and report, move ``champion`` by its rule, end the runs."""
        from flows.conclusion import conclude  # it brings MLflow, which by now is there

        return self._thread.submit(self._patiently, lambda: conclude(session, *self._services()))

    def leave(self) -> None:
        """Record nothing more of the training: another process does."""
        self._ending.set()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def finish(self, status: RunStatus, reason: str = "") -> None:
        """End the training's runs, if they were opened, and wait until that is recorded; what waits is dropped."""
        self._ending.set()
        for waiting in (self._template, self._started):
            if waiting is not None:
                waiting.cancel()
        if self._started is not None and not self._started.cancelled():
            self._thread.submit(self._finish, status, reason).result()

    def links(self) -> dict[str, str]:
        """Return where more is to be found, by name."""
        found = {"MLflow": f"{self._ui()}/#/models/{self._study.study}", "Prefect": self._flow_url()}
        return {name: address for name, address in found.items() if address}

    def version_url(self, name: str, version: int | None) -> str:
        """Return the address of a version's page in the MLflow UI."""
        return f"{self._ui()}/#/models/{name}/versions/{version}"

    def _flow_url(self) -> str:
        """Return the address of the training's run in Prefect; empty where it has none that lasts."""
        return f"{self._prefect_ui}/runs/flow-run/{self._flow_run}" if self._prefect_ui and self._flow_run else ""

    def _ui(self) -> str:
        return self._uri.rstrip("/") if self._uri.startswith("http") else MLFLOW_UI

    def _services(self) -> tuple[Tracker, Registry]:
        """Return what `start` has opened."""
        if self._opened is None:
            raise ValueError("start the recorder first")
        return self._opened.result()

    def _open(self) -> tuple[Tracker, Registry]:
        from components.tracking.registry import Registry
        from components.tracking.runs import Tracker

        if self._uri == local_uri(self._home):
            seed_mlflow(self._home)
        root = None if self._uri.startswith("http") else self._home / "artifacts"
        return Tracker(self._uri, experiment=self._study.study, artifact_root=root), Registry(self._uri)

    def _patiently(self, work: Callable[..., T], *given: Any) -> T:
        """Do something until MLflow answers: it did when the training began, and may be starting again."""
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                return work(*given)
            except ServiceError:
                if time.monotonic() > end or self._ending.wait(AGAIN_S):
                    raise

    def _find_template(self, session: Session) -> Template:
        """Return the study's template; if there is none of these libraries, have a site process export one."""
        from components.tracking.package import build_template, find_template

        folder = self._home / "templates" / session.study.digest[:16]
        found = find_template(folder, session.study)
        if found is None:
            file = export_file(session.study)
            if not file.exists():
                session.dispatcher.export(session.study, file).result()
            found = build_template(session.study, file, folder)
        return found

    def _start(self, session: Session) -> None:
        tracker, _ = self._services()
        study = session.study
        params = {
            "strategy": study.strategy.name,
            **{f"strategy.{name}": value for name, value in study.strategy.hyperparameters.items()},
            "network": study.network.name,
            **{f"network.{name}": value for name, value in study.network.arguments.items()},
            "rounds.max": study.rounds.max,
            **{f"local.{name}": value for name, value in study.local.model_dump(exclude={"optimizer"}).items()},
            **{f"optimizer.{name}": value for name, value in study.local.optimizer.model_dump().items()},
            "seed": study.seed,
            "sites": len(session.sites),
            "parameters": session.ledger.initial.parameters,
        }
        tags = {"wardround.prefect_run": self._flow_run, "wardround.prefect_url": self._flow_url()}
        tags = {name: value for name, value in tags.items() if value} | {"wardround.code_version": code_version()}
        tracker.start_training(session.training, study=study, params=params, tags=tags)
        for name, other in session.others.items():
            gone = other.finished is None or other.finished.get("reason") == "cancelled"
            if gone:  # killed or cancelled, and not taken up again: only one process drives a study
                tracker.end_training(name, "KILLED")
        for _, found in sorted(session.ledger.preparations.items()):
            self._log_site(session, found)

    def _log_site(self, session: Session, found: Preparation) -> None:
        from components.tracking.datasets import SiteDataset

        if found.items is not None:
            classes = session.study.task.classes
            dataset = SiteDataset(found.site, found.data_digest, found.items, found.class_counts, classes)
            self._services()[0].log_site_data(dataset)

    def _finish(self, status: RunStatus, reason: str) -> None:
        if self._started is not None and self._started.exception() is None:
            self._services()[0].finish(status, reason)

    def _register(self, session: Session, number: int) -> int:
        from components.tracking.aliases import move_best
        from components.tracking.package import require_weights, write_package
        from components.tracking.registry import Release
        from components.tracking.tree_files import tree_files

        if self._started is None or self._template is None:
            raise ValueError("start the recorder before registering")
        self._started.result()
        tracker, registry = self._services()
        item = session.ledger.rounds[number]
        evaluation = session.evaluation(number)
        self._log_round(tracker, item, evaluation)
        state = load_state(session.store, item.require_state())
        with TemporaryDirectory(dir=self._home) as folder:
            package = write_package(
                self._template.result(),
                Path(folder) / "package",
                state,
                lineage=lineage(session, number),
                extra_files=version_figures(session.study, evaluation) | tree_files(session.study, state.weights),
            )
            require_weights(package, item.require_state().weights)
            release = Release(
                name=session.study.study,
                training=session.training,
                round=number,
                run_id=tracker.run_id,
                package=package,
                metrics=flat("validation", evaluation.metrics),
                tags=version_tags(session, number),
                evaluation_data=evaluation_data(session),
                description=f"Round {number} of {session.training}; sites: {', '.join(item.took_part)}.",
            )
            session.require_lead()
            version = registry.register(release)
        move_best(registry, version, metric=f"validation/{session.metric}", mode=session.mode)
        return version.version

    def _log_round(self, tracker: Tracker, item: RoundLedger, evaluation: Evaluation) -> None:
        """Record each site's own metrics, and what of the round is no version's."""
        number = item.plan.round
        for site, metrics in evaluation.site_metrics.items():
            if site in item.judged_before:  # it was at work; its metrics are on the version that they are of
                continue
            answer = item.received.get(site)
            training = {f"training/{name}_s": value for name, value in answer.seconds.items()} if answer else {}
            if answer and answer.update:
                training["training/loss"] = answer.update.loss_sum / answer.update.weight
            tracker.log_round(number, {**flat("validation", metrics), **training}, site=site)
        tracker.log_round(number, {"round/seconds": item.seconds, "round/sites": len(item.received)})


def flat(split: str, metrics: Mapping[str, Estimate]) -> dict[str, float]:
    """Return metrics, ends of their intervals and supports as MLflow has them: one number to a name."""
    numbers: dict[str, float] = {}
    for name, estimate in metrics.items():
        numbers[f"{split}/{name}"] = estimate.value
        numbers[f"{split}/{name}_low"], numbers[f"{split}/{name}_high"] = estimate.low, estimate.high
        numbers[f"{split}/{name}_support"] = estimate.support
    return numbers


def lineage(session: Session, number: int) -> dict[str, Any]:
    """Return where a version comes from, without clock times: the same round always has the same lineage."""
    item = session.ledger.rounds[number]
    previous = session.ledger.rounds.get(number - 1)
    return {
        "study": session.study.study,
        "study_digest": session.study.digest,
        "training": session.training,
        "round": number,
        "strategy": session.study.strategy.model_dump(mode="json"),
        "base_version": previous.version if previous else None,
        "base_digest": item.plan.base_digest,
        "roster": item.plan.roster,
        "took_part": item.took_part,
        "missing": item.missing,
        "late": {site: number - age for site, age in item.staleness.items() if age},
        "staleness": item.staleness,
        "judged_before": item.judged_before,
        "items": {site: _items(session, site) for site in item.plan.roster},
        "code_version": session.ledger.started.get("code_version", code_version()),
    }


def version_tags(session: Session, number: int) -> dict[str, str]:
    """Return a version's lineage as tags a person can read and search."""
    facts = lineage(session, number)
    plain = {
        key: value if isinstance(value, str) else json.dumps(value, sort_keys=True) for key, value in facts.items()
    }
    plain["base_version"] = str(facts["base_version"] or "initial weights")
    plain["strategy"] = facts["strategy"]["name"]
    plain["missing"] = "; ".join(f"{site}: {reason}" for site, reason in sorted(facts["missing"].items())) or "nobody"
    plain["roster"], plain["took_part"] = ", ".join(facts["roster"]), ", ".join(facts["took_part"])
    return {f"wardround.{key}": value for key, value in plain.items()}


def evaluation_data(session: Session) -> str:
    """Return the digest of the data the versions of a training are judged on."""
    found = {site: session.ledger.preparations[site].data_digest for site in session.sites}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def version_figures(study: Study, evaluation: Evaluation) -> dict[str, bytes]:
    """Draw what belongs to a version: ROC curve and calibration on the validation items, or a survival model's."""
    task = study.task.survival
    if task is not None:
        from components.evaluation.survival_risk_figures import horizon_figure  # of few studies

        return {"figures/calibration.png": horizon_figure(evaluation.by_site, evaluation.pooled, task)}
    return {
        "figures/roc.png": roc_figure(evaluation.by_site, evaluation.pooled),
        "figures/calibration.png": calibration_figure(evaluation.by_site, evaluation.pooled),
    }


def _items(session: Session, site: str) -> dict[str, int]:
    found = session.ledger.preparations[site].items
    return {"used": found.usable, "expected": found.expected} if found else {"used": 0, "expected": 0}


def open_recorder(study: Study, home: Path, coordinator: CoordinatorConfig | None = None) -> Recorder:
    """Open a training's recorder; see `Recorder`.

    Args:
        study: The study.
        home: Folder of everything recorded.
        coordinator: A federation's servers, where it trains at hospitals.
    """
    if coordinator is None:
        return Recorder(study, home, prefect_ui=users_prefect())
    interface, ours = coordinator.prefect_url.removesuffix("/").removesuffix("/api"), addresses(home)
    passing = ours is not None and ours.prefect == interface  # that of wardround up, whose port is another next time
    return Recorder(study, home, mlflow_url=coordinator.mlflow_url, prefect_ui="" if passing else interface)
