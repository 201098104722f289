"""Columns that a study names by a pattern: what it meets in a table, and whether that is the same at every hospital."""

from pathlib import Path

import pandas
import pytest

from components.data.patterns import has_pattern, met_columns, with_columns
from components.data.sources import plan_sources
from components.errors import DataError, StudyError
from components.study import Study
from components.wide import MOST_COLUMNS
from tests.references.tiny_genes import class_study, write_hospitals
from tests.references.tiny_table import write_table

NAMES = ["gene_00000", "gene_00001", "gene_00002"]


def study(pattern: str = "gene_*", **wide: int) -> Study:
    """A study that names its columns by a pattern."""
    return class_study(0, wide={"columns": [], "pattern": pattern, **(wide or {"keep": 2})})


def met(study: Study, folder: Path) -> dict[str, list[str]]:
    return {source.name: met_columns(study, source) for source in plan_sources(study, folder)}


def test_a_pattern_meets_the_columns_of_that_name_in_any_order_and_no_other(tmp_path: Path) -> None:
    write_hospitals(tmp_path, 3, change=lambda site, rows: [dict(sorted(row.items(), reverse=True)) for row in rows])
    assert met(study(), tmp_path) == {site: NAMES for site in ("east", "north", "west")}
    assert met(study("gene_0000[01]"), tmp_path)["east"] == NAMES[:2]
    assert met(study("gene_0000?"), tmp_path)["west"] == NAMES


def test_a_study_with_a_pattern_becomes_the_study_that_names_its_columns(tmp_path: Path) -> None:
    write_hospitals(tmp_path, 3)
    assert has_pattern(study())
    found = with_columns(study(), met(study(), tmp_path))
    assert found == class_study(3, wide={"keep": 2})
    assert found.digest == class_study(3, wide={"keep": 2}).digest
    assert not has_pattern(found)


def test_features_and_the_outcome_are_not_met(tmp_path: Path) -> None:
    write_table(tmp_path / "east" / "patients.csv", [{"age": 3, "age_a": 1, "age_b": 2, "outcome": "ill"}])
    (source,) = [source for source in plan_sources(study("age*"), tmp_path) if source.name == "east"]
    assert met_columns(study("age*"), source) == ["age_a", "age_b"]


def test_the_columns_of_a_parquet_file_are_met(tmp_path: Path) -> None:
    write_hospitals(tmp_path, 3)
    for file in tmp_path.rglob("patients.csv"):
        pandas.read_csv(file).to_parquet(file)
    assert met(study(), tmp_path)["north"] == NAMES


def test_each_hospital_that_lacks_columns_is_named_with_them() -> None:
    many = [f"gene_{number}" for number in range(9)]
    with pytest.raises(DataError) as raised:
        with_columns(study(), {"east": many, "north": many[:2], "west": [*many[:-1], "gene_x"]})
    assert str(raised.value) == (
        "data.records.wide.pattern gene_* does not meet the same columns at all sites: east lacks gene_x; north lacks "
        "gene_2, gene_3, gene_4, gene_5, gene_6 and 3 more; west lacks gene_8. Mend the tables, or name the columns "
        "that all have in a file: data.records.wide.columns"
    )


@pytest.mark.parametrize("pattern", ["genes_*", "gene_00001*"])
def test_a_pattern_that_meets_fewer_than_two_columns_is_refused(pattern: str, tmp_path: Path) -> None:
    write_hospitals(tmp_path, 3)
    with pytest.raises(DataError, match=r"site east: data.records.wide.pattern .* meets [01] columns of its table"):
        met(study(pattern), tmp_path)


def test_more_columns_than_may_be_are_refused(tmp_path: Path) -> None:
    names = ["age", "outcome", *(f"gene_{number}" for number in range(MOST_COLUMNS + 1))]
    (tmp_path / "east").mkdir()
    (tmp_path / "east" / "patients.csv").write_text(",".join(names) + "\n")
    (source,) = [source for source in plan_sources(study(), tmp_path) if source.name == "east"]
    with pytest.raises(DataError, match=r"meets 50001 columns of its table; there must be 2 at least and 50,000 at"):
        met_columns(study(), source)


def test_more_than_the_columns_that_were_met_cannot_be_kept() -> None:
    with pytest.raises(StudyError, match=r"pattern gene_\*: .*keep must be at most the number of columns, 3, given 4"):
        with_columns(study(keep=4), {"east": NAMES})
