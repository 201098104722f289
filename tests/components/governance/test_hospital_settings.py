"""What an administrator wrote is read whole, or refused with the line that is wrong."""

from pathlib import Path

import pytest

from components.analytics.plan import Disclosure
from components.errors import RefusedError, StudyError, fit_to_leave
from components.governance.hospital_settings import FILE, HospitalSettings, Policy, read_settings, review_analysis
from components.site_source import SiteSource
from tests.components.analytics.hospitals import study


def read(folder: Path, text: str) -> str:
    """What is wrong with some settings."""
    (folder / FILE).write_text(text, encoding="utf-8")
    with pytest.raises(StudyError) as caught:
        read_settings(folder)
    return str(caught.value)


def test_memory_is_given_in_numbers_above_zero(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("data: {'*': /data}\nmemory_gb: 64\n")
    settings = read_settings(tmp_path)
    assert (settings.memory_gb, settings.memory_growth_gb) == (64.0, 2.0)
    assert "hospital.yaml:2: memory_gb: given 0" in read(tmp_path, "data: {'*': /data}\nmemory_gb: 0\n")


def test_settings_are_read_with_their_defaults(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("data:\n  chest: /films  # a comment\n  '*': /data\npolicy: {studies: ['*', chest]}\n")
    settings = read_settings(tmp_path)
    assert settings.data == {"chest": "/films", "*": "/data"}
    assert (settings.policy.studies, settings.policy.min_sites) == (["*", "chest"], 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data:\n  chest: /films\n  chest: /all\n", "hospital.yaml:3: data.chest: given twice, first in line 2"),
        (
            "data: {'*': /data}\npolicy:\n  min_sites: 5\n  max_epochs: 3\n  min_sites: 1\n",
            "hospital.yaml:5: policy.min_sites: given twice, first in line 3",
        ),
        ("data: {'*': /d}\npolicy: {}\npolicy: {}\n", "hospital.yaml:3: policy: given twice, first in line 2"),
    ],
)
def test_a_key_given_twice_is_refused_with_both_lines(tmp_path: Path, text: str, said: str) -> None:
    assert read(tmp_path, text) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: {'*': /d}\npolicy:\n  min_site: 5\n", "hospital.yaml:3: policy.min_site: unknown key; did you mean"),
        ("data: {'*': /d}\npolicy:\n  min_sites: two\n", "hospital.yaml:3: policy.min_sites: given 'two'; must be"),
        ("data:\n  '*': 7\n", "hospital.yaml:2: data.*: given 7; must be text; write it in quotes: '7'"),
        ("data:\n  a b: /d\n", "hospital.yaml:2: data.a b: the key must be the name of a study, or '*' for any"),
        (
            "data: {'*': /d}\npolicy:\n  studies: [chest, 'a b']\n",
            "hospital.yaml:3: policy.studies[1]: given 'a b'; must be the name of a study, or '*' for any",
        ),
        ("data: {'*': /d}\nsources: {chest: 3}\n", "hospital.yaml:2: sources.chest: given 3; must be a table"),
        ("data: &all /data\n", "hospital.yaml:1: cannot be read as YAML: anchors"),
        ("data: !!python/name:os.system x\n", "hospital.yaml:1: cannot be read as YAML: the tag"),
        ("policy: {}\n", "hospital.yaml: data names no folder; write where the data is"),
        ("# nothing yet\n", "hospital.yaml: is empty; write where the data is, for example  data: {'*': /data}"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_once(tmp_path: Path, text: str, said: str) -> None:
    found = read(tmp_path, text)
    assert found.startswith(said)
    assert "\n" not in found


def test_every_mistake_is_named_in_the_order_of_the_lines(tmp_path: Path) -> None:
    found = read(tmp_path, "policy:\n  max_epochs: 0\n  networks: CNN\ndata: []\n").splitlines()
    assert [line.partition(": ")[0] for line in found] == ["hospital.yaml:2", "hospital.yaml:3", "hospital.yaml:4"]


def test_what_an_administrator_wrote_does_not_leave_with_the_error(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("data: {'*': /d}\npolicy: {min_sites: /ward-7/films}\n")
    with pytest.raises(StudyError, match="/ward-7/films") as caught:
        read_settings(tmp_path)
    assert fit_to_leave(caught.value) == "StudyError; see the hospital's own log"


def test_what_may_leave_of_analyses_is_strict_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("data: {'*': /data}\ndisclosure: {smallest_cell: 10}\n")
    settings = read_settings(tmp_path)
    assert settings.disclosure == Disclosure(smallest_cell=10, rounding=1, queries=200, risk_sets="refuse")
    assert settings.policy.analyses == "accepted"
    assert "hospital.yaml:2: disclosure.smallest_cel: unknown key; did you mean smallest_cell?" in read(
        tmp_path, "data: {'*': /data}\ndisclosure: {smallest_cel: 10}\n"
    )


def test_an_analysis_must_be_named_and_accepted() -> None:
    whole = study(["north", "south"])
    review_analysis(Policy(), whole, accepted=True)
    review_analysis(Policy(analyses="any"), whole, accepted=False)
    with pytest.raises(RefusedError, match=f"has not accepted this version of trial, {whole.digest[:12]}"):
        review_analysis(Policy(), whole, accepted=False)
    with pytest.raises(RefusedError, match="does not name the study trial"):
        review_analysis(Policy(studies=["chest"], analyses="any"), whole, accepted=True)


def test_the_table_of_an_analysis_lies_in_the_sites_own_folder(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("data: {'*': /data}\n")
    assert read_settings(tmp_path).table_of(study(["north"]), "north") == Path("/data/patients.csv")
    part = {"site": "north", "kind": "npz", "path": "/films.npz"}
    source = SiteSource.model_validate({"name": "north", "parts": [part]})
    with pytest.raises(RefusedError, match="no folder of its own"):
        HospitalSettings(sources={"trial": source}).table_of(study(["north"]), "north")
