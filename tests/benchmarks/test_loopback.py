"""Times of a federation's rounds are read from its journal as they were; memory is that of its own processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import coordinator_memory, federated_rounds, many_hospitals
from benchmarks.commands import Finished
from benchmarks.loopback import WARM_UP, RoundTime, databases, federated, loopback, round_times, with_rounds
from benchmarks.processes import WARM, WORKER, Memory, kind_of, memory_by_kind, memory_of
from components.dispatch import InitialModel
from components.ledger import RoundLedger, TrainingLedger
from components.rounds import Answer, RoundPlan


def training(*times: dict[str, float]) -> TrainingLedger:
    """A training whose sites trained for so many seconds in each round; the evaluation took 0.25 s."""
    initial = InitialModel(weights_digest="0" * 64, statistics=[], normalisation=[], parameters=1)
    ledger = TrainingLedger("t", "0" * 64, {}, initial, {})
    for number, sites in enumerate(times, 1):
        plan = RoundPlan(
            study="s", study_digest="0" * 64, training="t", round=number, base_digest="0" * 64, roster=sorted(sites),
            quorum=1, deadline_s=9.0,
        )  # fmt: skip
        received = {
            site: Answer(kind="train", site=site, round=number, nonce="n", status="done", seconds={"train": seconds})
            for site, seconds in sites.items()
        }
        durations = dict.fromkeys(sites, 0.125) | {"north": 0.25}
        ledger.rounds[number] = RoundLedger(plan, received=received, evaluation_durations=durations)
    return ledger


def test_a_round_lasts_from_one_decision_to_the_next_and_its_training_is_the_slowest_site_s() -> None:
    ledger = training({"north": 5.0}, {"north": 1.0, "south": 0.5}, {"north": 0.25, "south": 0.75})
    found = round_times(ledger, [100.0, 102.0, 103.0])
    assert found == [RoundTime(2.0, 1.0, 0.25), RoundTime(1.0, 0.75, 0.25)]
    assert [item.beyond_s for item in found] == [1.0, 0.25]


def runs(beyond: float, first: float) -> list[federated_rounds.Run]:
    times = [RoundTime(1.0 + beyond, 1.0, 0.125)] * 3
    return [federated_rounds.Run("sqlite", model, first, times, 0.5) for model in federated_rounds.MODELS]


def test_rounds_are_judged_by_what_lies_beyond_training() -> None:
    text = federated_rounds.report(runs(0.75, 20.0)).text
    said = [line.split("|")[-2].strip() for line in text.splitlines() if line.startswith(("| round beyond", "| first"))]
    assert said == ["no", "no", "yes", "no"]  # tiny: 0.75 s of 0.5, and 20 s of 15; 28 MB: 0.75 s of 1.0


def test_a_study_has_the_hospitals_rounds_and_parameters_that_are_asked_for(tmp_path: Path) -> None:
    study = federated(5, 0.01, tmp_path, rounds=7)
    assert (study.sites.count, study.rounds.max) == (5, 7)  # type: ignore[union-attr]
    assert databases("sqlite", tmp_path) == ["sqlite"]


def test_a_coordinator_that_keeps_an_update_of_each_hospital_does_not_hold() -> None:
    def judged(few: int, many: int) -> list[str]:
        found = [coordinator_memory.Run(3, few, 10**8, 0.5), coordinator_memory.Run(12, many, 10**8, 0.5)]
        lines = coordinator_memory.report(found).text.splitlines()
        return [line.split("|")[-2].strip() for line in lines if "hospitals over" in line]

    assert judged(600_000_000, 610_000_000) == ["yes", "yes"]
    assert judged(600_000_000, 600_000_000 + 9 * 28_000_000) == ["no", "yes"]


def test_a_round_with_fewer_hospitals_than_asked_is_not_said_to_hold() -> None:
    def text(training: int) -> str:
        found = many_hospitals.Found(64, training, "sqlite", 60.0, 30.0, [RoundTime(2.0, 0.1, 0.1)], 10**9, 0.5)
        memory = {WORKER: [Memory(2, 1, 3)], WARM: [Memory(2, 1, 3)]}
        return many_hospitals.report(found, memory, memory).text

    assert "| yes" in text(64)
    assert "do not fit" not in text(64)
    assert "with 40 that train" in text(40)
    assert "40 of them prepare, train and evaluate" in text(40)


@pytest.mark.skipif(memory_of() is None, reason="there is no /proc to read memory from")
def test_memory_that_is_shared_is_divided() -> None:
    hold = "import os, sys; held = os.urandom(200 << 20); os.fork(); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, "flows.hospital_process"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == [b"\n", b"\n"]
        found = memory_of(process.pid)
        assert kind_of(process.pid) == WORKER
        process.communicate()
    assert found is not None
    assert found.resident > 200 << 20
    assert 100 << 20 < found.own < 150 << 20
    assert memory_of(process.pid) is None


def test_where_nothing_is_up_no_process_is_found(tmp_path: Path) -> None:
    assert memory_by_kind(tmp_path) == {}


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_real_federation_is_measured_and_nothing_of_it_stays(tmp_path: Path) -> None:
    study = federated(3, 0.01, tmp_path, rounds=WARM_UP + 1)
    with loopback(study, tmp_path, "sqlite") as up:
        many_hospitals.wait_connected(up.home)
        idle = memory_by_kind(up.home)
        many_hospitals.let_in(up.home, 2)
        trained = up.train(with_rounds(study, quorum=2))
        after = memory_by_kind(up.home)
    assert isinstance(trained.finished, Finished)
    assert trained.roster == ["site-1", "site-2"]
    assert len(trained.rounds) == 1
    assert 0 < trained.rounds[0].training_s < trained.rounds[0].whole_s < trained.finished.seconds
    assert 0 < trained.first_round_s < trained.finished.seconds
    assert (len(idle[WORKER]), WARM in idle, len(after[WORKER]), len(after[WARM])) == (3, False, 3, 2)
    assert 60e6 < max(memory.resident for memory in idle[WORKER]) < min(memory.resident for memory in after[WARM])
    assert not (tmp_path / "home").exists()
    here = str(tmp_path).encode()
    commands = [
        path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.name != str(os.getpid())
    ]
    assert not any(here in command for command in commands)
