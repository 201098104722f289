"""What a site lists: a MONAI datalist (JSON), or a table (CSV) beside the files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.data.splits import SPLIT_NAMES
from components.errors import DataError
from components.study import Data

_COLUMNS = {"file": "file", "label": "label", "patient": "patient", "split": ""}


@dataclass(frozen=True)
class Row:
    """One item as its list gives it, nothing checked yet.

    Attributes:
        name: The item in messages and in the quarantine list: its file as listed.
        files: One file or folder; or the slices of one DICOM series.
        label: Whatever the list gives; None if it gives nothing.
        patient: The patient; empty if the list gives none.
        split: The split as the list names it; empty if it does not.
        extras: All other columns or keys, as text.
        fault: Why it cannot be used, where that was seen on reading; empty if it can.
    """

    name: str
    files: tuple[str, ...]
    label: object
    patient: str
    split: str = ""
    extras: Mapping[str, str] = field(default_factory=dict)
    fault: str = ""


def read_rows(folder: Path, data: Data, owner: str, *, unit: str = "days") -> list[Row]:
    """Read the list of a site's folder, as `data.source` says.

    Args:
        folder: The site's folder; for source ``records`` also its table itself.
        data: The study's data section; for source ``folder`` the datalist is taken if there is one,
            else the table.
        owner: Whose folder it is, for messages: ``site north``.
        unit: As of `components.data.patients.read_patients`.

    Raises:
        DataError: If the folder or its list is not there, cannot be read, or lists nothing.
    """
    if data.source == "records":
        from components.data.patients import read_patients  # it makes rows of this module

        return read_patients(folder, data, owner, unit=unit).rows
    if not folder.is_dir():
        raise DataError(f"{owner}: its folder is not there; make it, or correct 'path' under sites in the study")
    use_datalist = data.source == "datalist" or (data.source == "folder" and (folder / data.datalist).is_file())
    name = data.datalist if use_datalist else data.table
    try:
        text = (folder / name).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        either = f"neither {data.datalist} nor {name}" if data.source == "folder" else f"no {name}"
        raise DataError(f"{owner}: there is {either} in its folder; the study expects one there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{owner}: {name} cannot be read as UTF-8 text ({type(error).__name__})") from None
    rows = _datalist(text, data, f"{owner}: {name}") if use_datalist else _table(text, data, f"{owner}: {name}")
    if not rows:
        raise DataError(f"{owner}: {name} lists no items; add some, or leave the site out")
    return rows


def _column(data: Data, key: str) -> str:
    """Return a column's name in the study, or its default."""
    return data.columns.get(key, _COLUMNS[key])  # type: ignore[call-overload, no-any-return]


def _table(text: str, data: Data, where: str) -> list[Row]:
    """Read a CSV with a header; every column named in the study must be there."""
    try:
        reader = csv.DictReader(text.splitlines(), strict=True)
        header = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = header
        lines = list(reader)
    except csv.Error as error:
        raise DataError(f"{where} is not a CSV: {error}") from None
    names = {key: _column(data, key) for key in _COLUMNS}
    missing = [name for name in names.values() if name and name not in header]
    if missing:
        # The columns are not named: in a file without a header they are a patient's data.
        raise DataError(
            f"{where} has no column {' nor '.join(map(repr, missing))} among its {len(header)}; name its columns in "
            "data.columns of the study (an empty patient column says that every item is a patient of its own)"
        )
    return [_table_row({key: value or "" for key, value in line.items() if key}, names) for line in lines]


def _table_row(line: Mapping[str, str], names: Mapping[str, str]) -> Row:
    """Turn one line of the CSV into a row."""
    cells = {key: (line.get(name) or "").strip() if name else "" for key, name in names.items()}
    return Row(
        name=cells["file"],
        files=(cells["file"],),
        label=cells["label"] or None,
        patient=cells["patient"] if names["patient"] else cells["file"],
        split=cells["split"],
        extras=dict(line),
    )


def _datalist(text: str, data: Data, where: str) -> list[Row]:
    """Read a MONAI datalist: sections ``training``, ``validation`` and ``test``, or one bare list."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(f"{where} is not valid JSON") from None
    sections: Mapping[str, Any] = {"": content} if isinstance(content, list) else content
    if not isinstance(sections, dict):
        raise DataError(f"{where} must hold lists of items under training, validation or test")
    known = {key: value for key, value in sections.items() if key in ("", *SPLIT_NAMES) and isinstance(value, list)}
    if not known:
        raise DataError(f"{where} must hold lists of items under training, validation or test")
    patient, split = _column(data, "patient"), _column(data, "split")
    return [_datalist_row(entry, key, patient, split) for key, entries in known.items() for entry in entries]


def _datalist_row(entry: Any, section: str, patient: str, split: str) -> Row:
    """Turn one item of a datalist (a mapping, or a bare file without label) into a row."""
    item: Mapping[str, Any] = entry if isinstance(entry, dict) else {"image": entry}
    image = item.get("image")
    files = tuple(_texts(image)) if isinstance(image, list) else tuple(_texts([image]))
    return Row(
        name=files[0] if files else "",
        files=files,
        label=item.get("label"),
        patient=str(item.get(patient) or "").strip() if patient else (files[0] if files else ""),
        split=str(item.get(split) or section) if split else section,
        extras={str(key): str(value) for key, value in item.items() if isinstance(value, str | int | float)},
    )


def _texts(values: Iterable[Any]) -> list[str]:
    """Keep what is text."""
    return [value for value in values if isinstance(value, str)]
