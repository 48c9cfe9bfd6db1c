"""What a fit depends on besides the table. Imports nothing heavy, so that --help is quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

OptimizerName = Literal["gradient-descent", "sgd", "newton", "lbfgs"]
LossName = Literal["cross-entropy", "squared"]
ThresholdRule = Literal["f1", "youden"]

ITERATIONS: dict[OptimizerName, int] = {
    "gradient-descent": 2000,
    "sgd": 50,
    "newton": 50,
    "lbfgs": 500,
}
BALANCED = "balanced"


@dataclass(frozen=True)
class FitSettings:
    """How to split, fit and evaluate.

    Attributes:
        held_out: share of the rows kept for evaluation.
        seed: of the split, of the order of mini-batches, and of the bootstrap.
        optimizer: how to minimise the cost.
        iterations: steps at most; for sgd, epochs. None takes the optimizer's `ITERATIONS`.
        tolerance: stop as soon as no |∂J/∂θ| is larger; for sgd, as the cost changes no more.
        patience: stop after so many steps without a lower cost of the validation rows.
        learning_rate: α of gradient-descent and sgd; None takes a safe one.
        momentum, batch_size, l1: of sgd.
        l2: λ, scikit-learn's 1/C.
        loss: which loss of a row to minimise the mean of.
        class_weight: "balanced", or factors for the weights of the rows of a class, by its name.
        threshold: probability from which on the label is class 1, or a rule to choose it by.
    """

    held_out: float = 0.3
    seed: int = 0
    optimizer: OptimizerName = "gradient-descent"
    iterations: int | None = None
    tolerance: float = 1e-6
    patience: int | None = None
    learning_rate: float | None = None
    momentum: float = 0.9
    batch_size: int = 64
    l1: float = 0.0
    l2: float = 1.0
    loss: LossName = "cross-entropy"
    class_weight: str | Mapping[str, float] | None = None
    threshold: float | ThresholdRule = 0.5

    @property
    def most_steps(self) -> int:
        """How many steps the optimizer may take."""
        return self.iterations or ITERATIONS[self.optimizer]
