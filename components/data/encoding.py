"""Cells of a table to numbers: the same at a site, in `wardround predict`, and in the registered model.

This file travels inside every registered model of a tabular study, where `_load_pyfunc` is what MLflow calls: it
imports nothing of WardRound, and torch only to load the exported program.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

MISSING = math.nan
RECOMMENDED = "recommended"  # the column with the arm that a patient is expected to be better off with
_EMPTY = frozenset({"", "nan", "na", "n/a", "<na>"})
_BOOLEANS = {"0": 0.0, "1": 1.0, "no": 0.0, "yes": 1.0, "false": 0.0, "true": 1.0}


class CellError(ValueError):
    """A cell that is not what its column says; the message names the feature and never the value."""


def encode(cell: object, feature: Mapping[str, Any]) -> float:
    """Return a cell as a number: the value itself, the place of a category, 0 or 1; NaN where it is missing.

    Args:
        cell: What stands in the table: text, a number, True or False, None.
        feature: ``name``, ``type``, ``range``, ``categories`` and ``missing`` of the feature.

    Raises:
        CellError: If it is not a number, is out of range, or is none of the categories.

    >>> encode("3.0", {"name": "cp", "type": "categorical", "categories": ["1", "2", "3"], "missing": []})
    2.0
    """
    text = "" if cell is None else str(cell).strip()
    if is_missing(text, feature["missing"]):
        return MISSING
    if feature["type"] == "categorical":
        return float(_place(text, feature))
    if feature["type"] == "boolean":
        found = _BOOLEANS.get(plain(text).lower())
        if found is None:
            raise CellError(f"{feature['name']} is neither yes nor no")
        return found
    number = number_of(text)
    if number is None:
        raise CellError(f"{feature['name']} is not a number")
    low, high = feature.get("range") or (-math.inf, math.inf)
    if not low <= number <= high:
        raise CellError(f"{feature['name']} is out of its range")
    return number


def encode_row(cells: Mapping[str, object], features: Sequence[Mapping[str, Any]]) -> list[float]:
    """Encode a row, given by column names; `features` say of which column each is.

    Raises:
        CellError: As `encode`.
    """
    return [encode(cells.get(feature["column"]), feature) for feature in features]


def number_of(text: str) -> float | None:
    """Return the finite number that a text is, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def plain(text: str) -> str:
    """Write 1.0 as 1: tables with gaps turn codes into floats."""
    number = number_of(text)
    return text if number is None or not number.is_integer() else str(int(number))


def is_missing(text: str, values: Sequence[str]) -> bool:
    """Tell whether a cell says that there is no value: by itself, or as one of `values`, numbers by their value."""
    return text.lower() in _EMPTY or (bool(values) and plain(text) in _places(tuple(values)))


def _place(text: str, feature: Mapping[str, Any]) -> int:
    """Return the place of a category; of one that is none of them, that of the rest if there is one."""
    places = _places(tuple(feature["categories"]))
    place = places.get(plain(text))
    if place is None and feature.get("rest"):
        place = places[plain(feature["rest"])]
    if place is None:
        raise CellError(f"{feature['name']} is none of its categories")
    return place


@lru_cache(maxsize=4096)
def _places(values: tuple[str, ...]) -> dict[str, int]:
    """Return the place of each value as `plain` writes it; once for all cells of a column."""
    return {plain(value): place for place, value in reversed(list(enumerate(values)))}


class TableModel:
    """A registered model of a tabular study: a table in, one column of numbers for each output.

    A model of treatments has a column more, `RECOMMENDED`: the arm by the sign of the benefit.

    Args:
        folder: Holds ``model.pt2`` and ``features.json``.

    Attributes:
        warning: What a user must know of every number of this model; empty if nothing.
    """

    def __init__(self, folder: Path) -> None:
        import torch  # only where a model is loaded

        about = json.loads((folder / "features.json").read_text(encoding="utf-8"))
        self._features, self._outputs = about["features"], about["outputs"]
        self._arms = about.get("arms")
        self.warning: str = about.get("warning", "")
        self._program = torch.export.load(folder / "model.pt2").module()

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Score a pandas table whose columns are named as in the study; a missing value is a NaN or None.

        Raises:
            ValueError: If a column is missing, or a cell is not what the study says; row and column are named.
        """
        import pandas  # type: ignore[import-untyped]  # a table from MLflow is one of pandas'
        import torch

        absent = [feature["column"] for feature in self._features if feature["column"] not in model_input.columns]
        if absent:
            raise ValueError(f"the table lacks the columns {', '.join(absent)}")
        rows = []
        for number, cells in enumerate(model_input.to_dict("records"), start=1):
            try:
                rows.append(encode_row(cells, self._features))
            except CellError as error:
                raise ValueError(f"row {number}: {error}") from None
        table = torch.tensor(rows, dtype=torch.float32).reshape(len(rows), len(self._features))
        scores = self._program(table).tolist() if rows else []
        found = pandas.DataFrame(scores, columns=self._outputs, index=model_input.index)
        if self._arms:
            found[RECOMMENDED] = [self._arms[benefit > 0] for benefit in found["benefit"]]
        return found


def _load_pyfunc(path: str) -> TableModel:
    """Load the model, with a warning if there is one; MLflow calls this with the folder of the model's data."""
    model = TableModel(Path(path))
    if model.warning:
        warnings.warn(model.warning, stacklevel=2)
    return model
