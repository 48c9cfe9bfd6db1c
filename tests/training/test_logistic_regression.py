from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression

from training.dataset import Floats, breast_cancer, split
from training.evaluation import evaluate
from training.job import FitSettings, fit
from training.logistic_regression import (
    CURVATURE,
    Loss,
    optimize,
    propagate,
    safe_learning_rate,
)


@pytest.fixture
def data() -> tuple[Floats, Floats]:
    generator = np.random.default_rng(7)
    features = generator.normal(size=(40, 3))
    labels = (features @ [1.0, -2.0, 0.5] + generator.normal(size=40) > 0).astype(float)
    return features, labels


def cost_of(w: Any, b: Any, features: Any, labels: Any, l2: float, loss: Loss) -> Any:
    """The cost as its definition has it, for TensorFlow to differentiate."""
    a = tf.sigmoid(tf.linalg.matvec(features, w) + b)
    losses = {
        "cross-entropy": -(labels * tf.math.log(a) + (1 - labels) * tf.math.log(1 - a)),
        "squared": (a - labels) ** 2 / 2,
    }[loss]
    return tf.reduce_mean(losses) + l2 * tf.reduce_sum(w**2) / (2 * len(labels))


@pytest.mark.parametrize("loss", ["cross-entropy", "squared"])
@pytest.mark.parametrize("l2", [0.0, 2.5])
def test_the_written_out_derivatives_are_those_of_the_cost(
    data: tuple[Floats, Floats], l2: float, loss: Loss
) -> None:
    features, labels = map(tf.constant, data)
    w, b = tf.Variable([0.3, -0.7, 1.1], dtype=tf.float64), tf.Variable(0.2, dtype=tf.float64)
    ours = propagate(w, b, features, labels, l2, loss)

    with tf.GradientTape() as tape:
        cost = cost_of(w, b, features, labels, l2, loss)
    dw, db = tape.gradient(cost, [w, b])
    np.testing.assert_allclose(ours.cost, cost, rtol=1e-12)
    np.testing.assert_allclose(ours.dw, dw, rtol=1e-10)
    np.testing.assert_allclose(ours.db, db, rtol=1e-10)

    step = 1e-6
    for index, derivative in enumerate([*ours.dw.numpy(), ours.db.numpy()]):
        shift = np.eye(4)[index] * step
        ahead, behind = (
            cost_of(w + side * shift[:3], b + side * shift[3], features, labels, l2, loss)
            for side in (1, -1)
        )
        assert float(ahead - behind) / (2 * step) == pytest.approx(derivative, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("loss", ["cross-entropy", "squared"])
def test_the_curvature_is_the_largest_second_derivative_of_the_loss(loss: Loss) -> None:
    z = tf.Variable(np.linspace(-8, 8, 20_001))
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            a = tf.sigmoid(z)
            total = tf.reduce_sum(
                tf.math.softplus(z) if loss == "cross-entropy" else (a - 0.0) ** 2 / 2
            )
        first = inner.gradient(total, z)
    second = outer.gradient(first, z)
    largest = float(tf.reduce_max(tf.abs(second)))
    assert largest <= CURVATURE[loss]
    assert largest == pytest.approx(CURVATURE[loss], rel=1e-3)


def test_the_cost_is_finite_where_a_probability_rounds_to_one() -> None:
    features, labels = (
        tf.constant([[1000.0], [-1000.0]], tf.float64),
        tf.constant([0.0, 1.0], tf.float64),
    )
    right = propagate(tf.ones(1, tf.float64), tf.zeros((), tf.float64), features, labels, 0.0)
    assert float(right.cost) == pytest.approx(1000.0)


@pytest.mark.parametrize("loss", ["cross-entropy", "squared"])
def test_the_safe_learning_rate_never_lets_the_cost_go_up(
    data: tuple[Floats, Floats], loss: Loss
) -> None:
    features, labels = data
    features = features * [1.0, 100.0, 0.01] + 5
    costs = optimize(features, labels, iterations=500, l2=0.5, loss=loss).costs
    assert costs[0] == pytest.approx({"cross-entropy": np.log(2), "squared": 1 / 8}[loss])
    assert (np.diff(costs) <= 1e-12).all()
    assert costs[-1] < 0.9 * costs[0]


def test_the_safe_learning_rate_is_no_smaller_than_it_must_be() -> None:
    # One centred column of variance 4: λmax = 4, so L = 1 and α = 1.
    assert safe_learning_rate(np.array([[2.0], [-2.0]]), 0.0) == pytest.approx(1.0)


def test_a_learning_rate_that_diverges_is_an_error_and_not_nan_weights() -> None:
    features = np.array([[1e200], [-1e200]])
    with pytest.raises(FloatingPointError, match=r"diverged .* learning rate 1e\+200"):
        optimize(features, np.array([1.0, 0.0]), iterations=100, learning_rate=1e200, l2=1.0)


def test_progress_is_reported_to_the_last_iteration(data: tuple[Floats, Floats]) -> None:
    seen: list[tuple[int, float]] = []
    result = optimize(*data, iterations=120, report=lambda done, cost: seen.append((done, cost)))
    assert [done for done, _ in seen] == [50, 100, 120]
    assert len(result.costs) == 120
    assert seen[-1][1] == pytest.approx(result.costs[-1])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_as_good_as_scikit_learn_on_the_same_split(seed: int) -> None:
    table = breast_cancer()
    assert (len(table), len(table.columns)) == (569, 30)
    assert table.class_names == ("malignant", "benign")
    train, test = split(table, held_out=0.3, seed=seed)
    mean, scale = train.features.mean(axis=0), train.features.std(axis=0)
    theirs = LogisticRegression(max_iter=10_000).fit((train.features - mean) / scale, train.labels)
    probabilities = theirs.predict_proba((test.features - mean) / scale)[:, 1]
    expected = evaluate(test.labels, probabilities, 0.5)

    model = fit(table, FitSettings(seed=seed), lambda done, cost: None).model
    assert model.metrics["accuracy"] >= expected["accuracy"] - 0.005
    assert model.metrics["log_loss"] == pytest.approx(expected["log_loss"], abs=0.01)
    assert model.metrics["auc"] == pytest.approx(expected["auc"], abs=0.005)


def test_the_same_seed_gives_the_same_weights_bit_for_bit() -> None:
    table = breast_cancer()
    settings = FitSettings(seed=3, iterations=60)
    first, second = (fit(table, settings, lambda done, cost: None).model for _ in range(2))
    np.testing.assert_array_equal(first.weights, second.weights)
    other = fit(table, FitSettings(seed=4, iterations=60), lambda done, cost: None).model
    assert not np.array_equal(first.weights, other.weights)


def test_a_constant_column_gets_no_weight_and_breaks_nothing() -> None:
    table = breast_cancer()
    table.features[:, 4] = 7.0
    model = fit(table, FitSettings(iterations=200), lambda done, cost: None).model
    assert np.isfinite(model.weights).all()
    assert model.weights[4] == 0.0


def test_the_course_s_exercise_and_its_published_fault() -> None:
    """What benchmarks/course.py measures over 20 seeds, here over a few."""
    from benchmarks.course import WAYS, accuracies

    published, transposed, faster, theirs = (np.mean(accuracies(way)) for way in WAYS.values())
    assert published == pytest.approx(0.48, abs=0.02)  # chance
    assert transposed == pytest.approx(0.87, abs=0.02)
    assert faster == pytest.approx(theirs, abs=0.01)
