"""The commands of a federation's operator: ``up``, ``down``, ``train``, ``status`` and ``coordinator``."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flows import home as homes
from flows.options import FederationFolder, Fresh, Home, Rounds, StudyFile, examples

if TYPE_CHECKING:
    from components.gateway.sites import Site
    from flows.coordinator import CoordinatorSide

FOLLOW_EVERY_S = 1.0
coordinator_app = typer.Typer(
    help="Who belongs to a federation: invite hospitals, shut them out.", no_args_is_help=True
)

Hospital = Annotated[str, typer.Argument(metavar="NAME", help="Name of the hospital.", show_default=False)]


class DatabaseKind(StrEnum):
    """Where the servers of a federation on this machine record."""

    auto = "auto"
    postgresql = "postgresql"
    sqlite = "sqlite"


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command, example in (
        (up, ("wardround up studies/pneumonia.yaml", "wardround up studies/pneumonia.yaml studies/trial.yaml")),
        (down, ("wardround down",)),
        (train, ("wardround train studies/pneumonia.yaml --rounds 3",)),
        (status, ("wardround status",)),
    ):
        app.command(epilog=examples(*example))(command)
    app.add_typer(coordinator_app, name="coordinator")


def up(
    studies: Annotated[
        list[Path], typer.Argument(metavar="STUDY...", help="The studies, YAML files.", show_default=False)
    ],
    database: Annotated[
        DatabaseKind,
        typer.Option(help="Where the servers record: auto is PostgreSQL where it is installed, else SQLite."),
    ] = DatabaseKind.auto,
    home: Home = None,
) -> None:
    """Start a real federation on this machine, one hospital process for each site of the studies.

    The hospitals of earlier studies come up again, too; in a study that does not name its sites, those that have no
    data for it take no part. The database, Prefect, MLflow, the gateway with TLS and the hospitals run as processes
    until wardround down.
    """
    from components.study_file import is_analysis
    from components.yaml_lines import read_yaml
    from flows import local_federation
    from flows.local_hospitals import analysis_hospitals, training_hospitals
    from flows.local_record import addresses
    from flows.servers import INTERFACES, page_of

    folder = homes.open_home(home)
    local_federation.require_down(folder)
    analyses = {study: is_analysis(read_yaml(study)) for study in studies}
    hospitals = [
        hospital
        for study in studies
        for hospital in (analysis_hospitals(study, folder) if analyses[study] else training_hospitals(study))
    ]
    typer.echo(f"database: {local_federation.choose_database(folder, database.value)}")
    local_federation.write_hospitals(folder, hospitals)
    local_federation.start(folder)
    console = Console(highlight=False)
    for name, sites in local_federation.studies_of_hospitals(folder).items():
        console.print(f"up: {', '.join(sites)}, with data for {name}", soft_wrap=True)
    found = addresses(folder)
    for name, url in (("MLflow", found.mlflow), ("Prefect", found.prefect)) if found else ():
        console.print(f"  {INTERFACES[name]}  {page_of(name, url)}", soft_wrap=True)
    trained = [f"wardround {'analyse' if analyses[study] else 'train'} {study}" for study in studies]
    for command in (*trained, "wardround status", "wardround ui", "wardround down"):
        console.print(f"  {command}", soft_wrap=True)


def down(home: Home = None) -> None:
    """End the federation of this machine, and every process of it."""
    from flows import local_federation

    ended = local_federation.stop(homes.home_folder(home))
    typer.echo("down" if ended else "nothing was up")


def train(
    study: StudyFile,
    rounds: Rounds = None,
    fresh: Fresh = False,
    folder: FederationFolder = None,
    home: Home = None,
) -> None:
    """Train a study at the hospitals of the federation.

    Ctrl-C stops cleanly; the same command resumes. What needs all data in one place (evaluate.compare) is left out.
    """
    from components.study import watched
    from flows import api
    from flows.demonstration import print_outcome
    from flows.federate import run_federated
    from flows.progress import LiveWatcher

    overrides: dict[str, Any] = {"rounds.max": rounds, "evaluate.compare": []}
    loaded = api.load(study, {name: value for name, value in overrides.items() if value is not None})
    recorded, console = homes.open_home(home), Console(highlight=False)
    with LiveWatcher(console, title=loaded.study, rounds=loaded.rounds.max, metric=watched(loaded)) as watcher:
        outcome = run_federated(
            loaded, folder=folder or recorded / "federation", home=recorded, fresh=fresh, watcher=watcher
        )
    print_outcome(console, outcome)


def status(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on showing it, until Ctrl-C.")] = False,
    folder: FederationFolder = None,
    home: Home = None,
) -> None:
    """Show the hospitals of the federation, and the trainings and analyses that are under way.

    Of each hospital: since when it was not heard of, what it does, whether its doctor has passed, what it runs.
    """
    from flows.coordinator import open_side

    side, recorded = open_side(folder or homes.home_folder(home) / "federation"), homes.home_folder(home)
    console = Console(highlight=False)
    if not follow:
        console.print(_shown(side, recorded))
        return
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(_shown(side, recorded), refresh=True)
            time.sleep(FOLLOW_EVERY_S)


@coordinator_app.command(epilog=examples("wardround coordinator init --federation chest --name gateway.example.org"))
def init(
    federation: Annotated[str, typer.Option(metavar="NAME", help="Identifier of the federation.", show_default=False)],
    name: Annotated[
        list[str], typer.Option(metavar="HOST", help="Name or address hospitals reach it by.", show_default=False)
    ],
    port: Annotated[int, typer.Option(metavar="PORT", help="Where hospitals reach it.")] = 8443,
    image: Annotated[str, typer.Option(metavar="IMAGE", help="WardRound's image.")] = "wardround",
    compose: Annotated[
        bool, typer.Option("--compose/--no-compose", help="For Docker, or for servers that you run yourself.")
    ] = True,
    prefect_url: Annotated[str | None, typer.Option(metavar="URL", help="Your Prefect's API, inside.")] = None,
    mlflow_url: Annotated[str | None, typer.Option(metavar="URL", help="Your MLflow server, inside.")] = None,
    database: Annotated[
        str | None, typer.Option(metavar="URL", help="Database of your gateway (default: a file in the folder).")
    ] = None,
    folder: FederationFolder = None,
    home: Home = None,
) -> None:
    """Make a coordinator's folder: authority, certificates, keys, passwords, and what docker compose starts.

    Run again, it keeps the keys and writes the settings anew.
    """
    from flows import compose as docker
    from flows import coordinator

    chosen = (folder or homes.home_folder(home) / "federation").absolute()
    given = {"--prefect-url": prefect_url, "--mlflow-url": mlflow_url, "--database": database}
    if compose:
        own = [option for option, value in given.items() if value is not None]
        if own:
            raise typer.BadParameter(f"{', '.join(own)}: the compose file brings these; add --no-compose for your own")
        docker.write_deployment(chosen, docker.Deployment(federation, name, port, image))
        typer.echo(f"made {chosen}; start it there:  docker compose up -d")
        return
    chosen.mkdir(parents=True, exist_ok=True)
    config = coordinator.CoordinatorConfig(
        federation=federation,
        address=f"https://{name[0]}:{port}",
        database=database or f"sqlite:///{chosen / 'gateway.db'}",
        prefect_url=prefect_url or "http://127.0.0.1:4200/api",
        mlflow_url=mlflow_url or "",
    )
    coordinator.init_coordinator(chosen, config, names=name, port=port)
    typer.echo(f"made {chosen}; start the gateway:  python -m components.gateway.serve {chosen / 'gateway.json'}")


@coordinator_app.command(epilog=examples("wardround coordinator invite north"))
def invite(name: Hospital, folder: FederationFolder = None, home: Home = None) -> None:
    """Print a token with which a hospital enrols, once."""
    from flows import coordinator

    typer.echo(coordinator.invite(folder or homes.home_folder(home) / "federation", name))


@coordinator_app.command(epilog=examples("wardround coordinator revoke north"))
def revoke(name: Hospital, folder: FederationFolder = None, home: Home = None) -> None:
    """Shut a hospital out at once: its credential, its tokens and its open slots end."""
    from components.errors import RefusedError
    from flows.coordinator import open_side

    side = open_side(folder or homes.home_folder(home) / "federation")
    if side.sites.get(name) is None:
        raise RefusedError(f"there is no hospital {name}; wardround status lists them")
    side.sites.revoke(name)
    typer.echo(f"{name} is revoked")


def _shown(side: CoordinatorSide, home: Path) -> Group:
    """Return hospitals and trainings as they are now."""
    from flows.live import live_analyses, live_trainings

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("hospital", "status", "last heard of", "doing", "examined", "credential until", "version"):
        table.add_column(name)
    for site in side.sites.list():
        table.add_row(*_row(site, time.time()))
    said = [training.line() for training in live_trainings(home)]
    lines = [Text(line) for line in said + [analysis.line() for analysis in live_analyses(home)]]
    hospitals = table if table.row_count else Text("no hospital yet: wardround coordinator invite NAME")
    return Group(hospitals, *([Text(""), *lines] if lines else []))


def _row(site: Site, now: float) -> tuple[str, ...]:
    """Return a site as a row of the table."""
    heard = f"{now - site.last_seen:.0f} s ago" if site.last_seen else "never"
    from flows.activity import describe_activity

    doing = describe_activity(site.activity)
    examined = f"{'passed' if (site.doctor or {}).get('passed') else 'failed'} {_day(site.doctor_at)}"
    return (site.name, site.status, heard, doing, examined if site.doctor_at else "not yet",
            _day(site.not_after), _version(site))  # fmt: skip


def _version(site: Site) -> str:
    """Return what a site runs, and what helps where this coordinator does not understand it."""
    from components.exchange.protocol import speaks_otherwise
    from components.gateway.records import own_version

    return speaks_otherwise(site.protocol, site.version, own=own_version()) or site.version or ""


def _day(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M") if seconds else ""
