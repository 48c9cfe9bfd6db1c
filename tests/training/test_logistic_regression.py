from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from training.data import row_store
from training.data.choose import Choice
from training.data.reading import FrameFile, Source
from training.data.split import Split
from training.data.table import read_table
from training.features.columns import Floats
from training.fitting import feature_blocks
from training.fitting.feature_blocks import Block
from training.fitting.logistic_regression import CURVATURE, curvature, gram, propagate
from training.fitting.objective import Objective
from training.fitting.penalty import Penalty
from training.fitting.problem import Problem
from training.fitting.solvers import StochasticGradientDescent
from training.settings import FitSettings, LossName
from training.workers.collectives import Workers

LOSSES = get_args(LossName)
THETA = np.array([0.3, -0.7, 1.1, 0.2])
L2 = [0.0, 2.5]
UNLIMITED = 1 << 30


@pytest.fixture(params=["unweighted", "weighted"])
def rows(request: pytest.FixtureRequest) -> Block:
    """Return 40 rows of 3 features of different scales, with noisy labels."""
    random = np.random.default_rng(7)
    features = random.normal(size=(40, 3)) * [1.0, 3.0, 0.2] + [0.5, 0.0, 0.0]
    labels = (features @ [1.0, -2.0, 0.5] + random.normal(size=40) > 0).astype(float)
    weights = random.uniform(0, 3, 40) if request.param == "weighted" else np.ones(40)
    return Block(tf.constant(features), tf.constant(labels), tf.constant(weights))


def make_objective(
    blocks: list[Block], loss: LossName = "cross-entropy", l2: float = 0.0
) -> Objective:
    return Objective(
        blocks,
        blocks[0].features.shape[1],
        total_weight=sum(float(tf.reduce_sum(block.row_weights)) for block in blocks),
        penalty=Penalty(l2=l2),
        loss=loss,
        workers=Workers(),
    )


def reference_cost(theta: Any, rows: Block, loss: LossName, l2: float) -> Any:
    """Compute J by its definition, for TensorFlow to differentiate."""
    features, y, r = rows
    a = 1 / (1 + tf.exp(-(tf.linalg.matvec(features, theta[:-1]) + theta[-1])))
    losses = {
        "cross-entropy": -(y * tf.math.log(a) + (1 - y) * tf.math.log(1 - a)),
        "squared": (a - y) ** 2 / 2,
    }[loss]
    ridge = l2 * tf.reduce_sum(theta[:-1] ** 2) / 2
    return (tf.reduce_sum(r * losses) + ridge) / tf.reduce_sum(r)


def differentiate(rows: Block, loss: LossName, l2: float) -> tuple[float, Floats, Floats]:
    """Return J at THETA and its first and second derivatives by automatic differentiation."""
    theta = tf.Variable(THETA)
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            cost = reference_cost(theta, rows, loss, l2)
        gradient = inner.gradient(cost, theta)
    return float(cost), gradient.numpy(), outer.jacobian(gradient, theta).numpy()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("l2", L2)
def test_gradient_matches_autodiff_and_finite_differences(
    rows: Block, loss: LossName, l2: float
) -> None:
    objective = make_objective([rows], loss, l2)
    cost, gradient = objective.cost_and_gradient(THETA)
    expected_cost, expected_gradient, _ = differentiate(rows, loss, l2)
    assert cost == pytest.approx(expected_cost, rel=1e-12)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-10)

    step = 1e-6
    for direction, derivative in zip(np.eye(4), gradient, strict=True):
        ahead, behind = (
            objective.cost_and_gradient(THETA + side * step * direction)[0] for side in (1, -1)
        )
        assert (ahead - behind) / (2 * step) == pytest.approx(derivative, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
def test_propagate_sums_losses_and_gradients_over_rows(rows: Block, loss: LossName) -> None:
    sums = propagate(tf.constant(THETA[:3]), tf.constant(THETA[3]), *rows, loss)
    cost, gradient, _ = differentiate(rows, loss, 0.0)
    total = float(tf.reduce_sum(rows.row_weights))
    assert float(sums.loss) == pytest.approx(total * cost, rel=1e-12)
    np.testing.assert_allclose([*sums.dw, sums.db], total * gradient, rtol=1e-10)


@pytest.mark.parametrize("l2", L2)
def test_cross_entropy_hessian_matches_autodiff(rows: Block, l2: float) -> None:
    objective = make_objective([rows], "cross-entropy", l2)
    cost, gradient, hessian = objective.cost_gradient_and_curvature(THETA)
    expected_cost, expected_gradient, expected_hessian = differentiate(rows, "cross-entropy", l2)
    assert cost == pytest.approx(expected_cost, rel=1e-12)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-10)
    np.testing.assert_allclose(hessian, expected_hessian, rtol=1e-10)


@pytest.mark.parametrize("l2", L2)
def test_squared_loss_uses_gauss_newton_hessian(rows: Block, l2: float) -> None:
    _, _, hessian = make_objective([rows], "squared", l2).cost_gradient_and_curvature(THETA)
    with tf.GradientTape() as tape:
        theta = tf.Variable(THETA)
        a = tf.sigmoid(tf.linalg.matvec(rows.features, theta[:-1]) + theta[-1])
    jacobian = tape.jacobian(a, theta).numpy()
    total = rows.row_weights.numpy().sum()
    expected = jacobian.T @ (rows.row_weights.numpy()[:, np.newaxis] * jacobian)
    expected[np.diag_indices(3)] += l2
    np.testing.assert_allclose(hessian, expected / total, rtol=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
def test_curvature_is_symmetric_and_positive_semidefinite(rows: Block, loss: LossName) -> None:
    random = np.random.default_rng(0)
    for size in (0.1, 1.0, 10.0, 1000.0):
        theta = tf.constant(random.normal(size=4) * size)
        hessian = curvature(theta[:-1], theta[-1], rows.features, rows.row_weights, loss).numpy()
        np.testing.assert_allclose(hessian, hessian.T, rtol=1e-12)
        assert np.linalg.eigvalsh(hessian)[0] >= -1e-12 * np.trace(hessian)


def test_gram_matrix_includes_intercept_column(rows: Block) -> None:
    with_ones = np.column_stack([rows.features, np.ones(40)])
    expected = with_ones.T @ np.diag(rows.row_weights) @ with_ones
    np.testing.assert_allclose(gram(rows.features, rows.row_weights), expected, rtol=1e-12)
    mean_square = np.trace(expected) / rows.row_weights.numpy().sum()
    assert make_objective([rows]).mean_square_length() == pytest.approx(mean_square)


@pytest.mark.parametrize(("loss", "expected"), [("cross-entropy", 1000.0), ("squared", 0.5)])
def test_cost_and_derivatives_are_finite_for_saturated_probabilities(
    loss: LossName, expected: float
) -> None:
    misclassified = Block(*map(tf.constant, ([[1000.0], [-1000.0]], [0.0, 1.0], [1.0, 1.0])))
    cost, gradient, hessian = make_objective([misclassified], loss).cost_gradient_and_curvature(
        np.array([1.0, 0.0])
    )
    assert cost == pytest.approx(expected)
    assert np.isfinite(gradient).all()
    assert np.isfinite(hessian).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_curvature_constant_is_largest_second_derivative_of_row_loss(loss: LossName) -> None:
    z = tf.Variable(np.linspace(-8, 8, 20_001))
    largest = 0.0
    for label in (0.0, 1.0):
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                a = tf.sigmoid(z)
                cross_entropy = -(label * tf.math.log(a) + (1 - label) * tf.math.log(1 - a))
                losses = {"cross-entropy": cross_entropy, "squared": (a - label) ** 2 / 2}[loss]
            first = inner.gradient(losses, z)
        largest = max(largest, float(tf.reduce_max(tf.abs(outer.gradient(first, z)))))
    assert largest <= CURVATURE[loss]
    assert largest == pytest.approx(CURVATURE[loss], rel=1e-3)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("l2", [0.0, 2.5, 1000.0])
def test_safe_learning_rate_never_increases_cost(rows: Block, loss: LossName, l2: float) -> None:
    badly_scaled = rows._replace(features=rows.features * [1.0, 100.0, 0.01] + 5)
    objective = make_objective([badly_scaled], loss, l2)
    alpha = objective.safe_learning_rate()
    for start in (np.zeros(4), np.array([0.5, -0.01, 3.0, 1.0])):
        theta, costs = start, []
        for _ in range(100):
            cost, gradient = objective.cost_and_gradient(theta)
            costs.append(cost)
            theta = theta - alpha * gradient
        assert (np.diff(costs) <= 1e-12 * costs[0]).all()
        assert costs[-1] < costs[0]


def test_safe_learning_rate_is_tight_at_zero(rows: Block) -> None:
    # At θ = 0 every a (1 − a) is 1/4, so the bound on the second derivatives is reached.
    objective = make_objective([rows])
    largest = np.linalg.eigvalsh(objective.cost_gradient_and_curvature(np.zeros(4))[2])[-1]
    assert objective.safe_learning_rate() == pytest.approx(1 / largest, rel=1e-12)


@pytest.mark.parametrize(("loss", "alpha"), [("cross-entropy", 1.0), ("squared", 0.25 / 0.0771)])
def test_safe_learning_rate_of_centred_column_with_variance_4(loss: LossName, alpha: float) -> None:
    column = Block(*map(tf.constant, ([[2.0], [-2.0]], [0.0, 1.0], [1.0, 1.0])))
    assert make_objective([column], loss).safe_learning_rate() == pytest.approx(alpha)


@pytest.mark.parametrize("loss", LOSSES)
def test_several_blocks_match_one_block(rows: Block, loss: LossName) -> None:
    blocks = [Block(*(tensor[i:j] for tensor in rows)) for i, j in ((0, 17), (17, 18), (18, 40))]
    single, several = make_objective([rows], loss, 2.5), make_objective(blocks, loss, 2.5)
    actual: Any
    expected: Any
    for actual, expected in zip(
        several.cost_gradient_and_curvature(THETA),
        single.cost_gradient_and_curvature(THETA),
        strict=True,
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-12)
    assert several.safe_learning_rate() == pytest.approx(single.safe_learning_rate(), rel=1e-12)


def make_table(rows: int) -> pl.DataFrame:
    """Return numbers and a category whose features take more memory than the rows."""
    random = np.random.default_rng(1)
    numbers, city = random.normal(size=(rows, 3)) * [1, 50, 0.1], random.integers(0, 30, rows)
    logit = numbers @ [1, 0.02, 5] + (city % 3)
    return pl.DataFrame(
        {
            "a": numbers[:, 0],
            "b": numbers[:, 1],
            "c": pl.Series(numbers[:, 2]).set(pl.Series(random.random(rows) < 0.1), None),
            "city": pl.Series(city).cast(pl.String),
            "weight": random.uniform(0.5, 2, rows),
            "y": np.where(logit + random.logistic(size=rows) > 1, "yes", "no"),
        }
    )


def make_problem(folder: Path, memory: int) -> Problem:
    source = Source("rows", [FrameFile("rows", make_table(6000))])
    split, workers = Split(0.2, 0.0, 0), Workers()
    table = read_table(source, Choice("y", weight="weight"), split, folder, workers, memory)
    return Problem(table, FitSettings(l2=3.0), memory, workers)


@pytest.mark.parametrize(
    ("memory", "values"),
    [
        pytest.param(UNLIMITED, UNLIMITED, id="features in memory"),
        pytest.param(300_000, UNLIMITED, id="rows in memory"),
        pytest.param(0, UNLIMITED, id="rows on disk"),
        pytest.param(0, 10_000, id="rows on disk, in pieces"),
    ],
)
def test_table_larger_than_block_matches_one_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int, values: int
) -> None:
    (tmp_path / "one").mkdir()
    one_block = make_problem(tmp_path / "one", UNLIMITED).objective
    assert [block.features.dtype for block in one_block.blocks] == [tf.float64]

    monkeypatch.setattr(row_store, "MAX_BLOCK_ROWS", 1024)
    monkeypatch.setattr(feature_blocks, "MAX_BLOCK_VALUES", values)
    problem = make_problem(tmp_path, memory)
    assert (tmp_path / "train.rows").exists() == (memory == 0)
    objective = problem.objective
    assert len(list(objective.blocks)) >= 5
    assert objective.total_weight == pytest.approx(one_block.total_weight)
    theta = np.random.default_rng(2).normal(size=one_block.width + 1)
    actual: Any
    expected: Any
    for actual, expected in zip(
        objective.cost_gradient_and_curvature(theta),
        one_block.cost_gradient_and_curvature(theta),
        strict=True,
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_mini_batches_are_the_same_from_memory_and_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_store, "MAX_BLOCK_ROWS", 1024)
    thetas = []
    for memory in (UNLIMITED, 300_000, 0):
        folder = tmp_path / str(memory)
        folder.mkdir()
        objective = make_problem(folder, memory).objective
        assert isinstance(objective.blocks, feature_blocks.Blocks)
        sgd = StochasticGradientDescent(objective.blocks, 5, None, 0.9, 64, 0)
        thetas.append(sgd.step(objective, sgd.start(objective)).theta)
    np.testing.assert_allclose(thetas[1:], [thetas[0]] * 2, atol=1e-5)
    assert np.abs(thetas[0]).max() > 0.1


@pytest.mark.parametrize("memory", [UNLIMITED, 300_000, 0])
def test_each_epoch_visits_every_row_once_in_new_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    monkeypatch.setattr(row_store, "MAX_BLOCK_ROWS", 1024)
    problem = make_problem(tmp_path, memory)
    assert isinstance(problem.objective.blocks, feature_blocks.Blocks)
    random = np.random.default_rng(0)
    epochs = [
        np.concatenate([block.features.numpy()[:, 0] for block in blocks])
        for blocks in (problem.objective.blocks.shuffled(random) for _ in range(2))
    ]
    assert len(epochs[0]) == problem.table.rows["train"]
    assert len(set(epochs[0].tolist())) > 0.99 * len(epochs[0])
    assert not np.array_equal(epochs[0], epochs[1])
    np.testing.assert_allclose(np.sort(epochs[0]), np.sort(epochs[1]), atol=1e-6)


def test_course_exercise_needs_transpose_to_beat_chance() -> None:
    """Repeat benchmarks/course.py with 2 seeds instead of 20."""
    from benchmarks.course import VARIANTS, measure_accuracies

    published, transposed, faster, scikit_learn = (
        np.mean(measure_accuracies(variant, 2)) for variant in VARIANTS.values()
    )
    assert published == pytest.approx(0.5, abs=0.05)  # chance
    assert transposed > 0.8
    assert faster == pytest.approx(scikit_learn, abs=0.01)
