"""Build the objective and the solver from a table and settings, and run the fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from training.data.table import Table
from training.errors import DataError
from training.features.columns import Floats
from training.fitting.checkpoint import Progress
from training.fitting.feature_blocks import Block, Blocks
from training.fitting.minimize import Fit, Stopping, descend
from training.fitting.objective import Objective
from training.fitting.penalty import Penalty
from training.fitting.solvers import (
    GradientDescent,
    Lbfgs,
    Newton,
    Optimizer,
    StochasticGradientDescent,
)
from training.fitting.solvers.newton import solve_positive
from training.settings import FitSettings
from training.workers.collectives import Workers

# Newton's method and L-BFGS start from a sample's solution; thresholds are chosen on a sample.
SAMPLE_ROWS = 65_536


class Problem:
    """A cost to minimise and the settings of its solver.

    Attributes:
        table: the rows.
        objective: the cost over the training rows.
        validation: the cost over the validation rows, if the fit may stop early.
    """

    def __init__(self, table: Table, settings: FitSettings, memory: int, workers: Workers) -> None:
        """Encode the rows once if their features fit into `memory` bytes, else on each pass.

        Raises:
            DataError: a class weight names a class that does not exist.
        """
        self.table = table
        self.workers = workers
        self._settings = settings
        factors = _class_factors(table, settings)
        self._blocks = Blocks(table, table.train, factors, memory)
        weight = float(np.dot(table.class_weights, factors))
        penalty = Penalty(settings.l1, settings.l2)
        self.objective = self._build_objective(self._blocks, weight, penalty)
        self.validation: Objective | None = None
        if settings.patience is not None:
            validation = Blocks(table, table.validation, factors, memory)
            self.validation = self._build_objective(
                validation, self._total_weight(validation), Penalty()
            )

    def fit(
        self,
        progress: Progress | None,
        report: Callable[[int, float], None],
        interrupted: Callable[[], bool],
    ) -> Fit:
        """Run the solver; see `descend`."""
        settings = self._settings
        return descend(
            self._build_optimizer(),
            self.objective,
            Stopping(settings.max_steps, settings.tolerance, settings.patience),
            validation=self.validation,
            progress=progress,
            report=report,
            interrupted=interrupted,
        )

    def standard_errors(self, theta: Floats) -> Floats | None:
        """Return the standard errors of the parameters, `[features + 1]`.

        They are the square roots of the diagonal of the inverse Hessian of the summed cost, ridge
        included. None if they are not valid: the squared loss is not a likelihood, and the L1
        penalty is not differentiable at 0, where it puts some of the weights.
        """
        if self._settings.loss != "cross-entropy" or self._settings.l1:
            return None
        _, _, hessian = self.objective.cost_gradient_and_curvature(theta)
        inverse = solve_positive(hessian * self.objective.total_weight, np.eye(len(theta)))
        return np.sqrt(np.diag(inverse))

    def sample_predictions(self, theta: Floats) -> tuple[Floats, Floats, Floats]:
        """Return probabilities, labels and weights of a sample of the training rows."""
        sample = self._sample()
        weights = sample.row_weights.numpy().astype(np.float64)
        probabilities, labels, weights = (
            self.workers.concatenate(values) for values in (*self._predict(sample, theta), weights)
        )
        return probabilities, labels, weights

    def training_predictions(self, theta: Floats) -> Iterator[tuple[Floats, Floats]]:
        """Yield probabilities and labels of this worker's training rows, block by block."""
        rows = self._blocks.rows
        for block in self._blocks:
            probabilities, labels = self._predict(block, theta)
            yield probabilities[:rows], labels[:rows]  # without the padding of the last block
            rows = max(0, rows - len(labels))  # further blocks are padding only

    def _predict(self, block: Block, theta: Floats) -> tuple[Floats, Floats]:
        parameters = tf.constant(theta, block.features.dtype)
        logit = tf.linalg.matvec(block.features, parameters[:-1]) + parameters[-1]
        tensors = (tf.sigmoid(logit), block.labels)
        probabilities, labels = (tensor.numpy().astype(np.float64) for tensor in tensors)
        return probabilities, labels

    def _build_optimizer(self) -> Optimizer:
        settings = self._settings
        if settings.optimizer == "newton":
            return Newton(settings.tolerance, self._sample_objective())
        if settings.optimizer == "lbfgs":
            return Lbfgs(settings.tolerance, self._sample_objective())
        if settings.optimizer == "sgd":
            return StochasticGradientDescent(
                self._blocks,
                epochs=settings.max_steps,
                learning_rate=settings.learning_rate,
                momentum=settings.momentum,
                batch_size=settings.batch_size,
                seed=settings.seed,
            )
        return GradientDescent(settings.learning_rate)

    def _sample_objective(self) -> Objective | None:
        if self.table.rows["train"] <= 2 * SAMPLE_ROWS:
            return None
        blocks = [self._sample()]
        weight = self._total_weight(blocks)
        penalty = self.objective.penalty.scaled(weight / self.objective.total_weight)
        return self._build_objective(blocks, weight, penalty)

    def _sample(self) -> Block:
        return self._blocks.sample(SAMPLE_ROWS // self.workers.count)

    def _build_objective(
        self, blocks: Blocks | list[Block], weight: float, penalty: Penalty
    ) -> Objective:
        return Objective(
            blocks,
            self._blocks.width,
            total_weight=weight,
            penalty=penalty,
            loss=self._settings.loss,
            workers=self.workers,
        )

    def _total_weight(self, blocks: Blocks | list[Block]) -> float:
        local = sum(float(tf.reduce_sum(block.row_weights)) for block in blocks)
        return float(self.workers.sum(np.array([local]))[0])


def _class_factors(table: Table, settings: FitSettings) -> tuple[float, float]:
    if settings.class_weight is None:
        return 1.0, 1.0
    if isinstance(settings.class_weight, str):  # balanced
        first, second = table.class_weights
        return (first + second) / (2 * first), (first + second) / (2 * second)
    for name in settings.class_weight:
        if name not in table.class_names:
            names = " and ".join(map(repr, table.class_names))
            raise DataError(f"--class-weight: the classes are {names}, not {name!r}")
    first, second = (settings.class_weight.get(name, 1.0) for name in table.class_names)
    return first, second
