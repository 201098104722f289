"""The command line: ``wardround``. Each command is a few lines over `flows.api` and its neighbours."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from components.errors import StorageError, WardRoundError
from components.files import storage_errors
from flows import analysis_cli, backup_cli, federation_cli, records_cli, training_cli
from flows import home as homes
from flows.hospital_cli import hospital_app
from flows.options import Fresh, Home, Rounds, StudyFile, examples, unwrap

if TYPE_CHECKING:
    from components.analytics.plan import AnalysisStudy
    from components.study import Study

# The commands import what they need themselves: `wardround --help` and `wardround check` answer at once,
# without waiting for torch, MLflow and Prefect.

INTERRUPTED, INTERNAL = 130, 70  # exit codes: as of a shell's Ctrl-C, and EX_SOFTWARE of sysexits.h
_RESUMES = "nothing recorded is lost; the same command resumes"
_DISK_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EFBIG,
    errno.EIO,
    errno.EMFILE,
)


def _say_version(asked: bool) -> None:
    """Print the version and end."""
    if asked:
        from flows.version import code_version

        typer.echo(f"wardround {code_version()}")
        raise typer.Exit


app = typer.Typer(
    name="wardround",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog=examples(
        "wardround demo",
        "wardround simulate studies/pneumonia.yaml --rounds 3",
        "wardround predict models:/pneumonia@champion film.dcm",
        "wardround COMMAND --help",
    ),
)
journal_app = typer.Typer(help="Read the coordinator's or a site's journal.", no_args_is_help=True)
app.add_typer(journal_app, name="journal")
app.add_typer(hospital_app, name="hospital")

DispatcherOption = Annotated[
    str, typer.Option("--dispatcher", metavar="KIND", help="How sites run: auto, in-process, or processes:N.")
]
JournalOf = Annotated[str, typer.Argument(metavar="STUDY", help="Name of a study, or path of a journal.")]


@app.callback()
def wardround(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Federated learning for hospitals: the patients' data stays where it is, model weights travel."""


@app.command(epilog=examples("wardround demo", "wardround demo --home /tmp/ward --fresh"))
def demo(home: Home = None, fresh: Fresh = False, dispatcher: DispatcherOption = "auto") -> None:
    """Run a complete federation of three synthetic hospitals on this machine.

    It writes their images first (DICOM, NIfTI, PNG with a CSV) and trains until the global model has converged.
    """
    from flows.early import early_start

    folder = homes.open_home(home)
    with early_start(folder, dispatcher) as early:
        from flows import demonstration

        demonstration.run(_console(), home=folder, fresh=fresh, dispatcher=dispatcher, early=early)


@app.command(
    epilog=examples(
        "wardround simulate studies/pneumonia.yaml",
        "wardround simulate studies/pneumonia.yaml --rounds 3 --compare",
        "wardround simulate studies/trial.yaml",
        "wardround simulate STUDY --sites 5 --partition dirichlet:0.3 --strategy FedProx",
    )
)
def simulate(
    study: StudyFile,
    sites: Annotated[int | None, typer.Option(help="Number of virtual sites.", metavar="N")] = None,
    partition: Annotated[
        str | None,
        typer.Option(metavar="HOW", help="iid, dirichlet:0.3, sizes:0.6,0.25,0.15 or column:NAME."),
    ] = None,
    rounds: Rounds = None,
    strategy: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="FedAvg, FedProx, FedBN, FedPer, FedAvgM, FedAdagrad, FedAdam or FedYogi."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.", metavar="N")] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare with local-only models and with the pooled model.")
    ] = False,
    home: Home = None,
    fresh: Fresh = False,
    dispatcher: DispatcherOption = "auto",
) -> None:
    """Run a study's federation on this machine: train, or analyse, as the study says.

    Options override what the study says. Ctrl-C stops cleanly; the same command resumes.
    """
    from components.study_file import is_analysis
    from components.yaml_lines import read_yaml
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
    analyses = is_analysis(read_yaml(study))  # a file that is not there is told before anything is started
    console, folder = _console(), homes.open_home(home)
    if analyses:
        with early_start(folder, "in-process") as early:
            analysis_cli.simulate_analysis(study, given, folder=folder, fresh=fresh, early=early)
        return
    with early_start(folder, dispatcher) as early:
        from flows import api
        from flows.demonstration import print_outcome

        outcome = api.simulate(
            study, overrides=given, home=folder, fresh=fresh, dispatcher=dispatcher, console=console, early=early
        )
        print_outcome(console, outcome)


@app.command(epilog=examples("wardround check studies/pneumonia.yaml"))
def check(study: StudyFile) -> None:
    """Check a study file, and do nothing else.

    Every mistake is named with its line, its field, what was given and what is allowed; then what it needs and is not
    on this machine.
    """
    from components.study_file import is_analysis, load_analysis
    from components.yaml_lines import read_yaml

    folder, console = study.resolve().parent, _console()
    checked: Study | AnalysisStudy
    if is_analysis(read_yaml(study)):
        from components.analytics.sources import absent_tables

        checked = load_analysis(study)
        absent = absent_tables(checked, folder)
    else:
        from components.data.absent import absent_data
        from flows import api

        checked = api.load(study)
        absent = absent_data(checked, folder)
    console.print(
        f"[green]{escape(str(study))} is a sound study[/green]: {checked.study}, digest {checked.digest[:12]}",
        soft_wrap=True,
    )
    if absent:
        console.print(f"[yellow]on this machine it lacks[/yellow] {escape(absent)}", soft_wrap=True)


@app.command(epilog=examples("wardround schema > study.schema.json"))
def schema(
    analysis: Annotated[bool, typer.Option("--analysis", help="Of studies that analyse instead of training.")] = False,
) -> None:
    """Print the JSON Schema of study files, for editors."""
    import json

    from components.study_file import analysis_schema, study_schema

    typer.echo(json.dumps(analysis_schema() if analysis else study_schema(), indent=2))


@app.command(epilog=examples("wardround ui --open", "wardround ui --mlflow-port 5001"))
def ui(
    home: Home = None,
    prefect_port: Annotated[
        int, typer.Option(metavar="PORT", help="Port of the Prefect UI; 0 is any free one.")
    ] = 4200,
    mlflow_port: Annotated[int, typer.Option(metavar="PORT", help="Port of the MLflow UI; 0 is any free one.")] = 5000,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open both in the browser.")] = False,
) -> None:
    """Serve the MLflow UI and the Prefect UI over what has been run, until Ctrl-C."""
    from flows.servers import serve_ui

    serve_ui(homes.home_folder(home), prefect_port, mlflow_port, open_browser=browser, say=typer.echo)


@app.command(
    epilog=examples(
        "wardround predict models:/pneumonia@champion film.dcm other.png",
        "wardround predict models:/pneumonia/7 films/*.dcm --output scores.csv",
        "wardround predict models:/pneumonia@champion film.dcm --site site-1",
        "wardround predict models:/heart@champion patients.csv -o scores.csv",
    )
)
def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="For example models:/pneumonia@champion.")],
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES", help="DICOM, NIfTI, PNG or JPEG files; a folder is one series. CSV or Parquet tables."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the scores to this CSV file.")
    ] = None,
    site: Annotated[
        str,
        typer.Option(metavar="NAME", help="Score as this site's own model (FedBN, FedPer): with the layers it kept."),
    ] = "",
    hospital: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The same at a hospital: its own folder, where its layers are."),
    ] = None,
    home: Home = None,
) -> None:
    """Score new files with a registered version and the preprocessing registered with it."""
    from flows.output import require_apart

    if output is not None:
        require_apart(output, files)
    from flows.prediction import predict_files
    from flows.score_table import print_scores

    console = _console()
    print_scores(
        console, predict_files(model, files, home=homes.home_folder(home), site=site, hospital=hospital), output
    )


@journal_app.command("show", epilog=examples("wardround journal show pneumonia --full"))
def journal_show(
    journal: JournalOf,
    home: Home = None,
    full: Annotated[bool, typer.Option("--full", help="Print everything recorded with each event.")] = False,
) -> None:
    """Print a journal, one line for each event."""
    from flows.journals import show

    show(_console(), journal, homes.home_folder(home), full=full)


@journal_app.command("verify", epilog=examples("wardround journal verify .wardround/sites/pneumonia/site-1"))
def journal_verify(
    journal: JournalOf,
    home: Home = None,
) -> None:
    """Check a journal's chain of hashes from the first line to the last."""
    from flows.journals import verify_journal

    verify_journal(_console(), journal, homes.home_folder(home))


federation_cli.add_to(app)
training_cli.add_to(app, federation_cli.coordinator_app)
analysis_cli.add_to(app)
records_cli.add_to(app)
backup_cli.add_to(federation_cli.coordinator_app)
unwrap(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; every error is one message and its exit code.

    Args:
        arguments: What follows the command's name; those of the process by default.

    Returns:
        Never: it exits the process with 0, with an error's own code, 130 after Ctrl-C, or 70 after an
        error of our own making, whose traceback is in a file that the message names.
    """
    _quiet_libraries()
    gc.set_threshold(100_000, 20, 50)  # imports make objects by the million and hardly any garbage
    atexit.register(gc.freeze)  # the interpreter would end by collecting all of them: a second for nothing
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="wardround")
    except WardRoundError as error:
        _end("stopped" if error.exit_code == INTERRUPTED else "error", str(error), error.exit_code)
    except (KeyboardInterrupt, SystemExit) as end:  # Typer makes an exit of Ctrl-C, without a word
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:
            raise
        _end("stopped", _RESUMES, INTERRUPTED)
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # a library wrapped it, wherever it arrived
            _end("stopped", _RESUMES, INTERRUPTED)
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            _end("error", _disk_message(error), StorageError.exit_code)
        _end(
            "internal error",
            f"{type(error).__name__}: {str(error)[:300]}. Nothing recorded is lost. Please report it with "
            + _keep_traceback(),
            INTERNAL,
        )
    sys.exit(0)


def _end(label: str, message: str, code: int) -> NoReturn:
    """Say why the command ends, in one message, and end it."""
    Console(stderr=True, highlight=False).print(f"[bold red]{label}:[/bold red] {escape(message)}", soft_wrap=True)
    sys.exit(code)


def _disk_message(error: OSError) -> str:
    """Say what the operating system refused, and what helps."""
    try:
        with storage_errors("use", Path(error.filename or homes.home_folder())):
            raise error
    except StorageError as found:
        return str(found)


def _console() -> Console:
    return Console(highlight=False)


def _quiet_libraries() -> None:
    """Keep the libraries' own chatter off the terminal; what matters is recorded or said by us."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")


def _keep_traceback() -> str:
    """Write the current traceback into the home folder, or where that cannot be, into a temporary file."""
    for path in (
        homes.home_folder() / "internal-error.log",
        Path(tempfile.gettempdir()) / f"wardround-{os.getpid()}.log",
    ):
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(traceback.format_exc(), encoding="utf-8")
            return str(path)
    return "what you did (no disk took the traceback)"


if __name__ == "__main__":
    main()
