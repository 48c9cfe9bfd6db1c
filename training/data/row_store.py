"""The row store: blocks of equal size, in memory if they fit, otherwise on disk.

A table is parsed once, while a fit passes over its rows many times. Rows that do not fit into
memory are stored in a file of fixed-length records without a header, which `tf.data` reads. Each
record is a block of the arrays of `Rows`; the last one is padded with rows of weight 0, which add
nothing to any sum.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

MAX_BLOCK_ROWS = 65_536
MIN_BLOCK_ROWS = 1024
MAX_BLOCK_VALUES = 4 << 20
SAMPLE_RUNS = 64


@dataclass(frozen=True)
class Rows:
    """Parsed rows as arrays.

    Attributes:
        numbers: float32 `[rows, columns]`, NaN where missing.
        wide: float64 `[rows, columns]`, for numbers that need it; NaN where missing.
        codes: int32 `[rows, columns]`, the code of the category; −1 where missing.
        label: int32 `[rows]`, the code of the label.
        weight: float32 `[rows]`.
        key: uint64 `[rows]`, a hash of the row.
    """

    numbers: npt.NDArray[np.float32]
    wide: npt.NDArray[np.float64]
    codes: npt.NDArray[np.int32]
    label: npt.NDArray[np.int32]
    weight: npt.NDArray[np.float32]
    key: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.label)

    def arrays(self) -> list[npt.NDArray[Any]]:
        """Return the arrays in the order of a block."""
        return [getattr(self, field.name) for field in fields(self)]

    def take(self, index: Any) -> Rows:
        """Return the rows selected by an index, a slice or a mask."""
        return Rows(*(values[index] for values in self.arrays()))


@dataclass(frozen=True)
class Layout:
    """The shape of a block.

    Attributes:
        numbers: number of float32 columns.
        wide: number of float64 columns.
        codes: number of other columns.
        block_rows: number of rows; even, so that float64 values are aligned.
    """

    numbers: int
    wide: int
    codes: int
    block_rows: int

    @classmethod
    def of(cls, numbers: int, wide: int, codes: int) -> Layout:
        """Choose a block's rows for at most `MAX_BLOCK_VALUES`, but at least `MIN_BLOCK_ROWS`."""
        rows = MAX_BLOCK_ROWS
        while rows > MIN_BLOCK_ROWS and rows * (numbers + 2 * wide + codes) > MAX_BLOCK_VALUES:
            rows //= 2
        return cls(numbers, wide, codes, rows)

    def empty(self, rows: int) -> Rows:
        """Return rows of weight 0."""
        return Rows(
            np.zeros((rows, self.numbers), np.float32),
            np.zeros((rows, self.wide), np.float64),
            np.full((rows, self.codes), -1, np.int32),
            np.zeros(rows, np.int32),
            np.zeros(rows, np.float32),
            np.zeros(rows, np.uint64),
        )

    def new_block(self) -> Rows:
        """Return a block of rows of weight 0, in an mmap that is unmapped when released.

        `malloc` would not return the memory of so many arrays to the system.
        """
        memory = mmap.mmap(-1, self.block_bytes)
        arrays = []
        for position, row in enumerate(self.empty(1).arrays()):
            flat = np.frombuffer(
                memory, row.dtype, self.block_rows * row[0].size, self.offset(position, 0)
            )
            arrays.append(flat.reshape((self.block_rows, *row.shape[1:])))
        block = Rows(*arrays)
        block.codes.fill(-1)
        return block

    @property
    def block_bytes(self) -> int:
        """The size of a block in bytes."""
        return sum(self.block_rows * size for size in self._row_bytes())

    def offset(self, array: int, row: int) -> int:
        """Return the offset in bytes of a row of an array in a block."""
        sizes = self._row_bytes()
        return sum(self.block_rows * size for size in sizes[:array]) + row * sizes[array]

    def _row_bytes(self) -> list[int]:
        return [values[0].nbytes for values in self.empty(1).arrays()]


@dataclass(frozen=True)
class Spool:
    """Rows in blocks.

    Attributes:
        layout: the shape of the blocks.
        rows: number of rows, without the padding of the last block on disk.
        kept: the blocks if they are in memory; the last one may be shorter. Encoding removes them
            one by one, so that memory need not hold both forms.
        path: the file if they are on disk.
    """

    layout: Layout
    rows: int
    kept: list[Rows] | None
    path: Path

    def __len__(self) -> int:
        """The number of blocks."""
        return -(-self.rows // self.layout.block_rows)

    def dataset(self) -> Any:
        """Return blocks on disk as a `tf.data.Dataset` of (numbers, wide, codes, label, weight)."""
        layout = self.layout
        records = tf.data.FixedLengthRecordDataset(
            str(self.path), layout.block_bytes, buffer_size=1 << 20
        )

        @tf.autograph.experimental.do_not_convert  # it would leave files in TMPDIR
        def parse(record: Any) -> Any:
            words = tf.io.decode_raw(record, tf.int32)
            cuts = [layout.offset(array, 0) // 4 for array in range(6)]
            numbers, wide, codes, label, weight = (
                words[begin:end] for begin, end in pairwise(cuts)
            )
            return (
                tf.bitcast(tf.reshape(numbers, [layout.block_rows, layout.numbers]), tf.float32),
                tf.bitcast(tf.reshape(wide, [layout.block_rows, layout.wide, 2]), tf.float64),
                tf.reshape(codes, [layout.block_rows, layout.codes]),
                label,
                tf.bitcast(weight, tf.float32),
            )

        return records.map(parse)

    def blocks(self) -> Iterator[Rows]:
        """Yield the blocks, from memory or disk."""
        if self.kept is not None:
            yield from self.kept
            return
        for begin in range(0, self.rows, self.layout.block_rows):
            yield self.read(begin, min(begin + self.layout.block_rows, self.rows))

    def read(self, begin: int, end: int) -> Rows:
        """Return the rows from `begin` up to but not including `end`."""
        chunks = [self.layout.empty(0)]
        while begin < end:
            number, row = divmod(begin, self.layout.block_rows)
            count = min(end - begin, self.layout.block_rows - row)
            if self.kept is not None:
                chunks.append(self.kept[number].take(slice(row, row + count)))
            else:
                chunks.append(self._read_from_disk(number, row, count))
            begin += count
        return concatenate(chunks)

    def sample(self, count: int) -> Rows:
        """Return up to `count` rows in evenly spread runs, or all if there are fewer."""
        return concatenate([self.read(*run) for run in sample_runs(self.rows, count)])

    def _read_from_disk(self, number: int, row: int, count: int) -> Rows:
        arrays = []
        with self.path.open("rb") as file:
            for position, empty in enumerate(self.layout.empty(count).arrays()):
                file.seek(number * self.layout.block_bytes + self.layout.offset(position, row))
                data = file.read(empty.nbytes)
                arrays.append(np.frombuffer(data, empty.dtype).reshape(empty.shape))
        return Rows(*arrays)


def sample_runs(rows: int, count: int) -> list[tuple[int, int]]:
    """Return evenly spread runs `(begin, end)` that cover about `count` of `rows` rows."""
    if rows <= count:
        return [(0, rows)]
    length = max(1, count // SAMPLE_RUNS)
    starts = np.linspace(0, rows - length, min(count, SAMPLE_RUNS)).astype(int).tolist()
    return [(start, start + length) for start in starts]


class SpoolWriter:
    """Collects rows into blocks."""

    def __init__(self, path: Path, layout: Layout, memory: int) -> None:
        """Create an empty store, which writes the file once `memory` bytes are exceeded."""
        self._path, self._layout, self._memory = path, layout, memory
        self._in_memory: list[Rows] | None = []
        self._blocks = 0
        self._block = layout.new_block()
        self._filled = 0

    def append(self, rows: Rows, index: npt.NDArray[np.intp]) -> list[Rows]:
        """Add the rows at the given indices and return views of them as stored.

        Raises:
            OSError: the disk is full.
        """
        stored = []
        begin = 0
        while begin < len(index):
            count = min(len(index) - begin, self._layout.block_rows - self._filled)
            views = self._block.take(slice(self._filled, self._filled + count))
            for view, values in zip(views.arrays(), rows.arrays(), strict=True):
                # "clip" lets numpy write without a buffer.
                np.take(values, index[begin : begin + count], 0, out=view, mode="clip")
            stored.append(views)
            self._filled += count
            begin += count
            if self._filled == self._layout.block_rows:
                self._store(self._block)
                self._block, self._filled = self._layout.new_block(), 0
        return stored

    def finish(self) -> Spool:
        """Store the last block and return the spool."""
        rows = self._blocks * self._layout.block_rows + self._filled
        if self._filled and self._in_memory is not None:
            self._in_memory.append(self._block.take(slice(0, self._filled)))
        elif self._filled:
            self._write(self._block)
        return Spool(self._layout, rows, self._in_memory, self._path)

    def _store(self, block: Rows) -> None:
        self._blocks += 1
        if self._in_memory is None:
            self._write(block)
            return
        self._in_memory.append(block)
        if len(self._in_memory) * self._layout.block_bytes > self._memory:
            blocks, self._in_memory = self._in_memory, None
            for earlier in blocks:
                self._write(earlier)

    def _write(self, block: Rows) -> None:
        with self._path.open("ab") as file:
            for values in block.arrays():
                file.write(values.tobytes())


def concatenate(chunks: list[Rows]) -> Rows:
    """Return the rows of all chunks in order."""
    if len(chunks) == 1:
        return chunks[0]
    return Rows(
        *(np.concatenate(arrays) for arrays in zip(*(c.arrays() for c in chunks), strict=True))
    )
