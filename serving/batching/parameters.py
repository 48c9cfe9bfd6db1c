"""Batching parameters, from `--batching_parameters_file` or a version's own file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.config import messages_pb2
from serving.config.text_proto import ConfigError, read_text_proto
from serving.errors import invalid_argument

FILE = "batching_params.pbtxt"
DEFAULT_MAX_BATCH_SIZE = 1000
DEFAULT_MAX_ENQUEUED_BATCHES = 10
POSITIVE, NON_NEGATIVE = 1, 0


@dataclass(frozen=True)
class BatchingParameters:
    """The parameters of batching, named as in the files.

    Attributes:
        max_batch_size: maximum rows of a request, and of a batch unless requests are split.
        batch_timeout: seconds that a batch may wait for more rows.
        max_enqueued_batches: maximum batches in a queue; beyond it, requests are refused.
        allowed_batch_sizes: sizes to which batches are padded; none: any size.
        pad_variable_length_inputs: pad dimensions other than the first to the batch's longest.
        enable_large_batch_splitting: split a request into several batches.
        max_execution_batch_size: maximum rows of a batch if requests are split.
    """

    max_batch_size: int = DEFAULT_MAX_BATCH_SIZE
    batch_timeout: float = 0.0
    max_enqueued_batches: int = DEFAULT_MAX_ENQUEUED_BATCHES
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = DEFAULT_MAX_BATCH_SIZE

    @classmethod
    def of(cls, message: Any) -> BatchingParameters:
        """Read a `BatchingParameters` message.

        Raises:
            ServingError: INVALID_ARGUMENT, a value is out of range or contradicts another.
        """
        max_batch_size = _value(message, "max_batch_size", DEFAULT_MAX_BATCH_SIZE, POSITIVE)
        splitting = message.enable_large_batch_splitting.value
        execution = max_batch_size
        if splitting:
            execution = _value(message, "max_execution_batch_size", max_batch_size, POSITIVE)
        batches = _value(
            message, "max_enqueued_batches", DEFAULT_MAX_ENQUEUED_BATCHES, NON_NEGATIVE
        )
        parameters = cls(
            max_batch_size=max_batch_size,
            batch_timeout=_value(message, "batch_timeout_micros", 0, NON_NEGATIVE) / 1e6,
            max_enqueued_batches=max(1, batches),  # one batch is always open
            allowed_batch_sizes=tuple(message.allowed_batch_sizes),
            pad_variable_length_inputs=message.pad_variable_length_inputs,
            enable_large_batch_splitting=splitting,
            max_execution_batch_size=execution,
        )
        parameters._check()
        return parameters

    def padded_size(self, rows: int) -> int:
        """Return the smallest allowed batch size that holds this many rows."""
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows)

    def _check(self) -> None:
        sizes = self.allowed_batch_sizes
        if self.max_execution_batch_size > self.max_batch_size:
            raise invalid_argument(
                "max_execution_batch_size should be less than or equal to max_batch_size; "
                f"was {self.max_execution_batch_size} and {self.max_batch_size}"
            )
        # Releases of TensorFlow Serving differ in which of the two they expect.
        if sizes and sizes[-1] not in (self.max_batch_size, self.max_execution_batch_size):
            raise invalid_argument(
                "Last entry in allowed_batch_sizes must match max_batch_size; "
                f"last entry was {sizes[-1]}; expected {self.max_batch_size}"
            )


@dataclass(frozen=True)
class BatchingOptions:
    """The server's batching options.

    Attributes:
        threads: maximum batches computed at once, over all models.
        parameters: parameters of every model; None: those of each version's own file; a version
            without one is not batched.
    """

    threads: int
    parameters: BatchingParameters | None

    @classmethod
    def of(cls, message: Any, *, per_model: bool) -> BatchingOptions:
        """Read a `BatchingParameters` message.

        Args:
            message: the server's message.
            per_model: take everything but the threads from each version's own file.

        Raises:
            ServingError: see `BatchingParameters.of`.
        """
        threads = _value(message, "num_batch_threads", os.cpu_count() or 1, POSITIVE)
        return cls(threads, None if per_model else BatchingParameters.of(message))


def read_parameters(version: Path) -> BatchingParameters | None:
    """Read a version's own parameters; None if it has no `batching_params.pbtxt`.

    Raises:
        ServingError: INVALID_ARGUMENT, it cannot be parsed, or see `BatchingParameters.of`.
    """
    file = version / FILE
    if not file.is_file():
        return None
    try:
        message = read_text_proto(file, messages_pb2.BatchingParameters(), "batching parameters")
    except ConfigError as error:
        raise invalid_argument(str(error)) from error
    return BatchingParameters.of(message)


def _value(message: Any, name: str, default: int, minimum: int) -> int:
    value = int(getattr(message, name).value) if message.HasField(name) else default
    if value < minimum:
        kind = "positive" if minimum == POSITIVE else "non-negative"
        raise invalid_argument(f"{name} must be {kind}; was {value}")
    return value
