import torch
from hypothesis import given
from hypothesis import strategies as st

from components.rounds import Update
from components.strategies import FedAvg, FedProx
from components.weights import digest


def test_the_sites_are_told_the_proximal_weight() -> None:
    strategy = FedProx(proximal_weight=1)
    assert strategy.instructions(strategy.init({"w": torch.zeros(1)})) == {"proximal_weight": 1.0}


@given(values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=5), mu=st.floats(0, 10))
def test_the_server_half_is_that_of_fedavg_whatever_the_proximal_weight(values: list[float], mu: float) -> None:
    sent = [Update(str(k), 1, {"w": torch.tensor([value])}, weight=k + 1) for k, value in enumerate(values)]
    state = FedAvg().init({"w": torch.zeros(1)})
    near, free = FedProx(proximal_weight=mu).aggregate(state, sent), FedAvg().aggregate(state, sent)
    assert digest(near.weights) == digest(free.weights)
