"""Prefect is killed in the middle of a training: the training goes on, and the next one puts right what is shown."""

import os
import re
from pathlib import Path
from signal import SIGKILL

import pytest

from tests.end_to_end.records import recorded, serve_prefect
from tests.end_to_end.ward import Ward, running


@pytest.mark.long
def test_a_training_outlives_prefect(undisturbed: Ward, tmp_path: Path) -> None:
    ward = Ward.make(tmp_path, evaluate={"compare": ["local", "pooled"]})
    with running(ward.start("--dispatcher", "processes:2")) as command:
        command.wait_for("committed", round=1)
        (server,) = [pid for pid, name in ward.processes().items() if "embedded_prefect_child" in name]
        os.kill(server, SIGKILL)
        assert command.wait() == 0, command.words()
    assert re.search("Prefect does not show all of tiny-.*, which is whole: ", command.errors())
    assert ward.digests() == undisturbed.digests()
    assert recorded(ward) == recorded(undisturbed)
    ward.verify_journals()

    (training,) = [entry.data["training"] for entry in ward.events("training_started")]
    with serve_prefect(ward.home) as prefect:
        shown = [run for run in prefect.find("flow_runs") if training in run["name"]]
    assert "RUNNING" in {run["state"]["type"] for run in shown}
    ward.run("--dispatcher", "processes:2")
    with serve_prefect(ward.home) as prefect:
        shown = [run for run in prefect.find("flow_runs") if training in run["name"]]
    assert {run["state"]["type"] for run in shown} == {"COMPLETED"}
