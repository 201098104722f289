"""Strategies: what the server does with the sites' updates. Pure arithmetic over records."""

from components.strategies.adaptive import FedAdagrad, FedAdam, FedYogi
from components.strategies.base import Strategy
from components.strategies.fedavg import FedAvg
from components.strategies.fedavgm import FedAvgM
from components.strategies.fedbn import FedBN
from components.strategies.fedper import FedPer
from components.strategies.fedprox import FedProx
from components.strategies.histogram_boosting import HistogramBoosting
from components.strategies.table import STRATEGIES

__all__ = [
    "STRATEGIES", "FedAdagrad", "FedAdam", "FedAvg", "FedAvgM", "FedBN", "FedPer", "FedProx", "FedYogi",
    "HistogramBoosting", "Strategy",
]  # fmt: skip
