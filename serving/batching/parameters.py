"""Batching parameters, from `--batching_parameters_file` or a version's own file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.config import messages_pb2
from serving.config.text_proto import ConfigError, read_text_proto
from serving.errors import invalid_argument

FILE_NAME = "batching_params.pbtxt"
DEFAULT_MAX_BATCH_SIZE = 1000
DEFAULT_MAX_ENQUEUED_BATCHES = 10
POSITIVE, NON_NEGATIVE = 1, 0


@dataclass(frozen=True)
class BatchingParameters:
    """Batching parameters, named as in the files.

    Attributes:
        max_batch_size: maximum rows in a request, and in a batch unless requests are split.
        batch_timeout: seconds that a batch may wait for more rows.
        max_enqueued_batches: maximum batches in a queue; further requests are rejected.
        allowed_batch_sizes: sizes to which batches are padded; empty: no padding.
        pad_variable_length_inputs: pad dimensions other than the first to the longest in a batch.
        enable_large_batch_splitting: allow a request to be split into several batches.
        max_execution_batch_size: maximum rows in a batch if requests are split.
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
        max_batch_size = _read_int(message, "max_batch_size", DEFAULT_MAX_BATCH_SIZE, POSITIVE)
        splitting = message.enable_large_batch_splitting.value
        max_execution = max_batch_size
        if splitting:
            max_execution = _read_int(message, "max_execution_batch_size", max_batch_size, POSITIVE)
        max_enqueued = _read_int(
            message, "max_enqueued_batches", DEFAULT_MAX_ENQUEUED_BATCHES, NON_NEGATIVE
        )
        parameters = cls(
            max_batch_size=max_batch_size,
            batch_timeout=_read_int(message, "batch_timeout_micros", 0, NON_NEGATIVE) / 1e6,
            max_enqueued_batches=max(1, max_enqueued),  # one batch is always open
            allowed_batch_sizes=tuple(message.allowed_batch_sizes),
            pad_variable_length_inputs=message.pad_variable_length_inputs,
            enable_large_batch_splitting=splitting,
            max_execution_batch_size=max_execution,
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
        threads: maximum number of batches computed at once, across all models.
        parameters: parameters for all models; None: read each version's own file, and do not batch
            versions without one.
    """

    threads: int
    parameters: BatchingParameters | None

    @classmethod
    def of(cls, message: Any, *, per_model: bool) -> BatchingOptions:
        """Read a `BatchingParameters` message.

        Args:
            message: the server's message.
            per_model: read everything but the number of threads from each version's own file.

        Raises:
            ServingError: see `BatchingParameters.of`.
        """
        threads = _read_int(message, "num_batch_threads", os.cpu_count() or 1, POSITIVE)
        return cls(threads, None if per_model else BatchingParameters.of(message))


def read_parameters(version: Path) -> BatchingParameters | None:
    """Read a version's own parameters; None if it has no `batching_params.pbtxt`.

    Raises:
        ServingError: INVALID_ARGUMENT, it cannot be parsed; see also `BatchingParameters.of`.
    """
    file = version / FILE_NAME
    if not file.is_file():
        return None
    try:
        message = read_text_proto(file, messages_pb2.BatchingParameters(), "batching parameters")
    except ConfigError as error:
        raise invalid_argument(str(error)) from error
    return BatchingParameters.of(message)


def _read_int(message: Any, name: str, default: int, minimum: int) -> int:
    value = int(getattr(message, name).value) if message.HasField(name) else default
    if value < minimum:
        kind = "positive" if minimum == POSITIVE else "non-negative"
        raise invalid_argument(f"{name} must be {kind}; was {value}")
    return value
