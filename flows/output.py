"""Files that a command writes where its user says: never over what it reads, and whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from components.errors import StorageError, StudyError
from components.files import replace_file, storage_errors, temporary_file, write_all


def require_apart(output: Path, inputs: Sequence[Path]) -> None:
    """Refuse a file to be written that is read too, by whatever name, before anything is worked out.

    Args:
        output: The file to be written.
        inputs: Files and folders that are read.

    Raises:
        StudyError: If it is one of them, or lies inside one.
        StorageError: If it is a folder, or its folder is not there.
    """
    if output.is_dir():
        raise StorageError(f"--output {output} is a folder: name a file in it")
    if output.parent.is_file():
        raise StorageError(f"cannot write {output}: {output.parent} is a file, not a folder")
    if not output.parent.is_dir():
        raise StorageError(f"cannot write {output}: there is no folder {output.parent}; make it, or give another one")
    for path in inputs:
        if output.exists() and path.exists() and output.samefile(path):
            raise StudyError(f"--output {output} is {path} itself, which is read: give the new file another name")
        if path.is_dir() and output.resolve().is_relative_to(path.resolve()):
            raise StudyError(f"--output {output} lies inside {path}, which is read: give a file outside of it")


def write_output(output: Path, text: str) -> None:
    """Write a text file; who may read one that was there may read the new one, and nobody else.

    Raises:
        StorageError: If it cannot be written; what was there is there still.
    """
    with storage_errors("write", output.absolute()):
        if output.exists() and not output.is_file():  # /dev/stdout
            output.write_text(text, encoding="utf-8")
            return
        target = output.resolve()
        with temporary_file(target.parent) as (temporary, descriptor):
            if target.exists():
                os.fchmod(descriptor, stat.S_IMODE(target.stat().st_mode))
            write_all(descriptor, text.encode())
            replace_file(temporary, descriptor, target)
