"""Tables of the OMOP CDM 5.4: CSV or Parquet, a file for each or a folder of parts, read piece by piece."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from components.data.encoding import plain
from components.data.histories import Entry, Person, Unread, Value
from components.data.terminology import DEATH, PERIOD, plain_unit
from components.errors import DataError
from components.features import Records
from components.history import OMOP, TERMINOLOGIES

ENDINGS = (".csv", ".csv.gz", ".parquet")
CONCEPTS, PERSONS = "concept", "person"
PIECE_ROWS = 50_000  # of a Parquet file, held at a time
_SEXES = {"8507": "male", "8532": "female", "8521": "other"}
_EXACT = ("", "0", "4172703")  # operator concepts: none, or "="
Item = Person | Unread | Entry


class Table(NamedTuple):
    """A table of dated records.

    Attributes:
        name: The table.
        record: The kind of record.
        ident: Column of the record's own identifier.
        concept: Columns of what it is.
        date: Columns of its time and of its date; the first counts where both say the same day.
        more: Further columns; those that are not there are empty.
        end: Column of the day on which it ended, if it has one.
    """

    name: str
    record: str
    ident: str
    concept: tuple[str, ...]
    date: tuple[str, str]
    more: tuple[str, ...] = ()
    end: str = ""


_VALUES = ("value_as_number", "value_as_concept_id", "unit_concept_id", "unit_source_value", "operator_concept_id")
TABLES = (
    Table(
        "measurement", "measurement", "measurement_id", ("measurement_concept_id", "measurement_source_concept_id"),
        ("measurement_datetime", "measurement_date"), (*_VALUES, "value_source_value"),
    ),
    Table(
        "condition_occurrence", "condition", "condition_occurrence_id",
        ("condition_concept_id", "condition_source_concept_id"), ("condition_start_datetime", "condition_start_date"),
    ),
    Table(
        "visit_occurrence", "visit", "visit_occurrence_id", ("visit_concept_id", "visit_source_concept_id"),
        ("visit_start_datetime", "visit_start_date"), end="visit_end_date",
    ),
    Table(
        "drug_exposure", "medication", "drug_exposure_id", ("drug_concept_id", "drug_source_concept_id"),
        ("drug_exposure_start_datetime", "drug_exposure_start_date"),
    ),
    Table(
        "procedure_occurrence", "procedure", "procedure_occurrence_id",
        ("procedure_concept_id", "procedure_source_concept_id"), ("procedure_datetime", "procedure_date"),
    ),
    Table("death", DEATH, "", (), ("death_datetime", "death_date")),
    Table(
        "observation_period", PERIOD, "observation_period_id", (),
        ("observation_period_start_datetime", "observation_period_start_date"), end="observation_period_end_date",
    ),
)  # fmt: skip


def omop_files(folder: Path, name: str) -> list[Path]:
    """Return the files of a table: one, or the parts in a folder of its name; none if it is not there."""
    for path in sorted(folder.iterdir()):
        lower = path.name.lower()
        if lower not in (name, *(f"{name}{ending}" for ending in ENDINGS)):
            continue
        if path.is_file() and lower != name:
            return [path]
        if path.is_dir():
            return sorted(part for part in path.rglob("*") if part.name.lower().endswith(ENDINGS) and part.is_file())
    return []


def read_omop(
    folder: Path, records: Records, owner: str, *, kinds: Collection[str], more: Collection[str]
) -> Iterator[Item]:
    """Read the tables of a folder.

    Args:
        folder: The hospital's folder.
        records: The study's; its separator is that of the CSV files.
        owner: Whose it is, for messages.
        kinds: Kinds of record that have to be there.
        more: Kinds that are read where they are, for how long a patient was looked on.

    Raises:
        DataError: If a table is not there, lacks a column, or cannot be read.
    """
    yield from _persons(folder, records, owner)
    for table in TABLES:
        files = omop_files(folder, table.name) if table.record in {*kinds, *more} else []
        if not files and table.record in kinds:
            raise DataError(f"{owner}: there is no table {table.name} (CSV or Parquet) in its folder")
        needed = ["person_id", *table.concept[:1], table.date[1], *[table.end] * (table.record == PERIOD)]
        also = (table.ident, *table.concept[1:], table.date[0], table.end, *table.more)
        optional = [column for column in also if column]  # an empty name is that of pandas' index
        for cells in _rows(files, records, owner, (table.name, needed, optional)):
            yield _entry(table, dict(zip((*needed, *optional), cells, strict=True)))


def _persons(folder: Path, records: Records, owner: str) -> Iterator[Item]:
    """Read the table of persons."""
    files = omop_files(folder, PERSONS)
    if not files:
        raise DataError(f"{owner}: there is no table {PERSONS} (CSV or Parquet) in its folder")
    needed, optional = ("person_id", "gender_concept_id", "year_of_birth"), ("month_of_birth", "day_of_birth")
    for ident, gender, *birth in _rows(files, records, owner, (PERSONS, needed, optional)):
        if ident:
            yield Person(plain(ident), _birth(birth), _SEXES.get(plain(gender), ""))
        else:
            yield Unread("a person without a person_id")


def _birth(parts: Sequence[str]) -> str:
    """Write year, month and day of birth as a date, perhaps in part."""
    words = [plain(part).zfill(width) for part, width in zip(parts, (4, 2, 2), strict=True) if part]
    known = next((place for place, part in enumerate(parts) if not part), 3)
    return "-".join(words[:known])


def _entry(table: Table, cells: Mapping[str, str]) -> Entry:
    """Turn a row, by column, into a record."""
    found = [cells[column] for column in table.concept]
    codes = tuple(f"{OMOP}|{plain(code)}" for code in found if code and plain(code) != "0")
    moment, day = (cells[column] for column in table.date)
    # A time at midnight may be of another day than the date where it was moved between time zones: the date counts.
    date = moment if moment[:10] == day[:10] else day
    value = _value([cells[column] for column in table.more]) if table.more else Value()
    ident, person, end = cells.get(table.ident, ""), cells["person_id"], cells.get(table.end, "")
    return Entry(table.record, plain(ident), plain(person), codes, date, value, end=end)


def _value(cells: Sequence[str]) -> Value:
    """Return what was measured."""
    number, concept, unit, unit_text, operator, text = cells
    units = [f"{OMOP} {plain(unit)}"] if unit and plain(unit) != "0" else []
    units += [plain_unit(unit_text)] if unit_text else []
    words = [f"{OMOP}|{plain(concept)}"] if concept and plain(concept) != "0" else []
    words += [text] if text else []
    return Value(number or None, tuple(units), tuple(words), plain(operator) not in _EXACT)


def find_concepts(folder: Path, records: Records, owner: str, codes: Collection[str]) -> dict[str, list[str]]:
    """Look the study's codes, and all units, up in the table of concepts, where the folder has one.

    Returns:
        For each code of the study, keys of its concepts (see `terminology.key_of`); for each unit (UCUM), ``OMOP`` and
        its concept ids.
    """
    names = {words[1]: word for word, words in TERMINOLOGIES.items() if words[1]}
    exact = {code for code in codes if not code.endswith("*")}
    prefixes = [code for code in codes if code.endswith("*")]
    found: dict[str, list[str]] = {}
    needed = ("concept_id", "vocabulary_id", "concept_code")
    for ident, vocabulary, code in _rows(omop_files(folder, CONCEPTS), records, owner, (CONCEPTS, needed, ())):
        if vocabulary == "UCUM":
            found.setdefault(plain_unit(code), []).append(f"{OMOP} {plain(ident)}")
        if vocabulary not in names:
            continue
        word = f"{names[vocabulary]} {code}"
        for meant in [word] * (word in exact) + [item for item in prefixes if word.startswith(item[:-1])]:
            found.setdefault(meant, []).append(f"{OMOP}|{plain(ident)}")
    return found


def _rows(
    files: Sequence[Path], records: Records, owner: str, wanted: tuple[str, Sequence[str], Sequence[str]]
) -> Iterator[list[str]]:
    """Read rows of a table as text: the columns that it needs, then the optional ones."""
    name, needed, optional = wanted
    for file in files:
        parquet = file.name.lower().endswith(".parquet")
        try:
            rows = _parquet(file, [*needed, *optional]) if parquet else _csv(file, records.separator)
            header = next(rows, [])
            places = {column.strip().lower(): place for place, column in enumerate(header)}
            absent = [column for column in needed if column not in places]
            if absent:
                raise DataError(f"{owner}: its table {name} lacks the column {', '.join(absent)}")
            chosen = [places.get(column, -1) for column in (*needed, *optional)]
            for row in rows:
                if len(row) != len(header):
                    raise ValueError("cells")
                yield [row[place].strip() if place >= 0 else "" for place in chosen]
        except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:  # pyarrow's errors are among these
            failed = DataError(f"{owner}: its table {name} is damaged or truncated ({type(error).__name__})")
            failed.add_note(f"it is {file}")
            raise failed from None


def _csv(file: Path, separator: str) -> Iterator[list[str]]:
    """Read a CSV line by line, the header first; empty lines are passed over."""
    with gzip.open(file, "rb") if file.name.lower().endswith(".gz") else file.open("rb") as content:
        text = io.TextIOWrapper(content, encoding="utf-8-sig", newline="")
        yield from filter(None, csv.reader(text, delimiter=separator, strict=True))


def _parquet(file: Path, columns: Sequence[str]) -> Iterator[list[str]]:
    """Read a Parquet file piece by piece, the header first."""
    import pyarrow.parquet  # only for a site that has Parquet

    with pyarrow.parquet.ParquetFile(file) as content:
        chosen = [name for name in content.schema_arrow.names if name.lower() in columns]
        yield chosen
        for piece in content.iter_batches(batch_size=PIECE_ROWS, columns=chosen):
            for row in zip(*(column.to_pylist() for column in piece.columns), strict=True):
                yield ["" if cell is None or cell != cell else str(cell) for cell in row]
