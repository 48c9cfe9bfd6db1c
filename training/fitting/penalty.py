"""The elastic-net penalty on the weights; L1 alone is the lasso, L2 alone the ridge.

    Ω(w) = λ₁ |w|₁ + λ₂ wᵀw / 2

Both λ are in units of one row's loss. In scikit-learn's terms 1/C = λ₁ + λ₂ and l1_ratio =
λ₁ / (λ₁ + λ₂). The bias is not penalised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.features.columns import Floats


@dataclass(frozen=True)
class Penalty:
    """An elastic net.

    Attributes:
        l1: λ₁, at least 0.
        l2: λ₂, at least 0; with a ridge the cost has a minimum even if the classes are separable.
    """

    l1: float = 0.0
    l2: float = 0.0

    def value(self, weights: Floats) -> float:
        """Return Ω(w)."""
        return float(self.l1 * np.abs(weights).sum() + self.l2 * (weights @ weights) / 2)

    def gradient(self, weights: Floats, loss_gradient: Floats) -> Floats:
        """Return the derivatives of loss + Ω, `[features]`, given those of the loss.

        Where w = 0, the subgradient of |w| is the one that brings the derivative closest to 0, so
        that all derivatives are 0 at the minimum.
        """
        smooth = loss_gradient + self.l2 * weights
        at_zero = np.sign(smooth) * np.maximum(np.abs(smooth) - self.l1, 0.0)
        return np.where(weights == 0, at_zero, smooth + self.l1 * np.sign(weights))

    def scaled(self, factor: float) -> Penalty:
        """Return the penalty with the same effect for `factor` times the rows."""
        return Penalty(self.l1 * factor, self.l2 * factor)
