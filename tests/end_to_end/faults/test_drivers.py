"""Two commands that want to drive the same study: one does, the other says so and leaves everything alone."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.end_to_end.faults.trained import Trained

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]


def test_a_second_train_says_who_drives_and_changes_nothing(trained: Trained) -> None:
    ward = trained.ward
    with trained.disturbed() as row:
        row.reach("asked")
        row.strike()
        second = ward.run("train", str(ward.study), check=False)
        row.notice(lambda: second.returncode == 6)
        assert f"process {row.train.pid}" in second.stderr
        assert second.stderr.startswith("error: ")
        assert second.stderr.count("\n") == 1
        assert row.train.poll() is None
        row.go_on()
        row.end()
    assert row.events("training_resumed") == []
    row.record("a second `wardround train` of the same study", "asked")


def test_of_two_that_take_up_a_killed_training_one_drives(trained: Trained) -> None:
    ward = trained.ward
    with trained.disturbed() as row, ExitStack() as stack:
        row.reach("aggregated")
        row.strike()
        row.train.kill()
        row.train.wait()
        both = [stack.enter_context(ward.running("train", str(ward.study))) for _ in range(2)]
        other = row.notice(lambda: next((one for one in both if one.poll() is not None), None))
        (driving,) = set(both) - {other}
        said, _ = other.communicate(timeout=60)
        assert other.returncode == 6, said
        assert f"process {driving.pid}" in said
        row.go_on()
        row.end(driving)
    assert len(row.events("training_resumed")) == 1
    row.record("a training killed, and two `wardround train` at once", "aggregated")
