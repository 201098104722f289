"""Categories that hospitals agree on: what each tells, what comes of it, and what never leaves."""

from pathlib import Path
from typing import Any

import pytest

from components.data.agreement import Found, found_at, is_open, settled
from components.data.encoding import encode
from components.data.records import encoded_features
from components.data.sources import plan_sources
from components.errors import DataError
from components.study import Study
from tests.references.tiny_table import FEATURES, Patient, sections, write_hospitals

WARDS = {"east": {"A": 40, "B": 60, "secret": 4}, "north": {"B": 100, "C": 5}, "west": {"A": 30, "other": 20}}


def study(**changes: Any) -> Study:
    """A study of tables whose wards the hospitals agree on."""
    ward = {"name": "ward", "type": "categorical", "agreed": True, **changes}
    return Study.model_validate(sections(data={"records": {"features": [*FEATURES, ward]}}))


def admitted(site: str, rows: list[Patient]) -> list[Patient]:
    """Give each patient a ward; to those that are left over, none."""
    wards = [ward for ward, count in WARDS[site].items() for _ in range(count)]
    return [{**row, "ward": ward} for row, ward in zip(rows, [*wards, *[""] * len(rows)], strict=False)]


def told(study: Study, folder: Path) -> dict[str, Found]:
    return {source.name: found_at(study, source) for source in plan_sources(study, folder)}


def test_a_site_tells_the_values_of_enough_patients_and_nothing_of_rarer_ones(tmp_path: Path) -> None:
    write_hospitals(tmp_path, admitted)
    found = told(study(), tmp_path)
    assert {site: item.categories["ward"] for site, item in found.items()} == {
        "east": ["A", "B"], "north": ["B", "C"], "west": ["A", "other"],
    }  # fmt: skip


def test_the_union_is_what_all_encode_by_as_if_the_study_named_it(tmp_path: Path) -> None:
    write_hospitals(tmp_path, admitted)
    assert is_open(study())
    whole = settled(study(), told(study(), tmp_path))
    named = study(agreed=False, categories=["A", "B", "C", "other"], rest="other")
    assert (whole, whole.digest) == (named, named.digest)
    assert not is_open(whole)
    assert whole.data.records is not None
    ward = encoded_features(whole.data.records)[-1]
    assert [encode(cell, ward) for cell in ("A", "C", "other", "secret", "never seen")] == [0, 2, 3, 3, 3]


def test_rows_of_one_patient_count_once(tmp_path: Path) -> None:
    write_hospitals(tmp_path, lambda site, rows: [{**row, "who": row["age"] // 60} for row in admitted(site, rows)])
    again = sections(data={"records": {"features": study().data.records.features}})  # type: ignore[union-attr]
    again["data"]["columns"] = {"label": "outcome", "patient": "who"}
    assert told(Study.model_validate(again), tmp_path)["east"].categories == {"ward": []}


def test_a_value_that_no_hospital_may_name_is_said_with_what_to_do(tmp_path: Path) -> None:
    write_hospitals(tmp_path, lambda site, rows: [{**row, "ward": f"w{place}"} for place, row in enumerate(rows)])
    with pytest.raises(
        DataError, match="no hospital can tell a value of ward: too few patients have any one of them; list"
    ):
        settled(study(), told(study(), tmp_path))


def test_a_column_that_is_no_category_is_refused_with_its_site(tmp_path: Path) -> None:
    def many(site: str, rows: list[Patient]) -> list[Patient]:
        return [{**row, "ward": f"w{place % 60}"} for place, row in enumerate(rows * 5)]

    write_hospitals(tmp_path, many)
    with pytest.raises(DataError, match=r"site east: ward has 60 values .* 50 at most are categories"):
        told(study(), tmp_path)


def test_hospitals_with_too_many_values_together_are_asked_whether_they_write_them_alike() -> None:
    found = {site: Found((), {"ward": [f"{site}{place}" for place in range(30)]}) for site in ("east", "west")}
    with pytest.raises(DataError, match=r"have 60 values of ward together; 50 at most are .* write it alike"):
        settled(study(), found)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"categories": ["A", "B"]}, "agreed stands in place of categories"),
        ({"type": "numeric"}, "categories go with type: categorical"),
        ({"agreed": False, "categories": ["A", "B"], "rest": "C"}, "rest must be one of the categories, given C"),
        ({"record": "sex"}, "agreed stands in place of categories, and for a table's column only"),
    ],
)
def test_what_cannot_be_agreed_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        study(**changes)


def test_a_study_without_agreed_features_is_written_as_ever() -> None:
    plain = Study.model_validate(sections()).model_dump(mode="json")
    assert not {"agreed", "rest"} & plain["data"]["records"]["features"][-1].keys()


def test_a_hospitals_own_feature_file_may_list_its_categories(tmp_path: Path) -> None:
    write_hospitals(tmp_path, admitted)
    for site in ("east", "north", "west"):
        words = "".join(f"  - {{name: {feature['name']}}}\n" for feature in FEATURES)
        own = f"features:\n{words}  - {{name: ward, type: categorical, categories: [A, B, secret]}}\n"
        (tmp_path / site / "features.yaml").write_text(own)
    assert settled(study(), told(study(), tmp_path)).data.records is not None
