from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from training.dataset import breast_cancer
from training.export import TrainedModel, export, predict
from training.job import FitSettings, fit


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return fit(breast_cancer(), FitSettings(iterations=200), lambda done, cost: None).model


@pytest.fixture(scope="module")
def signatures(model: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("export")
    export(model, path)
    loaded = tf.saved_model.load(str(path))
    yield loaded.signatures
    del loaded


@pytest.fixture(scope="module")
def rows() -> Any:
    return breast_cancer().features[:20]


def by_column(model: TrainedModel, rows: Any) -> dict[str, Any]:
    return {name: tf.constant(rows[:, i], tf.float32) for i, name in enumerate(model.columns)}


def test_it_predicts_what_was_trained(model: TrainedModel, signatures: Any, rows: Any) -> None:
    logit = (rows - model.mean) / model.scale @ model.weights + model.bias
    outputs = signatures["serving_default"](**by_column(model, rows))
    np.testing.assert_allclose(outputs["logit"], logit, atol=2e-5)
    np.testing.assert_allclose(outputs["probability"], 1 / (1 + np.exp(-logit)), atol=1e-6)
    expected = [model.class_names[int(z >= 0)].encode() for z in logit]
    assert outputs["label"].numpy().tolist() == expected
    np.testing.assert_allclose(predict(model, rows), outputs["probability"], atol=1e-7)


def test_dense_is_the_same_with_one_matrix(model: TrainedModel, signatures: Any, rows: Any) -> None:
    one = signatures["serving_default"](**by_column(model, rows))
    other = signatures["dense"](features=tf.constant(rows, tf.float32))
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_contributions_and_bias_add_up_to_the_logit(
    model: TrainedModel, signatures: Any, rows: Any
) -> None:
    shares = signatures["explain"](**by_column(model, rows))
    assert shares["contribution"].shape == (20, 30)
    logit = signatures["dense"](features=tf.constant(rows, tf.float32))["logit"]
    total = tf.reduce_sum(shares["contribution"], axis=1) + shares["bias"]
    np.testing.assert_allclose(total, logit, rtol=1e-4, atol=1e-5)


def test_describe_tells_what_the_model_is_once_for_each_query(
    model: TrainedModel, signatures: Any
) -> None:
    facts = signatures["describe"](query=tf.constant([0, 0, 0]))
    assert {fact.shape[0] for fact in facts.values()} == {3}
    assert [c.decode() for c in facts["columns"].numpy()[2]] == list(model.columns)
    assert set(facts["kinds"].numpy()[0]) == {b"numeric"}
    assert facts["vocabulary_lengths"].numpy()[0].tolist() == [0] * 30
    np.testing.assert_array_equal(facts["means"].numpy()[1], model.mean)
    np.testing.assert_array_equal(facts["deviations"].numpy()[1], model.scale)
    train_minimum, train_maximum = facts["minimums"].numpy()[0], facts["maximums"].numpy()[0]
    assert (train_minimum < train_maximum).all()
    assert facts["class_names"].numpy()[0].tolist() == [b"malignant", b"benign"]
    assert facts["class_means"].numpy()[0].shape == (2, 30)
    assert facts["threshold"].numpy()[0] == 0.5
    metrics = dict(
        zip(facts["metric_names"].numpy()[0], facts["metric_values"].numpy()[0], strict=True)
    )
    assert metrics[b"accuracy"] == model.metrics["accuracy"]
    assert facts["trained_at"].numpy()[0].decode() == model.trained_at


def test_classify_and_regress_read_examples(
    model: TrainedModel, signatures: Any, rows: Any
) -> None:
    examples = tf.constant(
        [
            tf.train.Example(
                features=tf.train.Features(
                    feature={
                        name: tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
                        for name, value in zip(model.columns, row, strict=True)
                    }
                )
            ).SerializeToString()
            for row in rows
        ]
    )
    probability = predict(model, rows)
    classified = signatures["classification"](inputs=examples)
    np.testing.assert_allclose(classified["scores"][:, 1], probability, atol=1e-6)
    np.testing.assert_allclose(classified["scores"][:, 0], 1 - probability, atol=1e-6)
    assert classified["classes"].numpy()[5].tolist() == [b"malignant", b"benign"]
    np.testing.assert_allclose(
        signatures["regression"](inputs=examples)["outputs"], probability, atol=1e-6
    )


def test_a_directory_that_cannot_be_written_is_an_os_error(
    model: TrainedModel, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    with pytest.raises(OSError, match="file"):
        export(model, in_the_way)
