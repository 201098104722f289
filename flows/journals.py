"""Reading journals for people: ``wardround journal``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from components.errors import JournalError
from components.journal import read, verify

KINDS = ("trainings", "analyses")
_DIGEST = re.compile(r"[0-9a-f]{32,64}")


def journal_path(name: str, home: Path) -> Path:
    """Find a journal by its path or by its study's name.

    Raises:
        JournalError: If there is none.
    """
    given = Path(name)
    if given.is_file():
        return given
    if given.is_dir() and (given / "journal.jsonl").is_file():
        return given / "journal.jsonl"
    for kind in KINDS:
        path = home / kind / name / "journal.jsonl"
        if path.is_file():
            return path
    known = sorted(item.parent.name for kind in KINDS for item in (home / kind).glob("*/journal.jsonl"))
    there = (
        f"there are journals of {', '.join(known)}" if known else "nothing has been run there yet; --home names another"
    )
    raise JournalError(f"no journal of {name!r} in {home}: {there}")


def show(console: Console, name: str, home: Path, *, full: bool) -> None:
    """Print each event of a journal on a line; with `full`, all that was recorded with it."""
    for entry in read(journal_path(name, home)):
        text = json.dumps(dict(entry.data), sort_keys=True) if full else summary(entry.data)
        console.print(f"{entry.seq:>5}  {entry.time}  [bold]{entry.event:<18}[/bold] {escape(text)}", soft_wrap=True)


def verify_journal(console: Console, name: str, home: Path) -> None:
    """Check a journal and say what was checked.

    Raises:
        JournalError: At the first line that is not what its predecessor and its hash say.
    """
    path = journal_path(name, home)
    report = verify(path)
    console.print(
        f"[green]{escape(str(path))}: {report.entries} entries, the chain holds[/green], {report.head[:16]}",
        soft_wrap=True,
    )


def summary(data: Mapping[str, Any]) -> str:
    """Return the plain values of an entry, shortened; tables and lists are for ``--full``.

    >>> summary({"round": 2, "site": "east", "answer": {"status": "done"}, "weights_digest": "ab" * 32})
    'round 2, site east, weights_digest abababababab'
    """
    plain = {name: value for name, value in data.items() if isinstance(value, str | int | float)}
    return ", ".join(f"{name} {_short(str(value))}" for name, value in sorted(plain.items()) if value != "")


def _short(text: str, most: int = 100) -> str:
    """Return the start of a digest, and of what is long."""
    if _DIGEST.fullmatch(text):
        return text[:12]
    return text if len(text) <= most else text[: most - 3] + "..."
