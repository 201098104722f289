"""The flow is the simulation, bit for bit: with every strategy, with each dispatcher, disturbed or not.

`tests/properties/test_naive_reference.py` compares the simulation with a loop that knows nothing of ours;
`test_sites_that_fail.py` has FedAdam, disturbed.
"""

from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
import torch

from components.training.personal import load_personal
from tests.end_to_end.records import prefect_records, recorded
from tests.end_to_end.ward import Ward
from tests.references.simulated import run_simulation
from tests.references.tiny_study import STUDY, tiny_study

pytestmark = pytest.mark.timeout(1500)


def simulated_digests(folder: Path, state: Path, **changes: Any) -> dict[int, str]:
    """The digests after each round of the plain loop, in this process."""
    simulation = run_simulation(tiny_study(**changes), folder, state=state)
    return {item.plan.round: item.ref.weights for item in simulation.rounds}


def test_fedavg_in_processes(undisturbed: Ward, tmp_path: Path) -> None:
    assert undisturbed.digests() == simulated_digests(undisturbed.folder, tmp_path)


def test_fedprox_with_two_of_three_sites_a_round(tmp_path: Path) -> None:
    study: dict[str, Any] = {
        "strategy": {"name": "FedProx", "proximal_weight": 0.5},
        "rounds": {"selection": {"count": 2}, "quorum": 2},
        "seed": 4,
    }
    ward = Ward.make(tmp_path / "ward", **study)
    ward.run("--dispatcher", "processes:2")
    assert ward.digests() == simulated_digests(ward.folder, tmp_path / "simulated", **study)
    rosters = [entry.data["plan"]["roster"] for entry in ward.events("round_planned")]
    assert [len(roster) for roster in rosters] == [2, 2, 2]
    assert len({site for roster in rosters for site in roster}) == 3
    assert [entry.data["took_part"] for entry in ward.events("aggregated")] == rosters


@pytest.mark.long
def test_fedbn_keeps_each_sites_layers_over_a_kill_in_mid_training(tmp_path: Path) -> None:
    """With the sites in the coordinator's own process, which dies while the second site trains."""
    ward, state = Ward.make(tmp_path / "ward", strategy={"name": "FedBN"}), tmp_path / "simulated"
    ward.run("--dispatcher", "in-process", status=-SIGKILL, WARDROUND_FAILPOINT="site.trained:5")
    ward.run("--dispatcher", "in-process")

    assert ward.digests() == simulated_digests(ward.folder, state, strategy={"name": "FedBN"})
    (training,) = (entry.data["training"] for entry in ward.events("training_started"))
    for site in ("site-1", "site-2", "site-3"):
        kept = load_personal(ward.home / "sites" / STUDY / site, training, 4)
        expected = load_personal(state / site, "simulated", 4)
        assert len(kept) == 8
        assert kept.keys() == expected.keys()
        assert all(torch.equal(kept[name], expected[name]) for name in kept)
    with prefect_records(ward) as prefect:
        states = [run["state"]["type"] for run in prefect.find("flow_runs") if run["name"].endswith(training)]
    assert set(states) == {"COMPLETED", "CRASHED"}  # none is left running


def test_the_order_of_arrival_changes_nothing_in_the_flow(undisturbed: Ward, tmp_path: Path) -> None:
    ward = Ward.make(tmp_path, evaluate={"compare": ["local", "pooled"]})
    ward.run(program=Path(__file__).with_name("shuffled_arrival.py"))

    arrived = [entry.data["site"] for entry in ward.events("update_received")]
    assert [arrived[start : start + 3] for start in (0, 3, 6)] != [["site-1", "site-2", "site-3"]] * 3
    assert ward.digests() == undisturbed.digests()
    assert recorded(ward) == recorded(undisturbed)
