"""The process of the embedded Prefect server: ``python -m flows.embedded_prefect_child``.

Two things are changed against ``prefect server start``:

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
from pathlib import Path

from flows.database_templates import copy_database, keep_template, seed_database
from flows.embedded_child import begin, serve


def main(arguments: list[str]) -> None:
    """Serve until the last user is gone or SIGTERM arrives."""
    listener, folder = begin(arguments)
    database = folder / "prefect.db"
    fresh = not database.exists()
    if fresh and not seed_database(database, "prefect"):
        _create(database)
    # A database of this very version needs no look at its migrations (0.2 s).
    os.environ["PREFECT_SERVER_DATABASE_MIGRATE_ON_START"] = str(not fresh).lower()
    _complete_models_on_first_use()
    # Heavy, and after the watch for the parent's end has begun.
    from flows.prefect_database import use_writing_transactions, written

    use_writing_transactions()
    from prefect.server.api.server import create_app

    serve(create_app(), listener, written)


def _create(database: Path) -> None:
    """Migrate beside `database`, keep the result as the template, and give it its name: whole or not at all."""
    draft = database.with_name(".prefect.db.new")
    draft.unlink(missing_ok=True)
    variables = {**os.environ, "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{draft}"}
    command = [sys.executable, "-P", "-m", "flows.prefect_database"]
    subprocess.run(command, env=variables, check=True)  # noqa: S603 - our own module, no shell
    keep_template(draft, "prefect")
    copy_database(draft, database)
    draft.unlink()


def _complete_models_on_first_use() -> None:
    """Let pydantic build a model's validator when it is first needed; most of Prefect's never are."""
    import pydantic

    pydantic.BaseModel.model_config["defer_build"] = True
    # FastAPI silences this where it builds validators; deferred, they are built outside its reach.
    warnings.filterwarnings("ignore", category=pydantic.warnings.UnsupportedFieldAttributeWarning)


if __name__ == "__main__":
    main(sys.argv[1:])
