"""Blocks of features, in memory if they fit, else encoded on each pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from training.data.row_store import MAX_BLOCK_VALUES, Rows, Spool, sample_runs
from training.data.table import Table


class Block(NamedTuple):
    """Tensors: features `[rows, features]`, labels `[rows]` 0 or 1, row weights `[rows]`."""

    features: Any
    labels: Any
    row_weights: Any


class Blocks:
    """The rows of a spool, encoded as features.

    A table of one block uses float64. With more rows, blocks use float32, like a served model, and
    only their sums are added in float64.
    """

    def __init__(
        self, table: Table, spool: Spool, class_weights: tuple[float, float], memory: int
    ) -> None:
        """Encode the rows now if they fit into `memory` bytes.

        `class_weights` are factors for the row weights of class 0 and class 1.
        """
        self.rows = spool.rows
        self.width = len(table.encoder.features)
        is_one_block = table.rows["train"] <= spool.layout.block_rows
        self.dtype = tf.float64 if is_one_block else tf.float32
        self._table = table
        self._spool = spool
        self._class_weights = class_weights
        # Columns record missing values of training rows only.
        self._is_complete = spool is table.train and not any(c.missing for c in table.columns)
        self._encode_whole_block = tf.function(self._encode, autograph=False, jit_compile=True)
        rows = spool.layout.block_rows
        while rows > 64 and rows * self.width > MAX_BLOCK_VALUES:
            rows //= 2  # there may be many more features than columns
        self._block_rows = rows
        fits = spool.kept is not None and spool.rows * self.width * self.dtype.size <= memory
        self._blocks = list(self._encode_and_release(spool.kept or [])) if fits else None

    def __len__(self) -> int:
        """The number of blocks."""
        return -(-self.rows // self._block_rows)

    def batches(self, size: int) -> int:
        """Return the number of mini-batches of `size` rows; the last of a block may be short."""
        full_blocks, remainder = divmod(self.rows, self._block_rows)
        return full_blocks * -(-self._block_rows // size) + -(-remainder // size)

    def __iter__(self) -> Iterator[Block]:
        if self._blocks is not None:
            return iter(self._blocks)
        if self._spool.kept is not None:
            return self._encode_from_memory()
        return self._encode_from_disk()

    def shuffled(self, random: np.random.Generator) -> Iterator[Block]:
        """Yield the blocks in random order, each with its rows in random order."""
        for index in random.permutation(len(self)).tolist():
            begin = index * self._block_rows
            end = min(begin + self._block_rows, self.rows)
            order = random.permutation(end - begin)
            if self._blocks is not None:
                yield Block(*(tf.gather(tensor, order) for tensor in self._blocks[index]))
            else:
                yield self._encode_rows(self._spool.read(begin, end).take(order))

    def sample(self, count: int) -> Block:
        """Return an evenly spread sample of rows, or all if there are fewer."""
        if not self._blocks:  # on disk, or no rows at all
            return self._encode_rows(self._spool.sample(count))
        runs = []
        for begin, end in sample_runs(self.rows, count):
            while begin < end:
                index, start = divmod(begin, self._block_rows)
                stop = min(self._block_rows, start + end - begin)
                runs.append([tensor[start:stop] for tensor in self._blocks[index]])
                begin += stop - start
        return Block(*(tf.concat(tensors, 0) for tensors in zip(*runs, strict=True)))

    def _encode_and_release(self, chunks: list[Rows]) -> Iterator[Block]:
        """Yield encoded blocks and remove their rows, so that memory need not hold both."""
        while chunks:
            rows = chunks.pop(0)
            for begin in range(0, len(rows), self._block_rows):
                yield self._encode_rows(rows.take(slice(begin, begin + self._block_rows)))

    def _encode_from_memory(self) -> Iterator[Block]:
        for begin in range(0, self.rows, self._block_rows):
            end = min(begin + self._block_rows, self.rows)
            yield self._encode_rows(self._spool.read(begin, end))

    def _encode_from_disk(self) -> Iterator[Block]:
        dataset = self._spool.dataset()
        split_count = self._spool.layout.block_rows // self._block_rows
        if split_count > 1:

            @tf.autograph.experimental.do_not_convert  # it would leave files in TMPDIR
            def split(*block: Any) -> Any:
                return tf.data.Dataset.from_tensor_slices(
                    tuple(tf.reshape(t, [split_count, -1, *t.shape[1:]]) for t in block)
                )

            dataset = dataset.flat_map(split)
        dataset = dataset.map(self._encode_whole_block, num_parallel_calls=2, deterministic=True)
        return (Block(*block) for block in dataset.prefetch(1))

    def _encode_rows(self, rows: Rows) -> Block:
        # Compile only for the most frequent shape.
        is_whole = len(rows) == self._block_rows
        encode = self._encode_whole_block if is_whole else self._encode
        return Block(*encode(rows.numbers, rows.wide, rows.codes, rows.label, rows.weight))

    def _encode(self, numbers: Any, wide: Any, codes: Any, label: Any, weight: Any) -> Block:
        cells = self._table.cells(numbers, wide, codes)
        features = self._table.encoder.encode(cells, self.dtype, complete=self._is_complete)
        labels = tf.cast(tf.gather(tf.constant(self._table.class_of), label), self.dtype)
        class_weights = tf.constant(self._class_weights, self.dtype)
        factor = class_weights[0] + labels * (class_weights[1] - class_weights[0])
        return Block(features, labels, tf.cast(weight, self.dtype) * factor)
