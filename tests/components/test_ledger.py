"""A journal's trainings, as another version of WardRound may have written them."""

from __future__ import annotations

import pytest

from components.dispatch import InitialModel
from components.errors import StorageError
from components.gateway.records import own_version
from components.journal import Entry
from components.ledger import trainings

INITIAL = InitialModel(weights_digest="0" * 64, statistics=[], normalisation=[], parameters=1)


def line(event: str, **data: object) -> Entry:
    return Entry(seq=1, time="", event=event, data={"training": "t", **data}, previous="", hash="")


def begun(**more: object) -> Entry:
    initial = INITIAL.model_dump(mode="json")
    return line("training_started", study_digest="d", study={}, initial=initial, preparations={}, **more)


def test_the_version_that_wrote_a_training_last_is_known() -> None:
    lines = [begun(code_version="0.1.0"), line("training_resumed", code_version="0.2.0")]
    assert [trainings(lines[:count])["t"].code_version for count in (1, 2)] == ["0.1.0", "0.2.0"]


@pytest.mark.parametrize("plan", [{"round": 1}, {"mode": "asynchronous"}])
def test_a_line_that_only_another_version_can_read_names_both(plan: dict[str, object]) -> None:
    lines = [begun(code_version="9.1.0"), line("round_planned", round=1, plan=plan)]
    with pytest.raises(StorageError, match=rf"WardRound 9\.1\.0 wrote it, this is {own_version()}"):
        trainings(lines)
