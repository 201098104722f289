"""A folder with the tiny study in it, the command line run over it, and what it left, read without WardRound."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flows
from components.journal import Entry, read, verify
from tests.references.tiny_study import STUDY, write_films, write_study

ROOT = Path(flows.__file__).resolve().parent.parent
LIMIT_S = 280  # of one command: what takes 20 s alone may take minutes on a busy machine


@dataclass(frozen=True)
class Ward:
    """One study and its home."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, **changes: Any) -> "Ward":
        """Write films and study; changes as of `tests.references.tiny_study.sections`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_films(folder)
        write_study(folder, **changes)
        return cls(folder)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def mlflow_uri(self) -> str:
        return f"sqlite:///{self.home / 'mlflow.db'}"

    def start(self, *options: str, program: Path | None = None, **environment: str) -> "Command":
        """Start ``wardround simulate``, or a program in its place, with further options and environment variables."""
        ours = ("WARDROUND_", "PREFECT_", "MLFLOW_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        path = os.pathsep.join(filter(None, [environment.pop("PYTHONPATH", ""), str(ROOT)]))
        started = [str(program)] if program else ["-m", "flows.cli"]
        output = self.folder / "output.txt"
        with output.open("wb") as stdout, (self.folder / "errors.txt").open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, *started, "simulate", str(self.folder / "tiny.yaml"), *options],
                stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, cwd=self.folder,
                env={
                    **inherited, "PYTHONPATH": path, "WARDROUND_HOME": str(self.home),
                    "WARDROUND_DATA": str(self.folder), "OMP_NUM_THREADS": "1", "COLUMNS": "120", **environment,
                },
            )  # fmt: skip
        return Command(self, process)

    def run(self, *options: str, status: int = 0, program: Path | None = None, **environment: str) -> str:
        """Run it to its end; return what it wrote to standard error."""
        command = self.start(*options, program=program, **environment)
        assert command.wait() == status, command.words()
        return command.errors()

    def journal(self) -> tuple[Entry, ...]:
        """What the coordinator's journal holds now."""
        path = self.home / "trainings" / STUDY / "journal.jsonl"
        return read(path) if path.exists() else ()

    def events(self, event: str, **match: Any) -> list[Entry]:
        return [entry for entry in self.journal() if entry.event == event and match.items() <= entry.data.items()]

    def digests(self) -> dict[int, str]:
        """The global weights' digest after each round of the last training."""
        training = self.events("training_started")[-1].data["training"]
        return {e.data["round"]: e.data["state"]["weights"] for e in self.events("aggregated", training=training)}

    def site_folders(self) -> list[Path]:
        return sorted((self.home / "sites" / STUDY).iterdir())

    def verify_journals(self) -> None:
        """Check every chain of hashes, the coordinator's and the sites'."""
        sites = [folder / "journal.jsonl" for folder in self.site_folders()]
        for path in [self.home / "trainings" / STUDY / "journal.jsonl", *sites]:
            assert verify(path).entries > 0

    def processes(self) -> dict[int, str]:
        """Processes that were started for this home and run still, by number, with their command."""
        return dict(_processes_of(f"WARDROUND_HOME={self.home}".encode()))

    def recorded_twice(self) -> list[tuple[Any, ...]]:
        """Metrics that MLflow's database holds more than once for one step."""
        points = {"metrics": "run_uuid, key, step", "logged_model_metrics": "model_id, metric_name, metric_step"}
        with closing(sqlite3.connect(self.home / "mlflow.db")) as database:
            return [
                row
                for table, point in points.items()
                for row in database.execute(f"select {point} from {table} group by {point} having count(*) > 1")
            ]


@dataclass(frozen=True)
class Command:
    """A command that runs, or ran."""

    ward: Ward
    process: "subprocess.Popen[bytes]"

    def wait(self, limit_s: float = LIMIT_S) -> int:
        """Wait for its end and return its exit status; it does not outlive its limit."""
        try:
            return self.process.wait(limit_s)
        finally:
            self.process.kill()
            self.process.wait()

    def wait_for(self, event: str, **match: Any) -> None:
        """Wait until the coordinator's journal has an event."""
        assert wait_until(lambda: bool(self.ward.events(event, **match)) or self.process.poll() is not None), (
            self.words()
        )
        assert self.ward.events(event, **match), self.words()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def output(self) -> str:
        return (self.ward.folder / "output.txt").read_text()

    def errors(self) -> str:
        return (self.ward.folder / "errors.txt").read_text()

    def words(self) -> str:
        """All it said, and the traceback it may have kept."""
        kept = self.ward.home / "internal-error.log"
        return "\n".join([self.output()[-2000:], self.errors()[-4000:], kept.read_text() if kept.exists() else ""])


def wait_until(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> bool:
    """Ask until it is so; False if that takes too long."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def trained_to_the_end(site_folder: Path) -> Counter[tuple[str, int]]:
    """How often a site trained to the end, by training and round."""
    done = (
        e for e in read(site_folder / "journal.jsonl") if e.event == "train_answered" and e.data["status"] == "done"
    )
    return Counter((entry.data["training"], entry.data["round"]) for entry in done)


@contextmanager
def running(command: Command) -> Iterator[Command]:
    """A command that is killed at the end, whatever happens."""
    try:
        yield command
    finally:
        command.process.kill()
        command.process.wait()


def _processes_of(variable: bytes) -> Iterator[tuple[int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if variable in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it ended meanwhile, or is somebody else's
            continue
