"""What an administrator accepts once."""

from pathlib import Path

import pytest

from components.errors import RefusedError, StorageError
from components.governance.acceptances import Acceptance, Acceptances

GIVEN = Acceptance(by="ward", given="2026-11-23T01:02:03+00:00", reason="the coordinator's disk was lost")


def test_an_acceptance_is_used_once_and_for_its_training_alone(tmp_path: Path) -> None:
    acceptances = Acceptances(tmp_path)
    acceptances.give("chest-1", GIVEN)
    assert acceptances.take("chest-2") is None
    assert acceptances.take("chest-1") == GIVEN
    assert acceptances.take("chest-1") is None


def test_one_that_others_could_have_written_does_not_count(tmp_path: Path) -> None:
    acceptances = Acceptances(tmp_path)
    acceptances.give("chest-1", GIVEN)
    (tmp_path / "accepted" / "chest-1.json").chmod(0o666)
    with pytest.raises(StorageError, match="chmod 600"):
        acceptances.take("chest-1")


@pytest.mark.parametrize("training", ["../federation", "", "a/b"])
def test_only_a_training_is_accepted(tmp_path: Path, training: str) -> None:
    with pytest.raises(RefusedError, match="no training's name"):
        Acceptances(tmp_path).give(training, GIVEN)


def test_an_analysis_is_accepted_by_its_digest_until_that_is_taken_back(tmp_path: Path) -> None:
    acceptances = Acceptances(tmp_path)
    acceptances.give_analysis("trial", "d" * 64, GIVEN)
    assert acceptances.analysis("trial", "d" * 64) == acceptances.analysis("trial", "d" * 64) == GIVEN
    assert acceptances.analysis("trial", "e" * 64) is None
    assert acceptances.take_back_analysis("trial", "d" * 64)
    assert not acceptances.take_back_analysis("trial", "d" * 64)
    assert acceptances.analysis("trial", "d" * 64) is None


def test_an_acceptance_of_an_analysis_that_others_could_have_written_does_not_count(tmp_path: Path) -> None:
    acceptances = Acceptances(tmp_path)
    acceptances.give_analysis("trial", "d" * 64, GIVEN)
    (tmp_path / "accepted" / "analyses" / f"trial-{'d' * 64}.json").chmod(0o666)
    with pytest.raises(StorageError, match="chmod 600"):
        acceptances.analysis("trial", "d" * 64)
