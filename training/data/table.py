"""The table: a source's rows with kinds, classes, split, statistics and row stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from training.data.assignment import HELD_OUT, SUBSETS, Assignment, Subsets, choose_assignment
from training.data.bins import Bins, bin_numbers
from training.data.choose import Choice, ColumnUse, Selection, choose_columns
from training.data.classes import Labels, check_classes, order_by_class
from training.data.prepare import PreparedBatch, Roles, WidenError, prepare_ahead
from training.data.reading import Source
from training.data.row_store import Layout, Rows, Spool, SpoolWriter
from training.data.split import ROW_HASH, Split, hash_numbers
from training.errors import DataError
from training.features.boolean import BooleanColumn
from training.features.categorical import FALSE_TRUE, CategoricalColumn, CategoryStatistics
from training.features.cells import CellParser
from training.features.columns import Column
from training.features.encoder import Cells, Encoder
from training.features.numeric import CLASSES, NumberStatistics, resolves
from training.workers.collectives import Workers

__all__ = ["Choice", "Table", "read_table"]


@dataclass(frozen=True)
class Table:
    """Rows ready to be fitted.

    Attributes:
        encoder: the columns with their statistics, in the table's order, without the label.
        label_name: the column to predict.
        missing_marks: marks of missing values besides those that are always read as missing.
        class_names: the labels of class 0 and class 1.
        train, validation, held_out: this worker's rows in each subset.
        rows: number of rows of all workers, `read` and by subset.
        class_weights: summed weight of all workers' training rows, by class.
        fingerprint: identifies the data.
        class_of: the class of each label code.
        values: for each boolean or categorical column, the value of each code.
        indices: for each of them, the index (see `Cells`) of code −1 (missing), then of each code.
        rates: for each of them, the rate of class 1 at each index.
        bins: the bins of each column, by name.
        used: the columns that are used, and how their kinds were determined.
        left_out: the columns that are not used, and why.
        warnings: messages about suspicious columns.
    """

    encoder: Encoder
    label_name: str
    missing_marks: tuple[str, ...]
    class_names: tuple[str, str]
    train: Spool
    validation: Spool
    held_out: Spool
    rows: Mapping[str, int]
    class_weights: tuple[float, float]
    fingerprint: Mapping[str, Any]
    class_of: npt.NDArray[np.int32]
    values: tuple[tuple[str, ...], ...]
    indices: tuple[npt.NDArray[np.int32], ...]
    rates: tuple[npt.NDArray[np.float64], ...]
    bins: Mapping[str, Bins]
    used: tuple[ColumnUse, ...]
    left_out: tuple[ColumnUse, ...]
    warnings: tuple[str, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns with their statistics."""
        return self.encoder.columns

    def cells(self, numbers: Any, wide: Any, codes: Any) -> Cells:
        """Return rows in the encoder's form; the arguments are as in `Rows`."""
        indices = [
            tf.gather(tf.constant(index_of), codes[:, position] + 1)
            for position, index_of in enumerate(self.indices)
        ]
        return Cells(numbers, wide, tf.stack(indices, axis=1) if indices else codes)


def read_table(
    source: Source,
    choice: Choice,
    split: Split,
    folder: Path,
    workers: Workers,
    memory: int,
    report: Callable[[int], None] = lambda rows: None,
) -> Table:
    """Read a source: collect statistics of its columns and spool its rows.

    If the rows need more than `memory` bytes, they are stored in `folder`. `report` is called
    periodically with the number of rows read.

    Raises:
        DataError: the table cannot be used; the message says where and why.
        OSError: the disk is full.
    """
    selection = choose_columns(source, choice)
    assignment = choose_assignment(source, choice, selection, split)
    while True:
        reader = _Reader(selection.parsers, choice, assignment, folder, memory)
        names = reader.read(source, workers, report)
        if not names:
            return reader.finish(source, workers, selection)
        if not source.can_be_read_again:
            raise DataError(
                f"column {names[0]!r} needs 64 bits, which the first rows did not show; "
                "give the table as a file, since standard input cannot be read again"
            )
        selection = selection.with_float64(names)


class _Reader:
    """Spools one worker's rows batch by batch and accumulates their statistics."""

    def __init__(
        self,
        parsers: Mapping[str, CellParser],
        choice: Choice,
        assignment: Assignment,
        folder: Path,
        memory: int,
    ) -> None:
        self.choice, self.assignment, self.parsers = choice, assignment, parsers
        self.split = assignment.split
        features = {n: p for n, p in parsers.items() if n not in choice.non_features}
        self.roles = Roles.of(features, choice.label, choice.weight)
        self.names = list(features)
        self.labels = Labels(choice.label, choice.positive)
        self.numbers = NumberStatistics(len(self.roles.numbers))
        self.wide = NumberStatistics(len(self.roles.wide))
        self.categories = {name: CategoryStatistics() for name in self.roles.categories}
        layout = Layout.of(
            *(len(r) for r in (self.roles.numbers, self.roles.wide, self.categories))
        )
        for subset in SUBSETS:
            (folder / f"{subset}.rows").unlink(missing_ok=True)
        self.writers = {s: SpoolWriter(folder / f"{s}.rows", layout, memory) for s in SUBSETS}
        self.rows = 0
        self.class_weights = {s: np.zeros(CLASSES) for s in SUBSETS}
        self.hash_sums = dict.fromkeys(SUBSETS, 0)
        self.weight_hash_sum = 0
        self.lossy = np.zeros(len(self.roles.numbers), np.bool_)
        self.spans: dict[str, tuple[float, float]] = {}

    def read(self, source: Source, workers: Workers, report: Callable[[int], None]) -> list[str]:
        """Read this worker's rows and return the columns that turn out to need 64 bits.

        Raises:
            DataError: any worker found the table unusable.
        """
        message, names = "", set[str]()
        try:
            batches = source.batches(self.parsers, workers.index, workers.count)
            for prepared in prepare_ahead(batches, self.roles):
                self.add(prepared, self.assignment.assign(prepared.batch, prepared.key))
                report(self.rows)
            if source.test is not None:
                batches = source.test.batches(self.parsers, workers.index, workers.count)
                for prepared in prepare_ahead(batches, self.roles):
                    self.add(prepared, np.full(len(prepared.key), HELD_OUT, np.int8))
        except DataError as error:
            message = str(error)
        except WidenError as error:
            names.update(error.names)
        for worker_message, worker_names in workers.gather([message, sorted(names)]):
            if worker_message:  # all workers raise the error that any of them found
                raise DataError(worker_message)
            names.update(worker_names)
        return sorted(names) or self._find_imprecise(workers)

    def _find_imprecise(self, workers: Workers) -> list[str]:
        """Return the columns in which float32 loses significant digits."""
        numbers = NumberStatistics(len(self.roles.numbers))
        spans: dict[str, list[float]] = {}
        lossy = np.zeros_like(self.lossy)
        own = [self.numbers.as_json(), self.lossy.tolist(), self.spans]
        for stored in workers.gather(own):
            numbers.merge(NumberStatistics.from_json(stored[0]))
            lossy |= np.array(stored[1], np.bool_)
            for name, span in stored[2].items():
                spans.setdefault(name, []).extend(span)
        names = []
        for position in lossy.nonzero()[0].tolist():
            name = self.roles.numbers[position]
            if numbers.weight[:, position].sum() == 0:
                continue
            if numbers.minimum[position] == numbers.maximum[position]:
                is_imprecise = len(set(spans.get(name, ()))) > 1
            else:
                is_imprecise = not resolves(np.float32, *numbers.moments(position))
            if is_imprecise:
                names.append(name)
        return names

    def add(self, prepared: PreparedBatch, subsets: Subsets) -> None:
        """Spool the rows of a batch by subset and add its training rows to the statistics."""
        rows = self._convert(prepared)
        self.rows += len(rows)
        self.lossy |= prepared.lossy
        for name, (low, high) in prepared.spans.items():
            min_low, max_high = self.spans.get(name, (low, high))
            self.spans[name] = (min(low, min_low), max(high, max_high))
        for number, subset in enumerate(SUBSETS):
            index = np.flatnonzero(subsets == number)
            for stored in self.writers[subset].append(rows, index):
                self.hash_sums[subset] += int(stored.key.sum(dtype=np.uint64))
                if self.roles.weight is not None:
                    self.weight_hash_sum += int(
                        (stored.key * hash_numbers(stored.weight)).sum(dtype=np.uint64)
                    )
                self.class_weights[subset] += np.bincount(stored.label, stored.weight, CLASSES)
                if subset == "train":
                    self._add_statistics(stored, prepared)

    def _add_statistics(self, rows: Rows, prepared: PreparedBatch) -> None:
        """Add training rows of a batch to the statistics."""
        self.numbers.add(rows.numbers, rows.label, rows.weight, prepared.bounds)
        self.wide.add(rows.wide, rows.label, rows.weight)
        for position, category in enumerate(self.categories.values()):
            category.add(rows.codes[:, position], rows.label, rows.weight)

    def _convert(self, prepared: PreparedBatch) -> Rows:
        codes = np.empty((len(prepared.key), len(self.categories)), np.int32)
        for position, (name, category) in enumerate(self.categories.items()):
            texts = prepared.texts[position]
            # Code −1, a missing value, selects the last element.
            code_of = np.append(category.encode(name, texts.values), np.int32(-1))
            codes[:, position] = code_of[texts.codes]
        label = self.labels.encode(prepared)
        return Rows(prepared.numbers, prepared.wide, codes, label, prepared.weight, prepared.key)

    def finish(self, source: Source, workers: Workers, selection: Selection) -> Table:
        """Merge the statistics of all workers and return the table."""
        spools = {subset: writer.finish() for subset, writer in self.writers.items()}
        class_names, class_of = self.labels.assign_classes(workers)
        numbers, wide, categories = self._merge_statistics(class_of, workers)
        counts = workers.sum(np.array([self.rows, *(s.rows for s in spools.values())], np.float64))
        rows = dict(zip(("read", *spools), counts.astype(int).tolist(), strict=True))
        weights = workers.sum(
            np.array([order_by_class(w, class_of) for w in self.class_weights.values()])
        )
        weights_by_subset = dict(zip(spools, weights, strict=True))
        check_classes(
            rows,
            weights_by_subset,
            class_names,
            self.assignment.advice,
            validation=self.split.validation > 0,
        )
        columns = self._build_columns(numbers, wide, categories)
        hashes = {subset: _sum_hashes(workers, own) for subset, own in self.hash_sums.items()}
        table_hash = sum(hashes.values()) + _sum_hashes(workers, self.weight_hash_sum)
        unhashed = (*self.assignment.columns, self.roles.weight)
        return Table(
            encoder=Encoder([columns[name] for name in self.names]),
            label_name=self.choice.label,
            missing_marks=self.choice.cell_format.missing,
            class_names=class_names,
            train=spools["train"],
            validation=spools["validation"],
            held_out=spools["held_out"],
            rows=rows,
            class_weights=tuple(weights[0].tolist()),
            fingerprint={
                "source": source.name,
                "rows": rows["read"],
                "columns": [name for name in self.parsers if name not in unhashed],
                "kinds": {name: columns[name].kind for name in self.names},
                "classes": class_names,
                "hash": f"{table_hash % 2**64:016x}",
                "row_hash": ROW_HASH,
                "held_out_hash": f"{hashes['held_out']:016x}",
                **self.assignment.fingerprint(),
            },
            class_of=class_of,
            values=tuple(tuple(category.codes) for category in self.categories.values()),
            indices=tuple(columns[n].indices(c.codes) for n, c in self.categories.items()),
            rates=tuple(
                _compute_rates(categories[n], columns[n].vocabulary) for n in self.roles.categories
            ),
            bins={
                **bin_numbers(spools["train"], self.roles, workers),
                **{n: Bins.of_categories(c, columns[n].vocabulary) for n, c in categories.items()},
            },
            used=tuple(replace(use, kind=columns[use.name].kind) for use in selection.used),
            left_out=selection.left_out,
            warnings=selection.warnings,
        )

    def _build_columns(
        self,
        numbers: NumberStatistics,
        wide: NumberStatistics,
        categories: Mapping[str, CategoryStatistics],
    ) -> dict[str, Any]:
        """Return the columns with their statistics, by name."""
        columns: dict[str, Any] = {}
        for position, name in enumerate(self.roles.numbers):
            fields = numbers.column_fields(position, np.float32)
            columns[name] = self.parsers[name].column(name, **fields)
        for position, name in enumerate(self.roles.wide):
            fields = wide.column_fields(position, np.float64)
            columns[name] = self.parsers[name].column(name, **fields, double=True)
        for name, category in categories.items():
            if self.parsers[name].kind == "boolean" and not category.missing:
                columns[name] = BooleanColumn(name, **category.column_fields(FALSE_TRUE))
            else:  # a bool tensor has no missing value, so such a column is sent as text
                marks = self.choice.cell_format.marks
                fields = category.column_fields(category.build_vocabulary(name))
                columns[name] = CategoricalColumn(name, **fields, marks=marks)
        return columns

    def _merge_statistics(
        self, class_of: npt.NDArray[np.int32], workers: Workers
    ) -> tuple[NumberStatistics, NumberStatistics, dict[str, CategoryStatistics]]:
        """Order this worker's statistics by class and merge those of all workers."""
        for statistics in (self.numbers, self.wide):
            for values in (statistics.weight, statistics.mean, statistics.squares):
                values[:] = order_by_class(values, class_of)
        for category in self.categories.values():
            category.weights = order_by_class(category.weights.T, class_of).T
        own = {
            "numbers": self.numbers.as_json(),
            "wide": self.wide.as_json(),
            "categories": {name: c.as_json() for name, c in self.categories.items()},
        }
        numbers = NumberStatistics(len(self.roles.numbers))
        wide = NumberStatistics(len(self.roles.wide))
        categories = {name: CategoryStatistics() for name in self.categories}
        for stored in workers.gather(own):
            numbers.merge(NumberStatistics.from_json(stored["numbers"]))
            wide.merge(NumberStatistics.from_json(stored["wide"]))
            for name, category in categories.items():
                category.merge(CategoryStatistics.from_json(stored["categories"][name]))
        return numbers, wide, categories


def _sum_hashes(workers: Workers, own: int) -> int:
    return sum(int(text, 16) for text in workers.gather(f"{own:x}")) % 2**64


def _compute_rates(
    category: CategoryStatistics, vocabulary: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Return the rate of class 1 at each index: the vocabulary, then unknown and missing."""
    weights = np.array([category.class_weights(value) for value in vocabulary]).reshape(-1, CLASSES)
    negative, positive = category.weights.sum(axis=0)
    total = weights.sum(axis=1)
    rates = np.divide(weights[:, 1], total, where=total > 0, out=np.zeros(len(total)))
    overall = positive / max(negative + positive, 1e-300)
    return np.append(rates, [overall, overall])
