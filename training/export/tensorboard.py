"""TensorBoard logs: the cost and the graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from training.export.serving_module import LogisticRegressionModule, TrainedModel


def write_logs(
    directory: Path,
    model: TrainedModel,
    costs: Sequence[float],
    validation_costs: Sequence[float],
) -> None:
    """Write an event file with the costs by step and the serving graph.

    Raises:
        OSError: the directory cannot be written.
    """
    module = LogisticRegressionModule(model)
    inputs = {column.name: tf.TensorSpec([None], column.dtype) for column in model.columns}
    graph = tf.function(module.by_column, autograph=False).get_concrete_function(inputs).graph
    try:
        writer = tf.summary.create_file_writer(str(directory))
        with writer.as_default():
            tf.summary.graph(graph)
            for name, values in (("cost", costs), ("validation_cost", validation_costs)):
                for step, value in enumerate(values):
                    tf.summary.scalar(name, value, step)
        writer.close()
    except tf.errors.OpError as error:
        raise OSError(error.message) from error
