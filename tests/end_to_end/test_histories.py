"""The same patients as a CSV, as FHIR and as OMOP: the same table, and the same trained weights, bit for bit."""

from pathlib import Path
from types import ModuleType

import pytest
import torch

from components.data.site_data import SiteData, open_site_data
from components.data.sources import plan_sources
from components.errors import DataError
from components.journal import read
from components.ledger import trainings
from components.site_source import SiteSource, SourcePart
from components.study_file import load_study
from flows import api
from flows.cli import main
from tests.references import followed, histories

pytestmark = pytest.mark.timeout(300)

FORMATS = ("table", "bundles", "ndjson", "omop", "parquet")


WARDS = (histories, followed)  # whether a patient gets it; and when, with one of two drugs


def write_site(folder: Path, site: str, kind: str, ward: ModuleType = histories) -> None:
    """Write one hospital in a format."""
    people, rows = ward.ward(site, ward.SITES[site])
    if kind == "table":
        histories.write_csv(folder / site, rows)
    elif kind == "bundles":
        histories.write_bundles(folder / site, people)
    elif kind == "ndjson":
        histories.write_ndjson(folder / site, people, packed=site == "west")
    else:
        histories.write_omop(folder / site, people, parquet=kind == "parquet")


def opened(folder: Path, kind: str, ward: ModuleType = histories, site: str = "north") -> SiteData:
    """Write a hospital, and open it."""
    write_site(folder, site, kind, ward)
    study = ward.histories_study()
    source = next(source for source in plan_sources(study, folder) if source.name == site)
    return open_site_data(study, source, folder / "state")


@pytest.mark.parametrize("ward", WARDS)
@pytest.mark.parametrize("kind", FORMATS[1:])
def test_every_format_gives_the_table_of_the_csv(kind: str, ward: ModuleType, tmp_path: Path) -> None:
    expected, found = opened(tmp_path / "table", "table", ward), opened(tmp_path / kind, kind, ward)
    for split in ("train", "validation", "test"):
        assert torch.equal(found.images(split).nan_to_num(-1), expected.images(split).nan_to_num(-1))
        assert torch.equal(found.labels(split), expected.labels(split))
    assert found.counts == expected.counts
    assert found.images("train").isnan().any() == (ward is histories)  # some have no cholesterol, in both


def weights(folder: Path, kinds: dict[str, str], ward: ModuleType) -> list[str]:
    """Train hospitals of these formats; return the digest of the weights after each round."""
    for site, kind in kinds.items():
        write_site(folder, site, kind, ward)
    study = histories.write_study(folder, ward.sections())
    outcome = api.simulate(study, home=folder / "home", dispatcher="in-process")
    journal = folder / "home" / "trainings" / "histories" / "journal.jsonl"
    ledger = trainings(read(journal))[outcome.training]
    return [item.require_state().weights for _, item in sorted(ledger.rounds.items())]


@pytest.mark.parametrize(
    ("ward", "formats"), [(histories, ["omop", "bundles", "ndjson"]), (followed, ["ndjson", "parquet", "omop"])]
)
def test_hospitals_of_unlike_formats_train_to_the_weights_of_plain_tables(
    ward: ModuleType, formats: list[str], tmp_path: Path
) -> None:
    tables = weights(tmp_path / "tables", dict.fromkeys(ward.SITES, "table"), ward)
    mixed = weights(tmp_path / "mixed", dict(zip(ward.SITES, formats, strict=True)), ward)
    assert mixed == tables
    assert len(set(tables)) == 2


def test_two_hospitals_with_another_unit_and_another_code_are_named_with_their_fields(tmp_path: Path) -> None:
    for site, count in histories.SITES.items():
        people, _ = histories.ward(site, count)
        for record in (record for person in people for record in person.records):
            if site == "west" and record.code == histories.CHOL:
                record.number, record.unit = round((record.number or 0) / 38.67, 2), "mmol/L"
            if site == "east" and record.code == histories.DIABETES:
                record.code = ("http://hl7.org/fhir/sid/icd-10", "E11.9", 0)
        histories.write_ndjson(tmp_path / site, people)
    study = histories.write_study(tmp_path, histories.sections("fhir"))
    with pytest.raises(DataError) as caught:
        api.simulate(study, home=tmp_path / "home", dispatcher="in-process")
    message = str(caught.value)
    assert "east: its records are not what the study says: no record has a code of diabetes" in message
    assert "west: its records are not what the study says: chol is in another unit than mg/dl (mmol/l) in" in message
    assert load_study(study).data.records is not None


def look(tmp_path: Path, ward: ModuleType, capsys: pytest.CaptureFixture[str]) -> str:
    """Look at a hospital's OMOP with the command, and write ``rows.csv``; return what it says."""
    write_site(tmp_path, "north", "omop", ward)
    study, table = histories.write_study(tmp_path, ward.sections()), tmp_path / "rows.csv"
    with pytest.raises(SystemExit) as ended:
        main(["records", str(study), str(tmp_path / "north"), "-o", str(table)])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("ward", WARDS)
def test_a_hospital_looks_at_what_a_study_makes_of_its_records(
    ward: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = look(tmp_path, ward, capsys)
    assert "omop: 110 patients, 110 of them in the study, 110 usable" in said
    assert "with a code of chol" in said
    plain = SiteSource(name="north", parts=[SourcePart(site="north", kind="folder", path=str(tmp_path / "rows.csv"))])
    read_again = open_site_data(ward.histories_study(), plain, tmp_path / "state")
    expected = opened(tmp_path / "again", "bundles", ward)
    assert torch.equal(read_again.images("train").nan_to_num(-1), expected.images("train").nan_to_num(-1))
    assert torch.equal(read_again.labels("train"), expected.labels("train"))


def test_the_command_counts_outcomes_arms_and_deaths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = " ".join(look(tmp_path, followed, capsys).replace("│", " ").split())
    people, rows = followed.ward("north", followed.SITES["north"])
    for what, count in (
        ("rows: event", sum(row["infarct"] for row in rows)),
        ("rows: censored", sum(not row["infarct"] for row in rows)),
        ("rows: arm new", sum(row["drug"] == "new" for row in rows)),
        ("of death", sum(bool(person.died) for person in people)),
    ):
        assert f"{what} {count}" in said


def test_a_damaged_file_is_named_where_the_hospital_looks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_site(tmp_path, "north", "ndjson")
    study, file = histories.write_study(tmp_path, histories.sections()), tmp_path / "north" / "Condition.ndjson"
    file.write_text(file.read_text()[:-30])
    with pytest.raises(SystemExit) as ended:
        main(["records", str(study), str(tmp_path / "north")])
    assert ended.value.code == DataError.exit_code
    assert f"it is {file}, line " in capsys.readouterr().err
