"""The commands for trainings of a federation by the clock, and for ending them: ``deploy`` and ``cancel``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import home as homes
from flows.options import FederationFolder, Home, Rounds, StudyFile, examples


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
    """Have a study trained at the hospitals by a schedule of Prefect's; run again, the schedule is changed.

    wardround coordinator serve carries it out; it is a part of wardround up and of the coordinator's compose file.
    """
    import asyncio

    from flows import api

    overrides: dict[str, Any] = {"rounds.max": rounds, "evaluate.compare": []}
    loaded = api.load(study, {name: value for name, value in overrides.items() if value is not None})
    chosen = _connect(folder, home)
    from flows import scheduled  # Prefect, once its settings are known

    if remove:
        gone = asyncio.run(scheduled.undeploy(loaded.study, chosen))
        typer.echo(f"{loaded.study} is {'off the schedule' if gone else 'not on any schedule'}")
        return
    if cron is None:
        raise typer.BadParameter('say when, for example --cron "0 2 * * 0"', param_hint="--cron")
    asyncio.run(scheduled.deploy(loaded, chosen, cron=cron, timezone=timezone))
    typer.echo(f"{loaded.study} is trained at {cron} ({timezone}); wardround deploy {study} --remove ends it")


def cancel(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="The study: its name or file.", show_default=False)],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the journal.")] = "by the operator",
    folder: FederationFolder = None,
    home: Home = None,
) -> None:
    """End a training for good: the hospitals stop at once, also where nobody drives it any more.

    What was registered stays. Ctrl-C instead stops a training so that the same command resumes it.
    """
    from flows import api
    from flows.cancellation import cancel_training

    name = api.load(Path(study)).study if Path(study).is_file() else study
    recorded = homes.open_home(home)
    chosen = folder or recorded / "federation"
    if (chosen / "coordinator.json").exists():
        _connect(folder, home)
        from flows.withdrawal import withdraw_training

        cancelled = cancel_training(recorded, name, reason, withdraw=withdraw_training(chosen))
    else:
        cancelled = cancel_training(recorded, name, reason, withdraw=lambda _: None)
    typer.echo(f"cancelled {cancelled.training}" + ("" if cancelled.driven else ", which nobody was driving"))


def serve(folder: FederationFolder = None, home: Home = None) -> None:
    """Carry out the trainings that are due by their schedules, until SIGTERM.

    A training that was under way when this ended is taken up again.
    """
    chosen = _connect(folder, home)
    from flows.coordinator_process import run_coordinator  # Prefect, once its settings are known

    run_coordinator(homes.open_home(home), chosen)


def _connect(folder: Path | None, home: Path | None) -> Path:
    """Turn Prefect's client to the coordinator's server; return the coordinator's folder."""
    from flows.coordinator import read_coordinator
    from flows.servers import check_reachable, prefect_environment

    chosen = (folder or homes.open_home(home) / "federation").absolute()
    url = read_coordinator(chosen).prefect_url
    check_reachable(url, name="Prefect")
    os.environ.update(prefect_environment(url, None, user=os.environ))
    return chosen
