"""Blocks of features: in memory if they fit, else encoded from disk on each pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from training.data.row_store import BLOCK_VALUES, Rows, Spool, sample_runs
from training.data.table import Table


class Block(NamedTuple):
    """Tensors: features `[rows, features]`, labels `[rows]` 0 or 1, row weights `[rows]`."""

    features: Any
    labels: Any
    row_weights: Any


class Blocks:
    """Rows as features.

    A table of one block uses float64. With more rows, blocks use float32, like a served model, and
    only their sums are added in float64.
    """

    def __init__(
        self, table: Table, spool: Spool, class_weights: tuple[float, float], memory: int
    ) -> None:
        """Encode the rows now if they fit into `memory` bytes.

        Class weights are factors for the weights of the rows of class 0 and class 1.
        """
        self.rows = spool.rows
        self.width = len(table.encoder.features)
        small = table.rows["train"] <= spool.layout.block_rows
        self.dtype = tf.float64 if small else tf.float32
        self._table = table
        self._spool = spool
        self._class_weights = class_weights
        # The columns record missing values of training rows only.
        self._complete = spool is table.train and not any(c.missing for c in table.columns)
        self._encode_whole_block = tf.function(self._encoded, autograph=False, jit_compile=True)
        rows = spool.layout.block_rows
        while rows > 64 and rows * self.width > BLOCK_VALUES:
            rows //= 2  # features may be many more than columns
        self._block_rows = rows
        fits = spool.kept is not None and spool.rows * self.width * self.dtype.size <= memory
        self._kept = list(self._encode_and_remove(spool.kept or [])) if fits else None

    def __len__(self) -> int:
        """The number of blocks."""
        return -(-self.rows // self._block_rows)

    def batches(self, size: int) -> int:
        """Return the number of mini-batches of `size` rows; the last of a block may be short."""
        whole, rest = divmod(self.rows, self._block_rows)
        return whole * -(-self._block_rows // size) + -(-rest // size)

    def __iter__(self) -> Iterator[Block]:
        if self._kept is not None:
            return iter(self._kept)
        if self._spool.kept is not None:
            return self._pieces_in_memory()
        return self._pieces_on_disk()

    def shuffled(self, random: np.random.Generator) -> Iterator[Block]:
        """Yield the blocks in random order, the rows of each in random order."""
        for number in random.permutation(len(self)).tolist():
            begin = number * self._block_rows
            end = min(begin + self._block_rows, self.rows)
            order = random.permutation(end - begin)
            if self._kept is not None:
                yield Block(*(tf.gather(tensor, order) for tensor in self._kept[number]))
            else:
                yield self._encode_rows(self._spool.read(begin, end).take(order))

    def sample(self, count: int) -> Block:
        """Return an evenly spread sample of rows, or all if there are fewer."""
        if not self._kept:  # on disk, or no rows at all
            return self._encode_rows(self._spool.sample(count))
        runs = []
        for begin, end in sample_runs(self.rows, count):
            while begin < end:
                number, row = divmod(begin, self._block_rows)
                stop = min(self._block_rows, row + end - begin)
                runs.append([tensor[row:stop] for tensor in self._kept[number]])
                begin += stop - row
        return Block(*(tf.concat(tensors, 0) for tensors in zip(*runs, strict=True)))

    def _encode_and_remove(self, kept: list[Rows]) -> Iterator[Block]:
        """Yield encoded rows, and remove them from `kept`, so that memory need not hold both."""
        while kept:
            rows = kept.pop(0)
            for begin in range(0, len(rows), self._block_rows):
                yield self._encode_rows(rows.take(slice(begin, begin + self._block_rows)))

    def _pieces_in_memory(self) -> Iterator[Block]:
        for begin in range(0, self.rows, self._block_rows):
            end = min(begin + self._block_rows, self.rows)
            yield self._encode_rows(self._spool.read(begin, end))

    def _pieces_on_disk(self) -> Iterator[Block]:
        dataset = self._spool.dataset()
        pieces = self._spool.layout.block_rows // self._block_rows
        if pieces > 1:

            @tf.autograph.experimental.do_not_convert  # it would leave files in TMPDIR
            def cut(*block: Any) -> Any:
                return tf.data.Dataset.from_tensor_slices(
                    tuple(tf.reshape(t, [pieces, -1, *t.shape[1:]]) for t in block)
                )

            dataset = dataset.flat_map(cut)
        dataset = dataset.map(self._encode_whole_block, num_parallel_calls=2, deterministic=True)
        return (Block(*block) for block in dataset.prefetch(1))

    def _encode_rows(self, rows: Rows) -> Block:
        # Compile only for the one frequent shape.
        whole = len(rows) == self._block_rows
        encode = self._encode_whole_block if whole else self._encoded
        return Block(*encode(rows.numbers, rows.wide, rows.codes, rows.label, rows.weight))

    def _encoded(self, numbers: Any, wide: Any, codes: Any, label: Any, weight: Any) -> Block:
        cells = self._table.cells(numbers, wide, codes)
        features = self._table.encoder.encode(cells, self.dtype, complete=self._complete)
        labels = tf.cast(tf.gather(tf.constant(self._table.class_of), label), self.dtype)
        class_weights = tf.constant(self._class_weights, self.dtype)
        factor = class_weights[0] + labels * (class_weights[1] - class_weights[0])
        return Block(features, labels, tf.cast(weight, self.dtype) * factor)
