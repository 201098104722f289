"""``wardround demo``: three synthetic hospitals on this machine, from their files to a champion."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from components.data.phantoms import write_demo_hospitals
from components.errors import StorageError
from flows import api
from flows.early import EarlyStart
from flows.home import DEFAULT, as_typed
from flows.results import print_results
from flows.run import TrainingOutcome

STUDIES = Path(__file__).resolve().parent.parent / "studies"
SEED = 2026


def run(console: Console, *, home: Path, fresh: bool, dispatcher: str, early: EarlyStart) -> None:
    """Write the hospitals' files, if they are not there, and train over them."""
    hospitals = home / "demo-hospitals"
    if not (hospitals / "README.txt").exists():
        console.print("Writing three hospitals' [bold]synthetic[/bold] images (DICOM, NIfTI, PNG with a CSV) ...")
        write_demo_hospitals(hospitals, seed=SEED)
    console.print(f"The data is synthetic: {escape(as_typed(hospitals))}", soft_wrap=True)
    study = STUDIES / "demo.yaml"
    if not study.exists():
        raise StorageError(f"the demo's study is not at {study}: run from a checkout, or install the wheel again")
    overrides = {
        "sites": [{"name": item.name, "path": str(item)} for item in sorted(hospitals.iterdir()) if item.is_dir()]
    }
    outcome = api.simulate(
        study, overrides=overrides, home=home, fresh=fresh, dispatcher=dispatcher, console=console, early=early
    )
    print_outcome(console, outcome)
    image = next(iter(sorted(hospitals.rglob("*.dcm"))), hospitals)
    console.print("\nWhat to try next:")
    option = "" if home == Path(DEFAULT).resolve() else f" --home {as_typed(home)}"
    for command, words in (
        ("wardround ui", "the rounds in Prefect, the versions in MLflow"),
        (f"wardround predict models:/{outcome.study.study}@champion {as_typed(image)}", "score a film"),
        (f"wardround simulate {as_typed(STUDIES / 'pneumonia.yaml')}", "real chest films, three virtual hospitals"),
    ):
        console.print(f"  {escape(command + option)}", soft_wrap=True)
        console.print(f"      [dim]# {words}[/dim]")


def print_outcome(console: Console, outcome: TrainingOutcome) -> None:
    """Print how a training ended and what its best model is worth."""
    result = outcome.result
    console.print()
    console.print(
        f"{outcome.training}: {result['reason']}; round {result['best_round']} is best, "
        f"[bold]{outcome.study.study} version {result['version']}[/bold]; champion is version {result['champion']} "
        f"({escape(result['champion_reason'])}).",
        soft_wrap=True,
    )
    console.print()
    print_results(console, outcome.study, outcome.tests, outcome.external)
    console.print(f"Report: {escape(as_typed(Path(result['report'])))}", soft_wrap=True)
