"""Several studies in one home: who has no data for a study takes no part in it, and nobody waits for them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.packages import ROOT
from tests.end_to_end.loopback import Loopback
from tests.references.open_folder import open_folder

TRIAL, TREATMENT = ROOT / "studies" / "trial.yaml", ROOT / "studies" / "treatment.yaml"
pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def consortium() -> Iterator[Loopback]:
    """A home in which one study was analysed before the hospitals of another came."""
    with open_folder() as folder:
        found = Loopback(TREATMENT, "treatment", folder / "home")
        try:
            found.run("up", str(TRIAL))
            found.run("analyse", str(TRIAL))
            found.run("down")
            said = found.run("up", str(TREATMENT)).stdout
            assert "up: east, north, south, west, with data for treatment" in said
            assert "up: site-1, site-2, site-3, site-4, with data for trial" in said
            yield found
        finally:
            found.run("down", check=False)


def test_a_training_does_not_ask_for_the_hospitals_of_another_study(consortium: Loopback) -> None:
    said = consortium.run("train", str(TREATMENT), "--rounds", "2").stdout
    assert "taking no part, without data for the study treatment: site-1, site-2, site-3, site-4" in said
    (started,) = consortium.events("training_started")
    assert started.data["without_data"] == ["site-1", "site-2", "site-3", "site-4"]
    assert sorted(started.data["preparations"]) == ["east", "north", "south", "west"]
    assert len(consortium.events("committed")) == 2


def test_an_analysis_does_not_either_and_its_report_says_so(consortium: Loopback) -> None:
    said = consortium.run("analyse", str(TRIAL), "--fresh").stdout
    assert "Note: Taking no part, without data for the study trial: east, north, south, west." in said
    assert ": 4 sites. " in said


def test_what_nobody_has_data_for_says_so_and_begins_with_whoever_has(consortium: Loopback, tmp_path: Path) -> None:
    study = tmp_path / "other.yaml"
    study.write_text(TRIAL.read_text().replace("study: trial", "study: other"))
    failed = consortium.run("analyse", str(study), check=False)
    assert failed.returncode == 5
    assert "no hospital has data for the study other (asked: east, north, site-1, site-2" in failed.stderr
    status = " ".join(consortium.run("status").stdout.split())
    assert "stopped: no hospital has data for the study other" in status
    assert "once that is mended, the same command takes it up again" in status
    consortium.run("down")
    consortium.run("up", str(study), str(TREATMENT))
    said = consortium.run("analyse", str(study)).stdout
    assert ": 4 sites. " in said
    assert "other-" not in consortium.run("status").stdout
