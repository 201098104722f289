"""Asynchronous trainings: nobody waits for a slow site, every version is what the journal says, killed or not."""

from collections import Counter
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.end_to_end.records import prefect_records, recorded, run_states
from tests.end_to_end.test_same_bits import simulated_digests
from tests.end_to_end.ward import Ward, wait_until
from tests.references.replayed import replay
from tests.references.tiny_study import STUDY, tiny_study

pytestmark = pytest.mark.timeout(900)
SLOW_SITE = Path(__file__).with_name("slow_site.py")


def make(folder: Path, *, rounds: int = 6, buffer: int = 2, **others: Any) -> tuple[Ward, dict[str, Any]]:
    changes: dict[str, Any] = {"rounds": {"mode": "async", "max": rounds, "buffer": buffer, **others}}
    return Ward.make(folder, **changes), changes


def assert_as_the_journal_says(ward: Ward, changes: dict[str, Any], state: Path) -> None:
    """Each version has the bits that its recorded updates come to, trained again."""
    assert ward.digests() == replay(tiny_study(**changes), ward.journal(), ward.folder, state=state)


def test_nobody_waits_for_a_slow_site_and_its_update_counts_later_with_its_staleness(tmp_path: Path) -> None:
    ward, changes = make(tmp_path / "ward")
    ward.run("--dispatcher", "processes:2", program=SLOW_SITE)

    staleness = {entry.data["round"]: entry.data["staleness"] for entry in ward.events("aggregated")}
    assert all(staleness[number] == {"site-1": 0, "site-2": 0} for number in (1, 2, 3))
    late = {number: found["site-3"] for number, found in staleness.items() if "site-3" in found}
    counted = min(late)
    assert counted > 3
    assert late[counted] == counted - 1
    assert [entry.data["at_work"] for entry in ward.events("aggregated")][:3] == [{"site-3": 1}] * 3
    assert ward.events("evaluated", round=1)[0].data["judged_before"] == {"site-3": 0}
    assert_as_the_journal_says(ward, changes, tmp_path / "replayed")

    client = MlflowClient(ward.mlflow_uri, ward.mlflow_uri)
    versions = {int(v.tags["wardround.round"]): v.tags for v in client.search_model_versions(f"name='{STUDY}'")}
    assert sorted(versions) == [1, 2, 3, 4, 5, 6]
    assert versions[1]["wardround.missing"] == "site-3: at work since round 1"
    assert f'"site-3": {counted - 1}' in versions[counted]["wardround.staleness"]
    with prefect_records(ward) as prefect:
        runs = [run["state"] for run in prefect.find("task_runs") if run["name"] == "train at site-3, since round 1"]
    assert {run["type"] for run in runs} == {"COMPLETED"}
    assert "AtWork" in {run["name"] for run in runs}


def test_with_a_buffer_of_all_sites_it_is_the_synchronous_training_bit_for_bit(tmp_path: Path) -> None:
    ward, _ = make(tmp_path / "ward", rounds=3, buffer=3)
    ward.run("--dispatcher", "processes:2")
    assert ward.digests() == simulated_digests(ward.folder, tmp_path / "simulated")
    assert {age for entry in ward.events("aggregated") for age in entry.data["staleness"].values()} == {0}


KILLS = {
    "an update arrived": "journal.after:update_received:5",
    "before an aggregation is recorded": "journal.before:aggregated:3",
    "aggregated, and the next round open": "journal.after:round_planned:4",
    "judged beside the next round": "journal.before:evaluated:2",
    "registered, not committed": "journal.before:committed:3",
    "the last work taken back": "journal.after:late_dropped",
}
SOME = "aggregated, and the next round open"


@pytest.mark.parametrize(
    "failpoint", [pytest.param(KILLS[name], id=name, marks=() if name == SOME else pytest.mark.long) for name in KILLS]
)
def test_a_killed_training_goes_on_as_its_journal_says(tmp_path: Path, failpoint: str) -> None:
    ward, changes = make(tmp_path / "ward")
    command = ward.start("--dispatcher", "processes:2", WARDROUND_FAILPOINT=failpoint)
    assert command.wait() == -SIGKILL, command.words()
    assert wait_until(lambda: not ward.processes(), limit_s=120), ward.processes()
    before = [(e.data["round"], e.data["site"]) for e in ward.events("update_received")]

    ward.run("--dispatcher", "processes:2")

    received = [(e.data["round"], e.data["site"]) for e in ward.events("update_received")]
    assert received[: len(before)] == before
    assert Counter(number for number, _ in received) == dict.fromkeys(range(1, 7), 2)
    for event in ("aggregated", "evaluated", "committed"):
        assert [entry.data["round"] for entry in ward.events(event)] == [1, 2, 3, 4, 5, 6]
    assert_as_the_journal_says(ward, changes, tmp_path / "replayed")
    assert len(recorded(ward)["versions"]) == 6
    assert ward.recorded_twice() == []
    assert run_states(ward) == {"FINISHED"}
    ward.verify_journals()
