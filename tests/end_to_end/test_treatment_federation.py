"""A study of treatments at real hospitals on loopback: the weights and the judgement of the simulation."""

import pytest

from components.sums_file import read_sums
from tests.end_to_end.both_ways import train_both_ways
from tests.references.open_folder import open_folder
from tests.references.tiny_treatment import survival_changes, write_hospitals, write_study, x_learner

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    "changes", [{}, survival_changes(), x_learner(**survival_changes())], ids=["outcome", "survival", "survival by x"]
)
def test_hospitals_give_the_weights_and_the_benefit_of_the_simulation(changes: dict) -> None:
    with open_folder() as folder:
        write_hospitals(folder)
        found = train_both_ways(write_study(folder, **changes), "drug")
        assert found.weights(found.home) == found.weights(found.simulated)
        assert len(found.weights(found.home)) == 3
        judged = []
        for place in found.homes:
            entry = found.events(place, "tested")[0]
            file = place / "trainings" / "drug" / entry.data["training"] / "test.json"
            judged.append(read_sums(file, entry.data["evaluation"])["global"])
        assert judged[0] == judged[1]
        assert all(sums.treatment is not None for sums in judged[0].values())
