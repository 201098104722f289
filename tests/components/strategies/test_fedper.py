import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.rounds import Update
from components.strategies import FedPer
from tests.references import naive_strategies as naive

MODEL = {"below": torch.zeros(2), "output.weight": torch.ones(2)}


def test_the_sites_are_told_to_keep_their_output_layers() -> None:
    assert FedPer().instructions(FedPer().init(MODEL)) == {"personal": "output"}


@given(values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=5))
def test_the_server_averages_what_is_below_and_keeps_its_own_output(values: list[float]) -> None:
    state = FedPer().init(MODEL)
    sent = [Update(str(k), 1, {"below": torch.full((2,), value)}, weight=k + 1) for k, value in enumerate(values)]
    after = FedPer().aggregate(state, sent)
    expected = naive.mean([{"w": np.float64([value])} for value in values], range(1, len(values) + 1))["w"]
    np.testing.assert_allclose(after.weights["below"].numpy(), expected.repeat(2), rtol=1e-6, atol=1e-6)
    assert torch.equal(after.weights["output.weight"], MODEL["output.weight"])
