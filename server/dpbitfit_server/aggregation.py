"""The Flower strategies that may aggregate what sites send, by name."""

from collections.abc import Callable, Mapping

from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian

STRATEGIES: Mapping[str, Callable[[float], FedAvg]] = {
    "fedavg": lambda _: FedAvg(),
    "fedadam": lambda learning_rate: FedAdam(eta=learning_rate),
    "fedmedian": lambda _: FedMedian(),
}
