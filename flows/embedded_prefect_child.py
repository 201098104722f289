"""The process of the embedded Prefect server: ``python -m flows.embedded_prefect_child``.

Two things are changed against ``prefect server start``, where the database is a SQLite file:

- **Every transaction begins as a writer.** Prefect begins most of its SQLite transactions as readers and
  lets them become writers later; if another connection has written in between, SQLite refuses at once
  ("database is locked"), the server answers 503, and the client waits 2 s before it tries again: 2 s for
  every subflow. A transaction that begins as a writer waits its turn instead, for milliseconds.
- **A commit is on disk when it is acknowledged** (``synchronous=FULL``); Prefect's ``NORMAL`` may lose the
  last commits at a power cut.

The imports are most of the start (about 3 s): models are completed on first use (`defer_build`), and
garbage is not collected meanwhile.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

from flows.database_templates import copy_database, keep_template, prefect_edition, seed_database
from flows.embedded_child import begin, serve


def main(arguments: list[str]) -> None:
    """Serve until the last user is gone or SIGTERM arrives."""
    listener, folder = begin(arguments)
    sqlite = len(arguments) == 3
    if sqlite:
        bring_up_to_date(folder / "prefect.db")
    else:
        bring_server_up_to_date(Path(arguments[3]))
    _complete_models_on_first_use()
    # Heavy, and after the watch for the parent's end has begun.
    from flows.prefect_database import use_writing_transactions, written

    if sqlite:
        use_writing_transactions()
    from prefect.server.api.server import create_app

    serve(create_app(), listener, written)


def bring_up_to_date(database: Path) -> None:
    """Make the database if there is none, or migrate it if another edition of Prefect wrote it.

    The edition is written beside it, so that a start of the same edition (nearly all) need not even look.
    """
    edition = prefect_edition()
    written_by = database.with_name("edition")
    if database.exists():
        if not written_by.exists() or written_by.read_text() != edition:
            _migrate(database)
    elif not seed_database(database, edition):
        draft = database.with_name(".prefect.db.new")
        draft.unlink(missing_ok=True)
        _migrate(draft)
        keep_template(draft, edition)
        copy_database(draft, database)
        draft.unlink()
    written_by.write_text(edition)


def bring_server_up_to_date(written_by: Path) -> None:
    """Make or migrate the tables of the PostgreSQL database in the environment.

    Args:
        written_by: File beside the database's data, which says the edition that made its tables.
    """
    edition = prefect_edition()
    if not written_by.exists() or written_by.read_text() != edition:
        _run_migrations(os.environ)
        written_by.write_text(edition)


def _migrate(database: Path) -> None:
    """Make or migrate a SQLite file."""
    _run_migrations({**os.environ, "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}"})


def _run_migrations(variables: Mapping[str, str]) -> None:
    """Migrate in a process of its own: Prefect in this one is bound to the database that it will serve."""
    command = [sys.executable, "-P", "-m", "flows.prefect_database"]
    subprocess.run(command, env=variables, check=True)  # noqa: S603 - our own module, no shell


def _complete_models_on_first_use() -> None:
    """Let pydantic build a model's validator when it is first needed; most of Prefect's never are."""
    import pydantic

    pydantic.BaseModel.model_config["defer_build"] = True
    # FastAPI silences this where it builds validators; deferred, they are built outside its reach.
    warnings.filterwarnings("ignore", category=pydantic.warnings.UnsupportedFieldAttributeWarning)


if __name__ == "__main__":
    main(sys.argv[1:])
