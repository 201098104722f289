"""The command line: ``wardround``. Each command is a few lines over `flows.api` and its neighbours."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from components.errors import WardRoundError
from flows import home as homes

# The commands import what they need themselves: `wardround --help` and `wardround check` answer at once,
# without waiting for torch, MLflow and Prefect.

app = typer.Typer(
    name="wardround",
    help="Federated learning for hospitals: the patients' data stays where it is, model weights travel.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
journal_app = typer.Typer(help="Read the coordinator's or a site's journal.", no_args_is_help=True)
app.add_typer(journal_app, name="journal")

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="The study, a YAML file.")]
Home = Annotated[
    Path | None, typer.Option("--home", help="Folder of everything recorded (default: WARDROUND_HOME, or .wardround).")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start anew instead of resuming an unfinished training.")]
DispatcherOption = Annotated[
    str, typer.Option("--dispatcher", help="How sites run: auto, in-process, or processes:N.", show_default=True)
]


@app.command()
def demo(home: Home = None, fresh: Fresh = False, dispatcher: DispatcherOption = "auto") -> None:
    """Run a complete federation of three synthetic hospitals on this machine."""
    from flows.early import early_start

    folder = homes.open_home(home)
    with early_start(folder, dispatcher) as early:
        from flows import demonstration

        demonstration.run(_console(), home=folder, fresh=fresh, dispatcher=dispatcher, early=early)


@app.command()
def simulate(
    study: StudyFile,
    sites: Annotated[int | None, typer.Option(help="Number of virtual sites.", metavar="N")] = None,
    partition: Annotated[
        str | None, typer.Option(help="iid, dirichlet:0.3, sizes:0.6,0.25,0.15 or column:NAME.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds at the most.", metavar="N")] = None,
    strategy: Annotated[str | None, typer.Option(help="Name of the strategy, for example FedProx.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.", metavar="N")] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare with local-only models and with the pooled model.")
    ] = False,
    home: Home = None,
    fresh: Fresh = False,
    dispatcher: DispatcherOption = "auto",
) -> None:
    """Run a study's federation on this machine. Ctrl-C stops cleanly; the same command resumes."""
    from flows.early import early_start

    overrides: dict[str, Any] = {
        "sites.count": sites,
        "sites.partition": partition,
        "rounds.max": rounds,
        "strategy.name": strategy,
        "seed": seed,
        "evaluate.compare": ["local", "pooled"] if compare else None,
    }
    given = {name: value for name, value in overrides.items() if value is not None}
    console, folder = _console(), homes.open_home(home)
    with early_start(folder, dispatcher) as early:
        from flows import api
        from flows.demonstration import print_outcome

        outcome = api.simulate(
            study, overrides=given, home=folder, fresh=fresh, dispatcher=dispatcher, console=console, early=early
        )
        print_outcome(console, outcome)


@app.command()
def check(study: StudyFile) -> None:
    """Check a study file, and do nothing else."""
    from flows import api

    checked = api.load(study)
    _console().print(
        f"[green]{escape(str(study))} is a sound study[/green]: {checked.study}, digest {checked.digest[:12]}"
    )


@app.command()
def schema() -> None:
    """Print the JSON Schema of study files, for editors."""
    import json

    from flows import api

    typer.echo(json.dumps(api.schema(), indent=2))


@app.command()
def ui(
    home: Home = None,
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect UI.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow UI.")] = 5000,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open both in the browser.")] = False,
) -> None:
    """Serve the MLflow UI and the Prefect UI over what has been run, until Ctrl-C."""
    from flows.servers import serve_ui

    serve_ui(homes.home_folder(home), prefect_port, mlflow_port, open_browser=browser, say=_console().print)


@app.command()
def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="For example models:/pneumonia@champion.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="DICOM, NIfTI, PNG or JPEG files.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the scores to this CSV file.")] = None,
    home: Home = None,
) -> None:
    """Score new files with a registered version and the preprocessing registered with it."""
    from flows.prediction import predict_files, print_scores

    console = _console()
    print_scores(console, predict_files(model, files, home=homes.home_folder(home)), output)


@journal_app.command("show")
def journal_show(
    journal: Annotated[str, typer.Argument(metavar="STUDY", help="Name of a study, or path of a journal.")],
    home: Home = None,
    full: Annotated[bool, typer.Option("--full", help="Print everything recorded with each event.")] = False,
) -> None:
    """Print a journal, one line for each event."""
    from flows.journals import show

    show(_console(), journal, homes.home_folder(home), full=full)


@journal_app.command("verify")
def journal_verify(
    journal: Annotated[str, typer.Argument(metavar="STUDY", help="Name of a study, or path of a journal.")],
    home: Home = None,
) -> None:
    """Check a journal's chain of hashes from the first line to the last."""
    from flows.journals import verify_journal

    verify_journal(_console(), journal, homes.home_folder(home))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; every error is one message and its exit code.

    Args:
        arguments: What follows the command's name; those of the process by default.

    Returns:
        Never: it exits the process with 0, with an error's own code, 130 after Ctrl-C, or 70 after an
        error of our own making, whose traceback is in a file that the message names.
    """
    _quiet_libraries()
    errors = Console(stderr=True, highlight=False)
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="wardround")
    except WardRoundError as error:
        label = "stopped" if error.exit_code == 130 else "error"
        errors.print(f"[bold red]{label}:[/bold red] {escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        errors.print("[bold red]stopped:[/bold red] nothing recorded is lost; the same command resumes")
        sys.exit(130)
    except Exception as error:
        path = _keep_traceback()
        errors.print(
            f"[bold red]internal error:[/bold red] {escape(type(error).__name__)}: {escape(str(error)[:300])}. "
            f"Nothing recorded is lost. Please report it with {escape(path)}",
            soft_wrap=True,
        )
        sys.exit(70)
    sys.exit(0)


def _console() -> Console:
    return Console(highlight=False)


def _quiet_libraries() -> None:
    """Keep the libraries' own chatter off the terminal; what matters is recorded or said by us."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")


def _keep_traceback() -> str:
    """Write the current traceback into the home folder, if that can be; return where it is."""
    path = homes.home_folder() / "internal-error.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(traceback.format_exc(), encoding="utf-8")
    except OSError:
        traceback.print_exc()
        return "the lines above"
    return str(path)


if __name__ == "__main__":
    main()
