"""What an administrator accepts: an analysis, for good; and once, rounds of a training that are done again.

::

    <folder>/accepted/<training>.json                   who accepted it, when and why; used up by the first plan it
                                                        lets in
    <folder>/accepted/analyses/<study>-<digest>.json    one version of a study that analyses

A file, because the worker that runs keeps the journal; it writes there that the acceptance was used, and whose it was.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import ValidationError

from components.errors import RefusedError, StorageError
from components.exchange.secret_files import read_secret, write_secret
from components.rounds import NAME_PATTERN, Record


class Acceptance(Record):
    """One acceptance.

    Attributes:
        by: Who gave it.
        given: When, UTC in ISO 8601.
        reason: Why, in the administrator's words.
    """

    by: str
    given: str
    reason: str


class Acceptances:
    """The acceptances in a hospital's folder.

    Args:
        folder: The hospital's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "accepted"

    def give(self, training: str, acceptance: Acceptance) -> None:
        """Let the next plan of a training be older than the last one.

        Raises:
            RefusedError: If that is no name of a training.
            StorageError: If it cannot be written.
        """
        if not re.fullmatch(NAME_PATTERN, training):
            raise RefusedError(f"{training!r} is no training's name: the coordinator's message has it")
        write_secret(self._path(training), acceptance.model_dump_json(indent=1).encode())

    def take(self, training: str) -> Acceptance | None:
        """Return an acceptance and use it up; None if there is none.

        Raises:
            StorageError: If it is damaged, or others could have written it.
        """
        path = self._path(training)
        if not path.exists():
            return None
        found = _read(path, "wardround hospital accept-older")
        path.unlink()
        return found

    def give_analysis(self, study: str, digest: str, acceptance: Acceptance) -> None:
        """Let one version of a study be analysed, until that is taken back.

        Raises:
            StorageError: If it cannot be written.
        """
        write_secret(self._analysis(study, digest), acceptance.model_dump_json(indent=1).encode())

    def take_back_analysis(self, study: str, digest: str) -> bool:
        """Let one version of a study be analysed no more; return whether it was accepted."""
        path = self._analysis(study, digest)
        given = path.exists()
        path.unlink(missing_ok=True)
        return given

    def analysis(self, study: str, digest: str) -> Acceptance | None:
        """Return the acceptance of one version of a study; None if there is none.

        Raises:
            StorageError: If it is damaged, or others could have written it.
        """
        path = self._analysis(study, digest)
        return _read(path, "wardround hospital accept") if path.exists() else None

    def _analysis(self, study: str, digest: str) -> Path:
        return self._folder / "analyses" / f"{study}-{digest}.json"

    def _path(self, training: str) -> Path:
        return self._folder / f"{training}.json"


def _read(path: Path, command: str) -> Acceptance:
    """Read an acceptance; the command gives it anew where it is damaged."""
    try:
        return Acceptance.model_validate_json(read_secret(path))
    except ValidationError as error:
        raise StorageError(f"{path.name} is not an acceptance: run  {command}  again") from error
