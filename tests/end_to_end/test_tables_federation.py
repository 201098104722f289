"""A tabular study at real hospitals on loopback: the weights of the simulation, and every site left out once."""

import pytest

from components.sums_file import read_sums
from tests.end_to_end.both_ways import train_both_ways
from tests.references.open_folder import open_folder
from tests.references.tiny_table import FEATURES, SITES, write_hospitals, write_study

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
TREES = {  # of a tree's root, in the second round: sums with disclosure control
    "network": {"name": "BoostedTrees", "arguments": {"trees": 2, "depth": 2, "bins": 12}},
    "strategy": {"name": "HistogramBoosting"},
    "local": {"batch_size": 32, "optimizer": {"learning_rate": 0.05}},
}


AGREED = {  # the categories of pain, which the hospitals tell first
    "data": {"records": {"features": [*FEATURES[:-1], {"name": "pain", "type": "categorical", "agreed": True}]}}
}


@pytest.mark.parametrize("changes", [AGREED, TREES], ids=["logistic regression", "trees"])
def test_hospitals_tables_give_the_weights_of_the_simulation_and_each_is_left_out_once(changes: dict) -> None:
    with open_folder() as folder:
        write_hospitals(folder)
        evaluate = {"bins": 100, "external": "leave_one_site_out", "subgroups": [{"feature": "sex"}]}
        found = train_both_ways(write_study(folder, rounds={"max": 2}, evaluate=evaluate, **changes), "table")
        assert found.weights(found.home) == found.weights(found.simulated)
        assert len(found.weights(found.home)) == 2
        left_out = []
        for place in found.homes:
            entry = found.events(place, "externally_tested")[0]
            file = place / "trainings" / "table" / entry.data["training"] / "external.json"
            left_out.append(read_sums(file, entry.data["evaluation"])["left_out"])
        assert {site: sums.count for site, sums in left_out[0].items()} == SITES
        assert left_out[0] == left_out[1]
