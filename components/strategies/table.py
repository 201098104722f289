"""The closed table of strategies: a study names one of these and nothing else."""

from __future__ import annotations

from components.strategies.adaptive import FedAdagrad, FedAdam, FedYogi
from components.strategies.base import Strategy
from components.strategies.fedavg import FedAvg
from components.strategies.fedavgm import FedAvgM
from components.strategies.fedbn import FedBN
from components.strategies.fedper import FedPer
from components.strategies.fedprox import FedProx
from components.strategies.histogram_boosting import HistogramBoosting

STRATEGIES: dict[str, type[Strategy]] = {
    "FedAvg": FedAvg,
    "FedProx": FedProx,
    "FedBN": FedBN,
    "FedPer": FedPer,
    "FedAvgM": FedAvgM,
    "FedAdagrad": FedAdagrad,
    "FedAdam": FedAdam,
    "FedYogi": FedYogi,
    "HistogramBoosting": HistogramBoosting,
}

# Whose site half keeps nothing from round to round: an update may then count in a later round than it was made for.
ASYNCHRONOUS = frozenset({"FedAvg", "FedProx", "FedAvgM", "FedAdagrad", "FedAdam", "FedYogi"})
