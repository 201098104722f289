"""A hospital's table of health records: read, checked against the study's features, and turned into numbers."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.data.encoding import CellError, encode, number_of, plain
from components.data.labels import Observation
from components.data.listing import Row
from components.errors import DataError, StudyError
from components.features import Feature, Records
from components.study import Data, Task
from components.yaml_lines import read_yaml

SITE_FEATURES = "features.yaml"  # a hospital's own description of its table, beside it
MOST_NAMED = 20  # columns in a message
MOST_OUTSIDE = 0.05  # of a survival table's times, as of a feature's values by default
SEPARATORS = {";": "semicolons", "\t": "tabs", ",": "commas", "|": "bars"}
NO_ARM = "missing arm"
NO_CLASS = ()  # a label that is none of the study's classes, whatever they are called


def read_table(path: Path, data: Data, owner: str, *, labelled: bool = True) -> list[Row]:
    """Read a site's table.

    Args:
        path: The file, or the folder that holds ``data.table``. Beside it may lie the hospital's own feature file.
        data: The study's data section.
        owner: Whose it is, for messages: ``site north``.
        labelled: Whether the columns of label, patient and split have to be there.

    Returns:
        One row for each line; `extras` has its cells by column.

    Raises:
        DataError: If it is not there, cannot be read, lacks a column, or is not what the study says.
    """
    assert data.records is not None  # the study's own check
    file = find_table(path, data, owner)
    require_agreement(file.parent / SITE_FEATURES, data.records, owner)
    lines = _read_parquet(file, owner) if _is_parquet(file) else _read_csv(file, data.records, owner)
    if not lines:
        raise DataError(f"{owner}: its table has no rows; add some, or leave the site out")
    survival = "time" in data.columns
    outcome = ("time", "event") if survival else ("label",)
    names = {key: data.columns.get(key, key) for key in (*outcome, "patient", "split")}
    names["split"] = data.columns.get("split", "")
    used = [name for name in names.values() if name] if labelled else []
    described = data.records.encoded if labelled else data.records.all_features
    _require_columns([*used, *(feature.column_name for feature in described)], lines[0], owner, labelled)
    classes = {plain(value.strip()): name for name, values in data.records.labels.items() for value in values}
    return [_row(number, line, names, classes) for number, line in enumerate(lines, start=1)]


def find_table(path: Path, data: Data, owner: str) -> Path:
    """Return the file of a site's table; arguments as of `read_table`.

    Raises:
        DataError: If it is not there.
    """
    file = path / data.table if path.is_dir() else path
    if not file.is_file():
        where = f"no {data.table} in its folder" if path.is_dir() else "its table is not there"
        raise DataError(f"{owner}: {where}; put it there, or correct the path under sites, or data.table, in the study")
    return file


def read_header(file: Path, records: Records, owner: str) -> list[str]:
    """Return the names of a table's columns.

    Raises:
        DataError: If it cannot be read.
    """
    if _is_parquet(file):
        import pyarrow  # only for a site that has Parquet
        import pyarrow.parquet

        try:
            return [str(name) for name in pyarrow.parquet.read_schema(file).names]
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{owner}: its table cannot be read as Parquet ({type(error).__name__})") from None
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            first = [cell.strip() for cell in next(csv.reader(text, delimiter=records.separator, strict=True), [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{owner}: its table cannot be read as a CSV in UTF-8 ({type(error).__name__})") from None
    return first if _names_columns(first, records) or not records.header else records.header


def encoded_features(records: Records, features: Sequence[Feature] | None = None) -> list[dict[str, Any]]:
    """Return what `components.data.encoding` has to know of each feature (by default those of a model), as JSON."""
    return [
        {
            "name": feature.name,
            "type": feature.type,
            "column": feature.column_name,
            "range": feature.range,
            "categories": feature.categories,
            "missing": records.missing_of(feature),
            "unit": feature.unit,
            "code": feature.code,
            **({"rest": feature.rest} if feature.rest else {}),
        }
        for feature in (records.all_features if features is None else features)
    ]


def encode_table(rows: Sequence[Row], records: Records, owner: str) -> list[list[float] | str]:
    """Encode every row, the arm last, or say in a few words why it cannot be used.

    Raises:
        DataError: If a column as a whole is not what the study says: too much of it out of range, of no category, no
            number, or missing. Every such feature is named.
    """
    features, plain_rows = encoded_features(records, records.encoded), 0
    narrow = len(features) if records.wide is None else len(records.features)
    seen: list[Counter[str]] = [Counter() for _ in features]
    encoded: list[list[float] | str] = []
    for row in rows:
        values: list[float] = []
        reasons: list[str] = []
        further = None if records.missing else _plain_numbers(row, features[narrow:])
        plain_rows += further is not None
        asked = len(features) if further is None else narrow
        for about, found in zip(features[:asked], seen, strict=False):
            try:
                values.append(encode(row.extras.get(about["column"]), about))
                found["missing" if math.isnan(values[-1]) else "there"] += 1
            except CellError as error:
                reasons.append(str(error))
                found[str(error)] += 1
        if records.arm is not None and values and not reasons and math.isnan(values[-1]):
            reasons.append(NO_ARM)
        encoded.append(reasons[0] if reasons else [*values, *(further or [])])
    for found in seen[narrow:]:
        found["there"] += plain_rows
    wrong = [text for pair in zip(records.encoded, seen, strict=True) for text in _unsound(*pair, len(rows))]
    if wrong:
        more = f"; and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
        raise DataError(f"{owner}: its table is not what the study says: {'; '.join(wrong[:MOST_NAMED])}{more}")
    return encoded


def require_plausible_times(rows: Sequence[Row], task: Task, owner: str) -> None:
    """Refuse a survival table whose times as a whole are not what the study says: those of another unit.

    Raises:
        DataError: If more than a twentieth of the times is out of range, or their median is not a typical one. No time
            is named.
    """
    survival = task.survival
    if survival is None:
        return
    times = [number_of(row.label.time) for row in rows if isinstance(row.label, Observation)]
    known = [time for time in times if time is not None]
    low, high = survival.range or (0.0, math.inf)
    outside = sum(not low <= time <= high for time in known)
    if outside > MOST_OUTSIDE * len(known):
        raise DataError(
            f"{owner}: its times are out of their range of {low:g} to {high:g} ({survival.unit}) in {outside} of "
            f"{len(known)} rows: are they in another unit there?"
        )
    if survival.typical is not None and known:
        low, high = survival.typical
        if not low <= statistics.median(known) <= high:
            raise DataError(
                f"{owner}: the median of its times is not between {low:g} and {high:g} {survival.unit}, as "
                "task.survival.typical says: are they in another unit there?"
            )


def _plain_numbers(row: Row, features: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """Return a row's numbers of a wide table where each is there and in range; None if they need a closer look."""
    if not features:
        return None
    low, high = features[0]["range"] or (-math.inf, math.inf)  # one for all of them
    try:
        values = [float(row.extras[about["column"]]) for about in features]
    except ValueError:
        return None
    return values if all(low <= value <= high and abs(value) < math.inf for value in values) else None


def content_of(row: Row, features: Sequence[Feature]) -> str:
    """Return a SHA-256 over a row's cells: what its digest stands for."""
    cells = [row.name, *(str(row.extras.get(feature.column_name, "")) for feature in features)]
    return hashlib.sha256(json.dumps(cells).encode(errors="surrogatepass")).hexdigest()


def require_agreement(path: Path, records: Records, owner: str) -> None:
    """Compare a hospital's own feature file, if it has one, with the study's features.

    Raises:
        DataError: Naming every feature whose unit, type, code or categories are others at the hospital.
    """
    if not path.is_file():
        return
    try:
        listed = read_yaml(path).value.get("features", [])
        own = {item["name"]: item for item in listed}
    except (StudyError, TypeError, KeyError):
        raise DataError(f"{owner}: {SITE_FEATURES} beside its table must hold 'features', a list with names") from None
    wrong = []
    for feature in records.features:
        if feature.name not in own:
            wrong.append(f"{feature.name} is not in its {SITE_FEATURES}")
            continue
        try:
            stated = Feature.model_validate({"name": feature.name, **_words(own[feature.name], feature)})
        except ValidationError:
            wrong.append(f"{feature.name}: its {SITE_FEATURES} does not describe it as a study would")
            continue
        for word in ("type", "unit", "code", "categories"):
            here, there = getattr(stated, word), getattr(feature, word)
            settled = word != "categories" or not (feature.agreed or feature.rest)
            if word in own[feature.name] and here != there and settled:
                wrong.append(f"{feature.name}: {word} is {_listed(here)} there, {_listed(there)} in the study")
    if wrong:
        raise DataError(f"{owner}: its table is not what the study says: {'; '.join(wrong)}")


def _words(own: Mapping[str, Any], feature: Feature) -> dict[str, Any]:
    """Return what a hospital says of a feature, and the study's words for the rest."""
    said = {word: own[word] for word in ("type", "unit", "code", "categories") if word in own}
    agreed = {"agreed": True} if feature.agreed and "categories" not in said else {"categories": feature.categories}
    return {"type": feature.type, **agreed, **said}


def _listed(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value) or "none"


def _is_parquet(file: Path) -> bool:
    """Tell a Parquet file by its first bytes."""
    with file.open("rb") as content:
        return content.read(4) == b"PAR1"


def _read_parquet(file: Path, owner: str) -> list[dict[str, str]]:
    """Read a Parquet file as text by column; what is null is empty."""
    import pyarrow  # only for a site that has Parquet
    import pyarrow.parquet

    try:
        lines = pyarrow.parquet.read_table(file).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{owner}: its table cannot be read as Parquet ({type(error).__name__})") from None
    return [{str(key): "" if cell is None else str(cell) for key, cell in line.items()} for line in lines]


def _read_csv(file: Path, records: Records, owner: str) -> list[dict[str, str]]:
    """Read a CSV as text by column."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            lines = [
                [cell.strip() for cell in line]
                for line in csv.reader(text, delimiter=records.separator, strict=True)
                if any(cell.strip() for cell in line)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{owner}: its table cannot be read as a CSV in UTF-8 ({type(error).__name__})") from None
    if not lines:
        return []
    _require_separator(lines[0], records, owner)
    header = records.header
    if _names_columns(lines[0], records) or not header:  # a file with names, also where the study expects none
        header, lines = lines[0], lines[1:]
    if any(len(line) != len(header) for line in lines):
        odd = sum(len(line) != len(header) for line in lines)
        unnamed = "; its first line does not name them as the study does" if header is records.header else ""
        raise DataError(
            f"{owner}: {odd} of {len(lines)} lines of its table do not have the {len(header)} columns that it should "
            f"have{unnamed}"
        )
    return [dict(zip(header, line, strict=True)) for line in lines]


def _names_columns(line: Sequence[str], records: Records) -> bool:
    """Tell a first line of names by half of the features' columns, so that one that lacks can be named."""
    needed = {feature.column_name for feature in records.features}
    return 2 * len(needed & set(line)) >= len(needed)


def _require_separator(line: Sequence[str], records: Records, owner: str) -> None:
    """Refuse a table whose cells stand between other marks than the study says."""
    if _names_columns(line, records) or len(line) == len(records.header):
        return
    whole = records.separator.join(line)
    for other, word in SEPARATORS.items():
        cells = [cell.strip().strip('"') for cell in whole.split(other)]
        as_header = len(cells) == len(records.header) > 1
        if other != records.separator and (_names_columns(cells, records) or as_header):
            raise DataError(
                f"{owner}: its table is not separated by {SEPARATORS.get(records.separator, records.separator)}: is it "
                f"by {word}? Write it anew, or say data.records.separator in the study"
            )


def _require_columns(names: Sequence[str], line: Mapping[str, str], owner: str, labelled: bool) -> None:
    """Refuse a table that lacks a column; its own columns are not named, since they may be a patient's data."""
    absent = [name for name in dict.fromkeys(names) if name not in line]
    if absent:
        more = f" and {len(absent) - MOST_NAMED} more" if len(absent) > MOST_NAMED else ""
        study = (
            ", or name them in data.columns and data.records of the study (an empty patient column says that every row "
            "is a patient of its own)"
        )
        raise DataError(
            f"{owner}: its table lacks the column {', '.join(absent[:MOST_NAMED])}{more}; it has {len(line)} "
            f"columns. Rename them there{study if labelled else ''}"
        )


def _row(number: int, line: dict[str, str], names: Mapping[str, str], classes: Mapping[str, str]) -> Row:
    """Turn one line into a row; its name is its number, which stays at the hospital."""
    label: object = line.get(names.get("label", names.get("event", ""))) or None
    if classes and label is not None:
        label = classes.get(plain(str(label).strip()), NO_CLASS)
    if "time" in names:
        label = Observation(line.get(names["time"], ""), label)
    name = f"row {number}"
    patient = line.get(names["patient"], "") if names["patient"] else name
    split = line.get(names["split"], "") if names["split"] else ""
    return Row(name=name, files=(), label=label, patient=patient, split=split, extras=line)


def _unsound(feature: Feature, found: Counter[str], rows: int) -> list[str]:
    """Say what is wrong with a column as a whole."""
    wrong, absent = [], found.pop("missing", 0)
    given = rows - absent
    odd = given - found.pop("there", 0)
    if absent > feature.most_missing * rows:
        wrong.append(f"{feature.name} is missing in {absent} of {rows} rows; the study allows {feature.most_missing:g}")
    if odd > feature.most_outside * given:
        said = found.most_common(1)[0][0]
        bounds = f" of {feature.range[0]:g} to {feature.range[1]:g}" if feature.range else ""
        unit = f" ({feature.unit})" if feature.unit else ""
        wrong.append(f"{said}{bounds}{unit} in {odd} of {given} rows: is it in another unit or code there?")
    return wrong
