from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from training.data.held_out import held_out_examples
from training.data.prepare import MAX_MAGNITUDE, MAX_WEIGHT
from training.data.reading import FrameFile, Source, open_source
from training.data.row_store import Rows, Spool
from training.data.split import Split
from training.data.table import Choice, Table, read_table
from training.errors import DataError
from training.features import categorical
from training.features.categorical import CategoricalColumn, CategoryStatistics
from training.features.columns import Column
from training.features.numeric import NumberStatistics, NumericColumn
from training.workers.collectives import Workers

SPLIT = Split(held_out=0.3, validation=0.0, seed=0)
CHOICE = Choice("y")
HINT = (
    "--missing 'x' if it means a missing value, --columns 'n'=categorical if the column holds names"
)


def read(
    rows: pl.DataFrame | Source,
    folder: Path,
    choice: Choice = CHOICE,
    split: Split = SPLIT,
    workers: Workers | None = None,
) -> Table:
    source = rows if isinstance(rows, Source) else Source("rows", [FrameFile("rows", rows)])
    return read_table(source, choice, split, folder, workers or Workers(), memory=1 << 30)


def read_error(rows: pl.DataFrame, folder: Path, choice: Choice = CHOICE) -> str:
    with pytest.raises(DataError) as caught:
        read(rows, folder, choice)
    return str(caught.value)


def numbered_rows(count: int, **columns: Any) -> pl.DataFrame:
    """Return numbered rows, which can be traced through a split."""
    random = np.random.default_rng(count)
    labels = random.choice(["a", "b"], count)
    return pl.DataFrame({"n": np.arange(count), "y": labels, **columns})


def read_numbers(spool: Spool, column: int = 0) -> set[float]:
    return set(spool.read(0, spool.rows).numbers[:, column].tolist())


def category_indices(table: Table, rows: Rows) -> npt.NDArray[np.int32]:
    return np.asarray(table.cells(rows.numbers, rows.wide, rows.codes).indices)


def training_rows(frame: pl.DataFrame, table: Table) -> pl.DataFrame:
    """Return the rows of a numbered frame that a table trains on."""
    position = [c.name for c in table.columns if c.kind == "numeric"].index("n")
    numbers = read_numbers(table.train, position)
    return frame.filter(pl.Series([n in numbers for n in frame["n"]]))


@pytest.mark.parametrize(
    ("values", "positive", "class_names"),
    [
        (["no", "yes"], None, ("no", "yes")),
        (["yes", "no"], None, ("no", "yes")),
        (["yes", "no"], "no", ("yes", "no")),
        ([1, 0], None, ("0", "1")),
        ([1.0, 0.0], None, ("0", "1")),
        ([1, 2], None, ("2", "1")),
        ([2, 3], None, ("2", "3")),
        ([2, 3], "2", ("3", "2")),
        ([True, False], None, ("false", "true")),
        (["TRUE", "FALSE"], None, ("FALSE", "TRUE")),
        (["benign", "malignant"], None, ("malignant", "benign")),
        (["stays", "leaves"], None, ("leaves", "stays")),
        (["yes", "1"], None, ("1", "yes")),
    ],
)
def test_positive_class_is_inferred_unless_specified(
    tmp_path: Path, values: list[Any], positive: str | None, class_names: tuple[str, str]
) -> None:
    labels = pl.Series([values[i % 2] for i in range(40)])
    table = read(pl.DataFrame({"n": range(40), "y": labels}), tmp_path, Choice("y", positive))
    assert table.class_names == class_names
    train = table.train.read(0, table.train.rows)
    actual = [class_names[label] for label in table.class_of[train.label]]
    formatted = {"1.0": "1", "0.0": "0", "True": "true", "False": "false"}
    raw = [str(labels[int(n)]) for n in train.numbers[:, 0]]
    assert actual == [formatted.get(label, label) for label in raw]
    counts = [actual.count(name) for name in class_names]
    assert list(table.class_weights) == counts


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            ["a", "b", "a", "c"],
            "rows row 4, column 'y': expected a label with two values, got 'c' after 'a' and 'b'",
        ),
        (["a", "b", None], "rows row 3, column 'y': expected a label, found none"),
        (["a", "NA", "b"], "rows row 2, column 'y': expected a label, found none"),
        (["a", "a"], "column 'y': expected a label with two values, got 'a'"),
        ([], "column 'y': expected a label with two values, got none"),
    ],
)
def test_label_without_two_values_is_rejected(
    tmp_path: Path, labels: list[Any], message: str
) -> None:
    frame = pl.DataFrame({"n": range(len(labels)), "y": pl.Series(labels, dtype=pl.String)})
    assert read_error(frame, tmp_path) == message


def test_third_label_is_reported_with_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('n,y\n1,a\n\n"\n2",b\n3,c\n')
    with pytest.raises(DataError) as caught:
        read(open_source(str(path)), tmp_path)
    assert str(caught.value) == (
        f"{path} line 6, column 'y': expected a label with two values, got 'c' after 'a' and 'b'"
    )


def test_class_missing_from_a_split_is_rejected(tmp_path: Path) -> None:
    frame = pl.DataFrame({"n": range(20), "y": ["a"] + ["b"] * 19})
    message = read_error(frame, tmp_path)
    assert re.fullmatch(
        r"no (held-out|training) row has class 'a' \(\1 rows: \d+ of 20\); "
        r"add rows, or change --seed or --held-out",
        message,
    )


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice("z"), "--label: rows has no column 'z'; it has n, y"),
        (Choice("y", weight="z"), "--weight: rows has no column 'z'; it has n, y"),
        (Choice("y", kinds={"z": "numeric"}), "--columns: rows has no column 'z'; it has n, y"),
        (Choice("y", leave_out=("z",)), "--leave-out: rows has no column 'z'; it has n, y"),
        (
            Choice("y", leave_out=("n",), weight="n"),
            "--leave-out: column 'n' is used by another option",
        ),
        (
            Choice("y", weight="y"),
            "column 'y' has more than one role; label, weight and split must be different columns",
        ),
        (Choice("y", leave_out=("n",)), "rows has no column left to predict 'y' with"),
        (Choice("y", positive="c"), "--positive: column 'y' has the values 'a' and 'b', not 'c'"),
    ],
)
def test_choice_that_does_not_fit_table_is_rejected(
    tmp_path: Path, choice: Choice, message: str
) -> None:
    assert read_error(numbered_rows(10), tmp_path, choice) == message


def test_label_weight_and_left_out_columns_are_not_features(tmp_path: Path) -> None:
    frame = numbered_rows(50, x=["u"] * 50, day=[[1]] * 50, w=[1.0] * 50)
    table = read(frame, tmp_path, Choice("y", leave_out=("x", "day"), weight="w"))
    assert [column.name for column in table.columns] == ["n"]


@pytest.mark.parametrize(
    ("weight", "got"),
    [
        *((-1.0, "-1.0"), (None, "nothing"), (float("nan"), "nan"), (float("inf"), "inf")),
        *((1e39, "1e+39"), (1e-42, "1e-42")),
    ],
)
def test_invalid_weight_is_rejected(tmp_path: Path, weight: float | None, got: str) -> None:
    message = read_error(numbered_rows(3, w=[1.0, 0.0, weight]), tmp_path, Choice("y", weight="w"))
    expected = "expected a weight of 0, or from 1e-30 to 1e+30"
    assert message == f"rows row 3, column 'w': {expected}, got {got}"


def test_statistics_are_weighted(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = numbered_rows(
        500, x=random.normal(size=500).astype(np.float32), c=random.choice(["u", "v"], 500)
    ).with_columns(w=pl.Series(random.integers(0, 9, 500)), z=pl.lit(0.5))
    table = read(frame, tmp_path, Choice("y", weight="w"))
    train = training_rows(frame, table)
    repeated = train.select(pl.exclude("w").repeat_by("w").explode())
    x = next(column for column in table.columns if column.name == "x")
    assert x.mean == pytest.approx(repeated["x"].cast(pl.Float64).mean())
    assert x.deviation == pytest.approx(repeated["x"].cast(pl.Float64).std(ddof=0))
    c = next(column for column in table.columns if column.name == "c")
    assert list(c.vocabulary) == repeated["c"].value_counts(sort=True)["c"].to_list()
    assert list(table.class_weights) == repeated["y"].value_counts().sort("y")["count"].to_list()


def test_weights_do_not_affect_split(tmp_path: Path) -> None:
    frame = numbered_rows(300)
    unweighted = read(frame, tmp_path).fingerprint
    weighted = [
        read(frame.with_columns(w=pl.Series(w)), tmp_path, Choice("y", weight="w")).fingerprint
        for w in (np.ones(300), np.where(np.arange(300) % 2, 1.0, 5.0))
    ]
    for fingerprint in weighted:
        assert fingerprint["held_out_hash"] == unweighted["held_out_hash"]
        assert fingerprint["columns"] == unweighted["columns"]
    # An interrupted fit is not resumed with other weights.
    assert len({unweighted["hash"], *(fingerprint["hash"] for fingerprint in weighted)}) == 3


def held_out_numbers(rows: pl.DataFrame | Source, folder: Path, split: Split = SPLIT) -> set[float]:
    table = read(rows, folder, split=split)
    position = [c.name for c in table.columns if c.kind == "numeric"].index("n")
    return read_numbers(table.held_out, position)


def test_split_ignores_row_and_column_order(tmp_path: Path) -> None:
    frame = numbered_rows(1000, x=pl.Series(range(1000)) % 7, t=["u", "v"] * 500)
    held_out = held_out_numbers(frame, tmp_path)
    shuffled = frame.sample(fraction=1, shuffle=True, seed=1)
    assert held_out_numbers(shuffled, tmp_path) == held_out
    assert held_out_numbers(shuffled.select("t", "y", "x", "n"), tmp_path) == held_out
    for first in ("0", "2"):
        folder = tmp_path / f"files-{first}"
        folder.mkdir()
        frame[:400].write_csv(folder / f"{first}.csv")
        frame[400:].select("y", "t", "n", "x").write_csv(folder / "1.csv")
        assert held_out_numbers(open_source(str(folder)), tmp_path) == held_out
    assert held_out_numbers(frame, tmp_path, Split(0.3, 0.0, seed=1)) != held_out


def test_appended_rows_do_not_move_existing_rows(tmp_path: Path) -> None:
    frame = numbered_rows(1000)
    held_out = held_out_numbers(frame, tmp_path)
    appended = numbered_rows(1500)[1000:]
    after = held_out_numbers(pl.concat([frame, appended]), tmp_path)
    assert {n for n in after if n < 1000} == held_out
    # Only the copied row may move to another split.
    copy = frame[500:501]
    assert held_out_numbers(pl.concat([frame, copy]), tmp_path) ^ held_out <= {500.0}


def test_splits_are_disjoint_and_close_to_requested_sizes(tmp_path: Path) -> None:
    count = 20_000
    table = read(numbered_rows(count), tmp_path, split=Split(held_out=0.25, validation=0.2, seed=3))
    splits = [read_numbers(spool) for spool in (table.held_out, table.validation, table.train)]
    for numbers, expected in zip(splits, (0.25, 0.15, 0.6), strict=True):
        standard_error = np.sqrt(expected * (1 - expected) / count)
        assert abs(len(numbers) / count - expected) < 4 * standard_error
    assert sum(len(numbers) for numbers in splits) == len(set.union(*splits)) == count
    sizes = [len(numbers) for numbers in splits]
    assert [table.rows[name] for name in ("held_out", "validation", "train")] == sizes
    assert table.rows["read"] == count


def test_duplicate_rows_are_split_at_random(tmp_path: Path) -> None:
    count = 20_000
    frame = pl.DataFrame({"x": [0.0, 1.0] * (count // 2), "y": ["a", "a", "b", "b"] * (count // 4)})
    table = read(frame, tmp_path)
    held_out = table.held_out.read(0, table.held_out.rows)
    for x in (0.0, 1.0):
        for label in (0, 1):
            fraction = ((held_out.numbers[:, 0] == x) & (held_out.label == label)).sum() / (
                count / 4
            )
            assert abs(fraction - 0.3) < 4 * np.sqrt(0.3 * 0.7 / (count / 4))


def test_fingerprint_depends_on_rows_but_not_on_their_order(tmp_path: Path) -> None:
    frame = numbered_rows(200)
    fingerprint = read(frame, tmp_path).fingerprint
    assert fingerprint == read(frame[::-1], tmp_path).fingerprint
    other_split = read(frame[::-1], tmp_path, split=Split(0.4, 0.1, 7)).fingerprint
    assert fingerprint["hash"] == other_split["hash"]
    assert fingerprint["columns"] == ["n", "y"]
    changed = frame.with_columns(n=pl.Series([0.5, *range(1, 200)]))
    assert fingerprint["hash"] != read(changed, tmp_path).fingerprint["hash"]


def test_numeric_statistics_match_numpy_on_training_rows(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    count = 10_000
    values = {
        "plain": random.normal(3, 2, count),
        "far": 1e6 + random.normal(0, 3, count),
        "tiny": random.normal(0, 1e-20, count),
        "holes": np.where(random.random(count) < 0.2, np.nan, random.normal(0, 1, count)),
        "integers": random.integers(-5, 5, count).astype(np.float64),
    }
    frame = numbered_rows(count, **{k: v.astype(np.float32) for k, v in values.items()})
    frame = frame.with_columns(
        (pl.col("holes") + (pl.col("y") == "b")).fill_nan(None), constant=0.1, nothing=None
    )
    table = read(frame, tmp_path)
    train = training_rows(frame, table)
    columns = {column.name: column for column in table.columns}
    for name in values:
        column = columns[name]
        x = train[name].drop_nulls().cast(pl.Float64).to_numpy()
        class_means = [train.filter(pl.col("y") == y)[name].cast(pl.Float64).mean() for y in "ab"]
        assert column.mean == pytest.approx(x.mean(), rel=1e-9, abs=1e-30), name
        assert column.deviation == pytest.approx(x.std(), rel=1e-9), name
        assert (column.minimum, column.maximum) == (x.min(), x.max()), name
        assert column.class_means == pytest.approx(class_means, rel=1e-9, abs=1e-30), name
        assert column.missing == (name == "holes"), name
    constant = columns["constant"]
    assert constant.mean == pytest.approx(0.1)
    assert (constant.deviation, constant.missing) == (1.0, False)
    assert columns["nothing"] == NumericColumn("nothing", missing=True)


def test_vocabulary_is_ordered_by_frequency_in_training_rows(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = random.choice(["often", "seldom", "b", "a", ""], 5000, p=[0.5, 0.1, 0.15, 0.15, 0.1])
    frame = numbered_rows(5000, t=pl.Series(values).replace("", None), f=[True, False] * 2500)
    frame = frame.with_columns(maybe=pl.when(pl.col("n") % 3 > 0).then(pl.col("f")))
    table = read(frame, tmp_path)
    train = training_rows(frame, table)
    columns = {column.name: column for column in table.columns}
    counts = train.drop_nulls("t").group_by("t").len().sort("len", "t", descending=[True, False])
    assert columns["t"].vocabulary == tuple(counts["t"])
    assert columns["t"].missing
    modes = [
        train.filter(pl.col("y") == y).drop_nulls("t")["t"].value_counts(sort=True)["t"][0]
        for y in "ab"
    ]
    assert [columns["t"].vocabulary[mode] for mode in columns["t"].class_modes] == modes
    kinds = {use.name: use.kind for use in table.used}
    assert kinds == {name: column.kind for name, column in columns.items()}
    assert (columns["f"].kind, columns["f"].vocabulary) == ("boolean", ("false", "true"))
    # Boolean inputs cannot be missing, so this column is categorical.
    assert (columns["maybe"].kind, columns["maybe"].missing) == ("categorical", True)
    assert set(columns["maybe"].vocabulary) == {"false", "true"}


def test_equally_frequent_values_are_in_alphabetical_order() -> None:
    category = CategoryStatistics()
    codes = category.encode("t", ["c", "b", "a", "d", "d"])
    category.add(codes, np.zeros(5, np.int32), np.ones(5, np.float32))
    assert category.build_vocabulary("t") == ("d", "a", "b", "c")


def test_vocabulary_keeps_1000_most_frequent_values(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = random.permutation(np.repeat(np.arange(1500), np.where(np.arange(1500) < 900, 20, 2)))
    frame = numbered_rows(len(values), t=[f"v{value}" for value in values])
    table = read(frame, tmp_path)
    vocabulary = table.columns[1].vocabulary
    assert len(vocabulary) == 1000
    assert set(vocabulary[:900]) == {f"v{value}" for value in range(900)}
    train = table.train.read(0, table.train.rows)
    text = [table.values[0][code] for code in train.codes[:, 0]]
    indices = category_indices(table, train)[:, 0].tolist()
    assert indices == [vocabulary.index(t) if t in vocabulary else 1000 for t in text]
    assert 1000 in indices


def test_identifier_column_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = numbered_rows(3000, id=[f"customer {i}" for i in range(3000)])
    assert re.fullmatch(
        r"column 'id' has (2,\d{3}) different values in \1 rows, like an identifier; "
        r"--leave-out 'id' leaves it out",
        read_error(frame, tmp_path),
    )
    monkeypatch.setattr(categorical, "MAX_VALUES", 2000)
    assert read_error(frame, tmp_path) == (
        "column 'id' has more than 2,000 different values; --leave-out 'id' leaves it out"
    )


@pytest.mark.parametrize(("rows", "repeated"), [(40, 0), (600, 0), (600, 200)])
def test_identifiers_in_small_tables_are_rejected(tmp_path: Path, rows: int, repeated: int) -> None:
    names = [f"Customer {max(i, repeated)}" for i in range(rows)]
    message = read_error(numbered_rows(rows, name=names), tmp_path)
    assert message.startswith("column 'name' has ")
    assert message.endswith(" rows, like an identifier; --leave-out 'name' leaves it out")


def test_column_of_repeated_values_is_not_an_identifier(tmp_path: Path) -> None:
    names = [f"city {i % 40 if i % 4 else i}" for i in range(600)]  # a quarter are unique
    assert read(numbered_rows(600, city=names), tmp_path).columns[1].kind == "categorical"


def test_later_rows_may_require_float64(tmp_path: Path) -> None:
    # The first rows are equal, missing or small; later rows need float64's range or precision.
    random = np.random.default_rng(0)
    varying = np.round(1.7e12 + random.normal(0, 5000, 80_000))
    base, index = 1_700_000_000, np.arange(84_464)
    frame = numbered_rows(150_000).with_columns(
        exact_first=pl.Series(np.append(np.full(65_536, base), np.full(84_464, base + 60.0))),
        missing_first=pl.Series([None] * 65_536 + (base + 1.0 + index % 50).tolist()).set(
            pl.Series(np.arange(150_000) % 100 == 0), None
        ),
        constant_first=pl.Series(np.concatenate([np.full(70_000, 1.7e12), varying])),
        beyond=pl.Series(np.concatenate([np.zeros(149_999), [1e100]])),
        small=pl.Series(np.concatenate([np.full(149_000, 0.1), np.full(1000, 0.1 + 1e-12)])),
    )
    table = read(frame, tmp_path)
    dtypes = {column.name: column.dtype.name for column in table.columns}
    assert dtypes.pop("n") == "float32"
    assert set(dtypes.values()) == {"float64"}
    train = training_rows(frame, table)
    column = next(column for column in table.columns if column.name == "constant_first")
    assert column.deviation == pytest.approx(train["constant_first"].std(ddof=0), rel=1e-9)
    assert column.mean == pytest.approx(train["constant_first"].mean(), rel=1e-15)


def test_labels_and_categories_are_normalised(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    plans = [" State-gov", "Private ", "\t?"]
    lines = [
        f"{i}, {plans[i % 3]},{1001 + i % 2}.0, {'>50K' if i % 5 else '<=50K'}" for i in range(300)
    ]
    path.write_text("\n".join(["n, plan,code, y", *lines]))
    choice = Choice("y", positive=" >50K", kinds={"code": "categorical"})
    table = read(open_source(str(path)), tmp_path, choice)
    assert table.class_names == ("<=50K", ">50K")
    columns = {column.name: column for column in table.columns}
    assert set(columns["plan"].vocabulary) == {"State-gov", "Private"}
    assert columns["plan"].missing
    assert set(columns["code"].vocabulary) == {"1001", "1002"}


def test_boolean_missing_only_in_held_out_rows_becomes_mode(tmp_path: Path) -> None:
    frame = numbered_rows(200, f=[True, None, *[False, True] * 99])
    tables = (read(frame, tmp_path, split=Split(0.3, 0.0, seed)) for seed in range(50))
    table = next(table for table in tables if table.columns[1].kind == "boolean")
    held_out = table.held_out.read(0, table.held_out.rows)
    index_by_number = dict(
        zip(held_out.numbers[:, 0], category_indices(table, held_out), strict=True)
    )
    assert index_by_number.pop(1.0) == table.columns[1].mode
    assert {int(n): int(index[0]) for n, index in index_by_number.items()} == {
        int(n): int(bool(frame["f"][int(n)])) for n in index_by_number
    }


def random_rows(count: int) -> Rows:
    random = np.random.default_rng(count)
    numbers = random.normal([0, 1e6, 5], [1, 2, 0], (count, 3)).astype(np.float32)
    numbers[random.random((count, 3)) < 0.1] = np.nan
    return Rows(
        numbers,
        np.zeros((count, 0)),
        random.integers(-1, 6, (count, 1), np.int32),
        random.integers(0, 2, count, np.int32),
        random.integers(0, 4, count).astype(np.float32),
        random.integers(0, 2**64, count, np.uint64),
    )


def number_statistics(*chunks: Rows) -> NumberStatistics:
    statistics = NumberStatistics(3)
    for rows in chunks:
        statistics.add(rows.numbers, rows.label, rows.weight)
    return statistics


def category_statistics(*chunks: Rows) -> CategoryStatistics:
    statistics = CategoryStatistics()
    for rows in chunks:
        codes = np.append(statistics.encode("t", "abcdef"), np.int32(-1))[rows.codes[:, 0]]
        statistics.add(codes, rows.label, rows.weight)
    return statistics


def assert_same_columns(actual: list[Column], expected: list[Column]) -> None:
    for a, b in zip(actual, expected, strict=True):
        assert vars(a).keys() == vars(b).keys()
        for name, value in vars(a).items():
            numeric = name in ("mean", "deviation", "class_means")
            assert vars(b)[name] == (pytest.approx(value, rel=1e-9) if numeric else value), name


def build_columns(numbers: NumberStatistics, categories: CategoryStatistics) -> list[Column]:
    numeric = [NumericColumn("xyz"[i], **numbers.column_fields(i, np.float32)) for i in range(3)]
    return [
        *numeric,
        CategoricalColumn("t", **categories.column_fields(categories.build_vocabulary("t"))),
    ]


def test_merged_statistics_equal_statistics_of_all_rows() -> None:
    rows = random_rows(10_000)
    chunks = [rows.take(slice(0, 3000)), rows.take(slice(3000, 3001)), rows.take(slice(3001, None))]
    numbers, categories = NumberStatistics(3), CategoryStatistics()
    for chunk in [rows.take(slice(0, 0)), *chunks]:
        numbers.merge(NumberStatistics.from_json(number_statistics(chunk).as_json()))
        categories.merge(CategoryStatistics.from_json(category_statistics(chunk).as_json()))
    expected = build_columns(number_statistics(rows), category_statistics(rows))
    assert_same_columns(build_columns(numbers, categories), expected)
    assert categories.missing == (rows.codes < 0).sum()


def test_moments_of_largest_numbers_and_weights_are_finite() -> None:
    statistics = NumberStatistics(1)
    numbers = np.array([[-MAX_MAGNITUDE], [MAX_MAGNITUDE]] * 2)
    for _ in range(2):
        statistics.add(numbers, np.array([0, 0, 1, 1]), np.full(4, MAX_WEIGHT, np.float32))
    assert statistics.moments(0) == pytest.approx((0.0, MAX_MAGNITUDE))


def test_weighted_row_equals_repeated_rows() -> None:
    rows = random_rows(5000)
    repeated = rows.take(np.repeat(np.arange(5000), rows.weight.astype(int)))
    repeated.weight.fill(1.0)
    numbers, expected = number_statistics(rows), number_statistics(repeated)
    for name in ("weight", "mean", "squares"):
        np.testing.assert_allclose(vars(numbers)[name], vars(expected)[name], rtol=1e-6, atol=1e-9)
    assert_same_columns(
        build_columns(numbers, category_statistics(rows)),
        build_columns(expected, category_statistics(repeated)),
    )


@dataclass
class Exchange:
    """Memory through which workers in threads exchange data."""

    count: int
    data: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.count, timeout=60)


class ThreadWorkers(Workers):
    """Workers in threads of one process."""

    def __init__(self, index: int, exchange: Exchange) -> None:
        self.index, self.count, self._exchange = index, exchange.count, exchange

    def gather_bytes(self, data: bytes) -> list[bytes]:
        self._exchange.data[self.index] = data
        self._exchange.barrier.wait()
        gathered = [self._exchange.data[index] for index in range(self.count)]
        self._exchange.barrier.wait()
        return gathered

    def sum(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(self.concatenate(values[np.newaxis]).sum(axis=0))


def read_by_workers(source: Source, folder: Path, count: int) -> list[Table]:
    exchange = Exchange(count)
    folders = [folder / str(index) for index in range(count)]
    for path in folders:
        path.mkdir()
    with ThreadPoolExecutor(count) as pool:
        return list(
            pool.map(
                lambda index: read(source, folders[index], workers=ThreadWorkers(index, exchange)),
                range(count),
            )
        )


def test_several_workers_build_same_table_as_one(tmp_path: Path) -> None:
    # The files begin with different labels and categories; 3.csv has only one label.
    frame = numbered_rows(900, t=[f"v{i % 11}" for i in range(900)], w=[0.5] * 900).sort("y")
    files = tmp_path / "files"
    files.mkdir()
    for number in range(3):
        frame[number::3][:: 1 if number else -1].write_csv(files / f"{number}.csv")
    frame.filter(pl.col("y") == "b")[:50].with_columns(n=pl.col("n") + 1000).write_csv(
        files / "3.csv"
    )
    source = open_source(str(files))
    (single,) = read_by_workers(source, tmp_path, 1)
    (tmp_path / "more").mkdir()
    tables = read_by_workers(source, tmp_path / "more", 5)
    for table in tables:
        assert_same_columns(list(table.columns), list(single.columns))
        assert table.rows == single.rows
        assert table.fingerprint == single.fingerprint
        assert table.class_names == single.class_names
        assert table.class_weights == pytest.approx(single.class_weights)
    numbers_by_worker = [read_numbers(table.train) for table in tables]
    assert set.union(*numbers_by_worker) == read_numbers(single.train)
    assert sum(len(numbers) for numbers in numbers_by_worker) == single.train.rows


def test_worker_with_few_held_out_rows_gives_one_example(tmp_path: Path) -> None:
    table = read(numbered_rows(50), tmp_path)
    table = replace(table, rows={**table.rows, "held_out": 10**8})
    theta = np.zeros(len(table.encoder.features) + 1)
    assert len(held_out_examples(table, Workers(), theta)) == 1


def test_error_of_one_worker_is_reported_by_all(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "0.csv").write_text("n,y\n1,a\n2,b\n")
    (files / "1.csv").write_text("n,y\n1,a\n2,c\nx,b\n")
    exchange = Exchange(2)
    source = open_source(str(files))

    def message(index: int) -> str:
        with pytest.raises(DataError) as caught:
            read(source, tmp_path, workers=ThreadWorkers(index, exchange))
        return str(caught.value)

    with ThreadPoolExecutor(2) as pool:
        messages = list(pool.map(message, range(2)))
    location = f"{files / '1.csv'} line 4, column 'n'"
    assert messages == [f"{location}: expected a number, got 'x'; {HINT}"] * 2
