from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data.row_store import Layout, Rows, Spool, SpoolWriter, concatenate

BLOCK_ROWS = 64
MEMORY = {"memory": 1 << 30, "disk": 0, "disk after three blocks": 3 * BLOCK_ROWS * 44}


def random_rows(count: int, numbers: int = 3, wide: int = 1, codes: int = 2) -> Rows:
    random = np.random.default_rng(count)
    values = random.normal(size=(count, numbers)).astype(np.float32)
    values[random.random(values.shape) < 0.1] = np.nan
    return Rows(
        values,
        1e12 + random.normal(size=(count, wide)),
        random.integers(-1, 1000, (count, codes), np.int32),
        random.integers(0, 2, count, np.int32),
        random.random(count, np.float32),
        random.integers(0, 2**64, count, np.uint64),
    )


def spool_rows(rows: Rows, folder: Path, memory: int) -> Spool:
    """Spool rows in chunks of random sizes."""
    numbers, wide, codes = (v.shape[1] for v in (rows.numbers, rows.wide, rows.codes))
    layout = Layout(numbers, wide, codes, BLOCK_ROWS)
    writer = SpoolWriter(folder / "rows", layout, memory)
    cuts = np.sort(np.random.default_rng(0).integers(0, len(rows) + 1, 7)).tolist()
    for begin, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        writer.append(rows, np.arange(begin, end))
    return writer.finish()


def assert_same(actual: list[Any], expected: list[Any]) -> None:
    for array, expected_array in zip(actual, expected, strict=True):
        assert array.dtype == expected_array.dtype
        np.testing.assert_array_equal(array, expected_array)


@pytest.mark.parametrize("memory", MEMORY.values(), ids=MEMORY.keys())
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 640, 1001])
def test_rows_round_trip_through_memory_and_disk(tmp_path: Path, memory: int, count: int) -> None:
    rows = random_rows(count)
    spool = spool_rows(rows, tmp_path, memory)
    assert spool.rows == count
    assert len(spool) == -(-count // BLOCK_ROWS)
    assert_same(spool.read(0, count).arrays(), rows.arrays())
    for begin, end in np.sort(np.random.default_rng(1).integers(0, count + 1, (20, 2))).tolist():
        assert_same(spool.read(begin, end).arrays(), rows.take(slice(begin, end)).arrays())


def test_rows_that_fit_into_memory_are_not_written_to_disk(tmp_path: Path) -> None:
    rows = random_rows(1000)
    assert spool_rows(rows, tmp_path, MEMORY["memory"]).kept is not None
    assert list(tmp_path.iterdir()) == []
    on_disk = spool_rows(rows, tmp_path, MEMORY["disk after three blocks"])
    assert on_disk.kept is None
    assert on_disk.path.stat().st_size == len(on_disk) * on_disk.layout.block_bytes


@pytest.mark.parametrize(
    ("numbers", "wide", "codes"), [(3, 0, 2), (3, 0, 0), (0, 0, 2), (3, 2, 1), (0, 1, 0)]
)
def test_dataset_pads_last_block_with_rows_of_weight_0(
    tmp_path: Path, numbers: int, wide: int, codes: int
) -> None:
    rows = random_rows(1001, numbers, wide, codes)
    spool = spool_rows(rows, tmp_path, MEMORY["disk"])
    blocks = list(spool.dataset().as_numpy_iterator())
    assert len(blocks) == len(spool) == 16
    assert {len(array) for block in blocks for array in block} == {BLOCK_ROWS}
    arrays = [np.concatenate(pieces) for pieces in zip(*blocks, strict=True)]
    assert_same([array[:1001] for array in arrays], rows.arrays()[:5])
    padding = spool.layout.empty(16 * BLOCK_ROWS - 1001)
    assert padding.weight.tolist() == [0.0] * 23
    assert_same([array[1001:] for array in arrays], padding.arrays()[:5])


@pytest.mark.parametrize("memory", MEMORY.values(), ids=MEMORY.keys())
@pytest.mark.parametrize("count", [640, 999, 1001, 5000])
def test_sample_consists_of_distinct_rows_from_start_to_end(
    tmp_path: Path, memory: int, count: int
) -> None:
    rows = random_rows(1001)
    sample = spool_rows(rows, tmp_path, memory).sample(count)
    if count > 1000:
        assert_same(sample.arrays(), rows.arrays())
        return
    positions = [int(np.flatnonzero(rows.key == key)[0]) for key in sample.key]
    assert_same(sample.arrays(), rows.take(positions).arrays())
    assert positions == sorted(set(positions))
    assert 0.9 * count < len(positions) <= count
    assert (positions[0], positions[-1]) == (0, 1000)


def test_concatenate_keeps_last_row_of_each_block(tmp_path: Path) -> None:
    rows = random_rows(200)
    spool = spool_rows(rows, tmp_path, MEMORY["disk"])
    pieces = [
        spool.read(begin, min(begin + BLOCK_ROWS, 200)) for begin in range(0, 200, BLOCK_ROWS)
    ]
    assert_same(concatenate(pieces).arrays(), rows.arrays())


@pytest.mark.parametrize(
    ("columns", "rows"), [(1, 65_536), (64, 65_536), (65, 32_768), (10_000, 1024)]
)
def test_block_of_many_columns_has_fewer_rows(columns: int, rows: int) -> None:
    assert Layout.of(columns, 0, 0).block_rows == rows
    assert Layout.of(0, 0, columns).block_rows == rows
    assert Layout.of(0, columns // 2 + columns % 2, 0).block_rows == rows
