import math
from typing import Any

import pytest

from components.strategies import STRATEGIES

SERVER = ("FedAvgM", "FedAdagrad", "FedAdam", "FedYogi")
BAD = [
    *[(name, "weighting", "steps") for name in STRATEGIES if name != "HistogramBoosting"],  # it adds, and weighs not
    *[("HistogramBoosting", "learning_rate", value) for value in (0, 1.5, math.nan, "0.1")],
    *[("HistogramBoosting", name, -0.5) for name in ("l2", "min_child_weight", "min_gain")],
    ("FedAvg", "weighting", ["samples"]),
    *[("FedProx", "proximal_weight", value) for value in (-0.1, math.nan, math.inf, "0.1", True, None)],
    *[(name, "server_learning_rate", value) for name in SERVER for value in (0, -1.0, math.nan, "1")],
    *[("FedAvgM", "momentum", value) for value in (-0.1, 1, 1.5, math.nan)],
    *[(name, "momentum_decay", value) for name in SERVER[1:] for value in (-0.1, 1.0)],
    *[(name, "second_moment_decay", value) for name in SERVER[2:] for value in (-0.1, 1.0, False)],
    *[(name, "adaptivity", value) for name in SERVER[1:] for value in (0, -1e-3, math.inf)],
]


@pytest.mark.parametrize(("name", "argument", "value"), BAD)
def test_a_bad_value_is_refused_naming_argument_and_value(name: str, argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match="given") as caught:
        STRATEGIES[name](**{argument: value})
    assert str(caught.value).startswith(argument)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("FedAvg", {"weighting": "uniform"}),
        ("FedProx", {"proximal_weight": 0}),
        ("FedAvgM", {"server_learning_rate": 1, "momentum": 0}),
        ("FedAdagrad", {"momentum_decay": 0.9, "adaptivity": 1e-9}),
        ("FedYogi", {"second_moment_decay": 0}),
        ("HistogramBoosting", {"learning_rate": 1.0, "l2": 0.0, "min_child_weight": 0.0, "min_gain": 0.0}),
    ],
)
def test_values_at_the_edge_are_accepted(name: str, arguments: dict[str, Any]) -> None:
    strategy = STRATEGIES[name](**arguments)
    assert {key: getattr(strategy, key) for key in arguments} == arguments
