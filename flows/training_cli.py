"""The commands for what a federation does by the clock, and for ending it: ``deploy`` and ``cancel``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows import home as homes
from flows.options import FederationFolder, Home, Rounds, StudyFile, examples

if TYPE_CHECKING:
    from components.analytics.plan import AnalysisStudy
    from components.study import Study


def add_to(app: typer.Typer, coordinator: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(epilog=examples('wardround deploy studies/pneumonia.yaml --cron "0 2 * * 0"'))(deploy)
    app.command(epilog=examples("wardround cancel pneumonia"))(cancel)
    coordinator.command(epilog=examples("wardround coordinator serve"))(serve)


def deploy(
    study: StudyFile,
    cron: Annotated[
        str | None,
        typer.Option(metavar="CRON", help='When: minute, hour, day, month, weekday; "0 2 * * 0" is Sundays at two.'),
    ] = None,
    timezone: Annotated[str, typer.Option(metavar="ZONE", help="Whose clock, for example Europe/Berlin.")] = "UTC",
    remove: Annotated[bool, typer.Option("--remove", help="Take the study from the schedule.")] = False,
    rounds: Rounds = None,
    folder: FederationFolder = None,
    home: Home = None,
) -> None:
    """Have a study trained, or analysed, at the hospitals by a schedule of Prefect's; run again, it is changed.

    wardround coordinator serve carries it out; it is a part of wardround up and of the coordinator's compose file.
    """
    import asyncio

    loaded, verb = _deployable(study, rounds)
    chosen = _connect(folder, home)
    from flows import scheduled  # Prefect, once its settings are known

    if remove:
        gone = asyncio.run(scheduled.undeploy(loaded.study, chosen))
        typer.echo(f"{loaded.study} is {'off the schedule' if gone else 'not on any schedule'}")
        return
    if cron is None:
        raise typer.BadParameter('say when, for example --cron "0 2 * * 0"', param_hint="--cron")
    asyncio.run(scheduled.deploy(loaded, chosen, cron=cron, timezone=timezone))
    typer.echo(f"{loaded.study} is {verb} at {cron} ({timezone}); wardround deploy {study} --remove ends it")


def cancel(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="The study: its name or file.", show_default=False)],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the journal.")] = "by the operator",
    folder: FederationFolder = None,
    home: Home = None,
) -> None:
    """End a training or an analysis for good: the hospitals stop at once, also where nobody drives it any more.

    What was registered stays, and rounds that are done are registered first if it is driven. Ctrl-C instead stops it so
    that the same command resumes it.
    """
    from flows.cancellation import cancel_study

    name = _named(Path(study)) if Path(study).is_file() else study
    recorded = homes.open_home(home)
    chosen = folder or recorded / "federation"
    if (chosen / "coordinator.json").exists():
        _connect(folder, home)
        from flows.withdrawal import withdraw_training

        cancelled = cancel_study(recorded, name, reason, withdraw=withdraw_training(chosen))
    else:
        cancelled = cancel_study(recorded, name, reason, withdraw=lambda _: None)
    typer.echo(f"cancelled {cancelled.name}" + ("" if cancelled.driven else ", which nobody was driving"))


def serve(folder: FederationFolder = None, home: Home = None) -> None:
    """Carry out the trainings and analyses that are due by their schedules, until SIGTERM.

    What was under way when this ended is taken up again.
    """
    chosen = _connect(folder, home)
    from flows.coordinator_process import run_coordinator  # Prefect, once its settings are known

    run_coordinator(homes.open_home(home), chosen)


def _deployable(study: Path, rounds: int | None) -> tuple[Study | AnalysisStudy, str]:
    """Return a study as it is deployed, and what is done with it, in a word."""
    from components.study_file import is_analysis, load_analysis
    from components.yaml_lines import read_yaml
    from flows import api

    if is_analysis(read_yaml(study)):
        if rounds is not None:
            raise typer.BadParameter("an analysis has no rounds", param_hint="--rounds")
        return load_analysis(study), "analysed"
    overrides: dict[str, Any] = {"rounds.max": rounds, "evaluate.compare": []}
    return api.load(study, {name: value for name, value in overrides.items() if value is not None}), "trained"


def _named(study: Path) -> str:
    """Return the name of a study, of whichever kind."""
    return _deployable(study, None)[0].study


def _connect(folder: Path | None, home: Path | None) -> Path:
    """Turn Prefect's client to the coordinator's server; return the coordinator's folder."""
    from flows.coordinator import read_coordinator
    from flows.servers import check_reachable, prefect_environment

    chosen = (folder or homes.open_home(home) / "federation").absolute()
    url = read_coordinator(chosen).prefect_url
    check_reachable(url, name="Prefect")
    os.environ.update(prefect_environment(url, None, user=os.environ))
    return chosen
