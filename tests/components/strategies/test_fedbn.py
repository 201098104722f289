import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.rounds import Update
from components.strategies import FedBN
from tests.references import naive_strategies as naive

MODEL = {"conv": torch.zeros(2), "norm.weight": torch.ones(2), "norm.running_var": torch.full((2,), 3.0)}
STATISTICS = frozenset({"norm.running_var"})


def test_the_sites_are_told_to_keep_their_normalisation() -> None:
    assert FedBN().instructions(FedBN().init(MODEL, STATISTICS)) == {"personal": "normalisation"}


@given(values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=5))
def test_the_server_averages_the_rest_and_keeps_its_own_normalisation(values: list[float]) -> None:
    state = FedBN().init(MODEL, STATISTICS)
    sent = [Update(str(k), 1, {"conv": torch.full((2,), value)}, weight=k + 1) for k, value in enumerate(values)]
    after = FedBN().aggregate(state, sent)
    expected = naive.mean([{"w": np.float64([value])} for value in values], range(1, len(values) + 1))["w"]
    np.testing.assert_allclose(after.weights["conv"].numpy(), expected.repeat(2), rtol=1e-6, atol=1e-6)
    assert torch.equal(after.weights["norm.weight"], MODEL["norm.weight"])
    assert torch.equal(after.weights["norm.running_var"], MODEL["norm.running_var"])
    assert after.statistics == STATISTICS


def test_a_statistic_that_left_its_site_is_refused() -> None:
    state = FedBN().init(MODEL, STATISTICS)
    sent = Update("a", 1, {"conv": torch.zeros(2), "norm.running_var": torch.ones(2)}, weight=1)
    with pytest.raises(ValueError, match=r"must stay at the sites: .*running_var"):
        FedBN().aggregate(state, [sent])


def test_a_statistic_that_is_what_it_was_says_nothing_of_a_site() -> None:
    state = FedBN().init(MODEL, STATISTICS)
    sent = [Update(site, 1, {"conv": torch.ones(2), "norm.running_var": torch.full((2,), 3.0)}, 7) for site in "ab"]
    after = FedBN().aggregate(state, sent)
    assert torch.equal(after.weights["norm.running_var"], MODEL["norm.running_var"])
    assert torch.equal(after.weights["conv"], torch.ones(2))


def test_sites_that_keep_different_entries_are_refused() -> None:
    sent = [
        Update("a", 1, {"conv": torch.zeros(2)}, weight=1),
        Update("b", 1, {"norm.weight": torch.ones(2)}, weight=1),
    ]
    with pytest.raises(ValueError, match="entries differ"):
        FedBN().aggregate(FedBN().init(MODEL, STATISTICS), sent)
