"""Ctrl-C and SIGTERM: one line, exit status 130, everything recorded; the same command goes on."""

from pathlib import Path
from signal import SIGINT, SIGTERM, Signals
from typing import Any

import pytest

from tests.end_to_end.records import mlflow_client, prefect_records, recorded, run_states
from tests.end_to_end.ward import Ward, running, trained_to_the_end, wait_until
from tests.references.tiny_study import STUDY

pytestmark = pytest.mark.timeout(1500)

# Signal, and the event of the journal after which it is sent: when the first orders have just gone out and nothing
# is in MLflow yet, in mid-training, and while the models to compare with are trained.
STOPS = [
    (SIGINT, "round_planned", {"round": 1}),
    (SIGTERM, "update_received", {"round": 2}),
    (SIGINT, "tested", {}),
]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ward, list[dict[str, Any]]]:
    """A training that was stopped three times and then left to finish; and what was seen after each stop."""
    ward = Ward.make(tmp_path_factory.mktemp("stopped"), evaluate={"compare": ["local", "pooled"]})
    seen = []
    for number, event, match in STOPS:
        with running(ward.start("--dispatcher", "processes:2")) as command:
            command.wait_for(event, **match)
            command.send(number)
            status = command.wait()
        trained = {folder.name: trained_to_the_end(folder) for folder in ward.site_folders()}
        seen.append({
            "status": status, "errors": command.errors(), "states": run_states(ward), "trained": trained,
            "clean": wait_until(lambda: not ward.processes(), limit_s=30), "events": ward.events("interrupted"),
        })  # fmt: skip
    ward.run("--dispatcher", "processes:2")
    return ward, seen


@pytest.mark.parametrize("stop", range(len(STOPS)))
def test_a_stop_says_one_line_and_leaves_nothing_running(stopped: Any, stop: int) -> None:
    _, seen = stopped
    assert (seen[stop]["status"], seen[stop]["errors"]) == (130, seen[stop]["errors"])
    (line,) = seen[stop]["errors"].splitlines()
    assert line.startswith("stopped: training tiny-")
    assert line.endswith("was stopped; the same command resumes it")
    assert seen[stop]["clean"]
    assert len(seen[stop]["events"]) == stop + 1


def test_stopped_runs_are_killed_and_no_run_is_left_running(stopped: Any) -> None:
    _, seen = stopped
    assert [states - {"KILLED"} for states in (item["states"] for item in seen)] == [set()] * 3
    assert seen[-1]["states"] == {"KILLED"}


def test_stopping_a_comparison_does_not_wait_for_its_end(stopped: Any) -> None:
    _, seen = stopped
    compared = [sum(n for (training, _), n in site.items() if "." in training) for site in seen[-1]["trained"].values()]
    assert sum(compared) < 12


def test_a_stopped_training_finishes_as_if_it_had_not_been(stopped: Any, undisturbed: Ward) -> None:
    ward, _ = stopped
    assert ward.digests() == undisturbed.digests()
    assert len(ward.events("training_started")) == 1
    assert recorded(ward) == recorded(undisturbed)
    assert ward.recorded_twice() == []
    ward.verify_journals()


def test_prefect_calls_stopped_runs_cancelled(stopped: Any) -> None:
    ward, _ = stopped
    with prefect_records(ward) as prefect:
        runs = prefect.find("flow_runs")
    trainings = [run["state"]["type"] for run in runs if not run["name"].startswith("round ")]
    assert sorted(trainings) == ["CANCELLED", "CANCELLED", "CANCELLED", "COMPLETED"]
    assert {run["state"]["type"] for run in runs} == {"CANCELLED", "COMPLETED"}


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_a_stop_while_everything_starts_says_one_line(tmp_path: Path, number: Signals) -> None:
    ward = Ward.make(tmp_path)
    with running(ward.start("--dispatcher", "processes:2")) as command:
        opened = ward.home / "trainings" / STUDY / "journal.jsonl.holder"
        assert wait_until(lambda: opened.exists() or command.process.poll() is not None)
        command.send(number)
        assert command.wait() == 130, command.words()
    assert command.errors() == "stopped: nothing recorded is lost; the same command resumes\n"
    assert ward.journal() == ()
    assert wait_until(lambda: not ward.processes(), limit_s=30), ward.processes()


def test_the_same_command_after_the_end_trains_anew_and_versions_count_on(stopped: Any, undisturbed: Ward) -> None:
    """The last one: it adds to what the others look at."""
    ward, _ = stopped
    champion = mlflow_client(ward).get_registered_model(STUDY).aliases["champion"]

    ward.run("--dispatcher", "processes:2")

    client = mlflow_client(ward)
    assert len(ward.events("training_started")) == len(ward.events("training_finished")) == 2
    assert ward.digests() == undisturbed.digests()
    versions = client.search_model_versions(f"name = '{STUDY}'")
    assert sorted(int(version.version) for version in versions) == [1, 2, 3, 4, 5, 6]
    assert int(client.get_model_version_by_alias(STUDY, "latest").version) == 6
    assert client.get_registered_model(STUDY).aliases["champion"] == champion  # the newer is no better
    assert ward.events("training_finished")[-1].data["champion_reason"].startswith("validation/auroc")
    assert run_states(ward) == {"FINISHED"}
    assert ward.recorded_twice() == []
    ward.verify_journals()
