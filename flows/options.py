"""What the commands of `wardround` have in common: arguments and options, each with one help text."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Annotated

import typer

from flows import home as homes


def examples(*lines: str) -> str:
    """Return examples as the end of a help text; an empty line keeps each on a line of its own."""
    return "\n\n".join(["[bold]Examples[/bold]", *lines])


def unwrap(app: typer.Typer) -> None:
    """Have the help texts of all commands as paragraphs: Typer keeps line ends of docstrings but in the first."""
    for command in app.registered_commands:
        text = inspect.getdoc(command.callback) or ""
        command.help = "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
    for group in app.registered_groups:
        if group.typer_instance is not None:
            unwrap(group.typer_instance)


def _use_home(given: Path | None) -> Path | None:
    """Let everything this command starts record in the same folder."""
    if given is not None:
        os.environ["WARDROUND_HOME"] = str(homes.home_folder(given))
    return given


StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="The study, a YAML file.", show_default=False)]
Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="FOLDER",
        callback=_use_home,
        help="Folder of everything recorded (default: WARDROUND_HOME, or .wardround).",
    ),
]
FederationFolder = Annotated[
    Path | None,
    typer.Option("--folder", metavar="FOLDER", help="The coordinator's folder (default: that of wardround up)."),
]
Rounds = Annotated[int | None, typer.Option(help="Rounds at the most.", metavar="N")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start anew instead of resuming an unfinished training.")]
