"""The settings of a fit. Imports nothing heavy, so that --help is quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

OptimizerName = Literal["gradient-descent", "sgd", "newton", "lbfgs"]
LossName = Literal["cross-entropy", "squared"]
ThresholdRule = Literal["f1", "youden"]

MAX_ITERATIONS: dict[OptimizerName, int] = {
    "gradient-descent": 2000,
    "sgd": 50,
    "newton": 50,
    "lbfgs": 500,
}
BALANCED = "balanced"


@dataclass(frozen=True)
class FitSettings:
    """Settings of the split, the fit and the evaluation.

    Attributes:
        held_out: fraction of the rows held out for evaluation.
        seed: seed of the split, the order of mini-batches and the bootstrap.
        optimizer: the solver.
        iterations: maximum number of steps (epochs for sgd); None: the solver's `MAX_ITERATIONS`.
        tolerance: largest |∂J/∂θ| at which the fit stops; for sgd, largest change of the cost.
        patience: number of steps without a lower validation cost after which the fit stops.
        learning_rate: α of gradient-descent and sgd; None chooses a safe one.
        momentum: μ (sgd only).
        batch_size: number of rows in a mini-batch (sgd only).
        l1, l2: λ₁ (sgd only) and λ₂ of the elastic net; with λ₁ = 0, λ₂ is scikit-learn's 1/C.
        loss: loss per row; the cost is its mean.
        class_weight: "balanced", or factors for the row weights by class name.
        threshold: smallest probability that is labelled class 1, or the rule that chooses it.
    """

    held_out: float = 0.3
    seed: int = 0
    optimizer: OptimizerName = "lbfgs"
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
    def max_steps(self) -> int:
        """The maximum number of steps."""
        return self.iterations or MAX_ITERATIONS[self.optimizer]

    @property
    def step_name(self) -> str:
        """The name of the solver's steps: iteration or epoch."""
        return "epoch" if self.optimizer == "sgd" else "iteration"

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> FitSettings:
        """Read settings from a manifest; ignore settings of other releases."""
        names = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in names})
