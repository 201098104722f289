"""How a row is made of dated records: what a study may ask for, and what it may not; older studies are as they were."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.errors import StudyError
from components.features import Feature, Records
from components.history import Given, History, Index, Outcome, code_mistake
from components.study_file import load_study
from tests.references.followed import ARM, GIVEN
from tests.references.histories import FEATURES, HISTORY, sections, write_study
from tests.references.tiny_table import table_study

CHOL = next(item for item in FEATURES if item["name"] == "chol")
AGE = next(item for item in FEATURES if item["name"] == "age")
SURVIVAL = {"unit": "days", "horizons": [10], "grid": {"end": 10, "cells": 10}}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"code": "2093-3"}, "code given '2093-3'; must be a terminology and a code"),
        ({"code": "LOINK 2093-3"}, "its terminology must be a URI or one of LOINC, SNOMED"),
        ({"also": ["OMOP x"]}, "also given 'OMOP x'; OMOP is followed by a concept id"),
        ({"also": ["LOINC 2093-3"]}, "given twice: LOINC 2093-3"),
        ({"unit": ""}, "unit is missing"),
        ({"window_days": [0, -5]}, "window_days must be first and last day"),
        ({"take": "any"}, "take any makes yes or no, not numeric"),
        ({"take": "count", "type": "boolean", "range": None}, "take count makes a number, not boolean"),
        ({"type": "boolean", "range": None, "take": "mean"}, "take mean belongs to numbers"),
        ({"record": "condition"}, "take must be any or count with record: condition"),
        ({"convert": {"mmol/L": 0.0}}, "greater than 0"),
        ({"record": "age", "code": "", "also": []}, "(convert|take|window_days) belongs to records with a code"),
    ],
)
def test_a_feature_that_cannot_be_made_of_records_is_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Feature.model_validate(CHOL | words)


@pytest.mark.parametrize(("record", "message"), [("age", "type must be numeric"), ("sex", "type must be categorical")])
def test_age_is_a_number_and_sex_a_category(record: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Feature.model_validate({"name": "it", "record": record, "type": "boolean"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"features": [AGE, {"name": "bare"}]}, "features: record is missing for bare"),
        ({"features": [CHOL | {"window_days": [-30, 1]}]}, "that of chol ends on it or later"),
        ({"history": None}, "history goes with format: fhir, omop or any"),
        ({"format": "table"}, "history goes with format: fhir, omop or any"),
        ({"history": HISTORY | {"until": "2021-02-30"}}, "there is no such day"),
        ({"history": HISTORY | {"label": {"codes": ["OMOP 1"], "window_days": [-9, 5]}}}, "ends on it or later"),
    ],
)
def test_records_that_know_what_is_to_be_foreseen_are_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Records.model_validate({"features": [AGE, CHOL], "format": "any", "history": HISTORY} | words)


@pytest.mark.parametrize(
    ("record", "words", "message"),
    [
        (Index, {"record": "condition"}, "codes are missing: which condition is it"),
        (Index, {"earliest": "2020-01-01", "latest": "2019-01-01"}, "earliest must not be after latest"),
        (Index, {"latest": "2019-13-01"}, "there is no such day"),
        (Outcome, {"codes": [], "window_days": [1, 2]}, "codes are missing: which condition is it"),
        (Given, GIVEN | {"codes": {"new": ["ATC"]}}, "must be a terminology and a code"),
        (Given, GIVEN | {"codes": {"old": ["OMOP 1"], "new": ["OMOP 1"]}}, "given twice: OMOP 1"),
        (Given, GIVEN | {"window_days": [0, -5]}, "first and last day"),
        (Outcome, {"codes": ["LOINC *"], "window_days": [1, 2]}, "must be a terminology and a code"),
        (Outcome, {"codes": ["OMOP 1"], "window_days": [9, 1]}, "first and last day"),
        (History, HISTORY | {"ages": [70, 60]}, "ages must be lowest and highest"),
    ],
)
def test_a_history_that_cannot_be_is_refused(record: Any, words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        record.model_validate(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"given": GIVEN | {"codes": {"old": ["OMOP 1"]}}}, "given.codes must name new, or both of levels, given old"),
        ({"given": None}, "arm: given .by which records. goes with format: fhir, omop or any"),
        ({"given": GIVEN | {"window_days": [-5, 1]}}, "that of the arm ends on it or later"),
        (
            {"given": GIVEN | {"codes": {"new": ["OMOP 201826"]}, "record": "condition"}},
            "arm: diabetes has a code and d",
        ),
    ],
)
def test_an_arm_that_dated_records_cannot_say_is_refused(words: dict[str, Any], message: str) -> None:
    content = {"features": FEATURES, "format": "any", "history": HISTORY, "arm": ARM | words}
    with pytest.raises(ValidationError, match=message):
        Records.model_validate(content)


def test_an_arm_of_a_table_is_not_made_of_records() -> None:
    with pytest.raises(ValidationError, match="goes with format: fhir, omop or any, and only with"):
        Records.model_validate({"features": [{"name": "age"}], "arm": ARM})


def test_a_uri_and_a_code_name_any_terminology() -> None:
    assert code_mistake("http://lab.example/codes CHOL") == ""


def test_a_study_without_dated_records_is_written_as_it_ever_was() -> None:
    written = table_study().model_dump(mode="json")["data"]["records"]
    assert written.keys() == {"features", "header", "separator", "missing", "labels", "scaling", "smallest_cell"}
    assert written["features"][0].keys() == {
        "name", "type", "column", "unit", "code", "range", "categories", "missing", "indicator", "most_missing",
        "most_outside",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kind": "multiclass", "classes": ["a", "b", "c"]},
            r"task\.kind: given multiclass; must be binary or survival",
        ),
        (
            {"kind": "survival", "survival": SURVIVAL},
            r"history\.label\.follow_up: is missing; for survival it says what",
        ),
        (
            {"kind": "survival", "survival": SURVIVAL | {"unit": "cycles"}},
            r"task\.survival\.unit: given 'cycles'; must be one of days, weeks, months, years with data\.records\.hist",
        ),
    ],
)
def test_a_task_that_a_history_does_not_tell_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    content = sections()
    content["task"] = changes
    with pytest.raises(StudyError, match=message):
        load_study(write_study(tmp_path, content))


def test_a_follow_up_belongs_to_survival(tmp_path: Path) -> None:
    content = sections(history=HISTORY | {"label": HISTORY["label"] | {"follow_up": "record"}})
    with pytest.raises(
        StudyError, match=r"history\.label\.follow_up: goes with task\.kind: survival, and only with it"
    ):
        load_study(write_study(tmp_path, content))


def test_a_history_that_says_nothing_of_survival_is_written_as_it_ever_was() -> None:
    written = History.model_validate(HISTORY).model_dump(mode="json")
    assert written["label"].keys() == {"record", "codes", "window_days", "new"}
