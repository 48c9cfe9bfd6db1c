"""The table: a source's rows with kinds, classes, split, statistics and row stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from training.data.assignment import HELD_OUT, SHARES, Assignment, Shares, assign
from training.data.bins import Bins, number_bins
from training.data.choose import Choice, Chosen, ColumnUse, choose_columns
from training.data.classes import Labels, check_classes, ordered
from training.data.prepare import Prepared, Roles, WidenError, prepare_ahead
from training.data.reading import Source
from training.data.row_store import Layout, Rows, Spool, SpoolWriter
from training.data.split import ROW_HASH, Split, number_hashes
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
        train, validation, held_out: this worker's share of the rows.
        rows: number of rows of all workers, by the name of the share.
        class_weights: summed weight of the training rows of each class, of all workers.
        fingerprint: identifies the data.
        class_of: the class of each code of a label.
        values: for each boolean or categorical column, the value of each code.
        indices: for each of them, the place (see `Cells`) of each code, preceded by that of −1.
        rates: for each of them, the share of class 1 at each place.
        bins: the training rows in each bin of each column, by the column's name.
        used: the columns that are used, and how that was decided.
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
        places = [
            tf.gather(tf.constant(indices), codes[:, position] + 1)
            for position, indices in enumerate(self.indices)
        ]
        return Cells(numbers, wide, tf.stack(places, axis=1) if places else codes)


def read_table(
    source: Source,
    choice: Choice,
    split: Split,
    folder: Path,
    workers: Workers,
    memory: int,
    report: Callable[[int], None] = lambda rows: None,
) -> Table:
    """Read a source once: learn its columns, and spool its rows.

    If the rows need more than `memory` bytes, they are stored in `folder`. `report` is called
    periodically with the number of rows read.

    Raises:
        DataError: the table cannot be used; the message says where and why.
        OSError: the disk is full.
    """
    chosen = choose_columns(source, choice)
    assignment = assign(source, choice, chosen, split)
    while True:
        reader = _Reader(chosen.parsers, choice, assignment, folder, memory)
        widen = reader.read(source, workers, report)
        if not widen:
            return reader.finish(source, workers, chosen)
        if not source.can_be_read_again:
            raise DataError(
                f"column {widen[0]!r} needs 64 bits, which the first rows did not show; "
                "give the table as a file, since standard input cannot be read again"
            )
        chosen = chosen.widened(widen)


class _Reader:
    """Spools one worker's rows part by part, and accumulates their statistics."""

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
        features = {n: p for n, p in parsers.items() if n not in choice.others}
        self.roles = Roles.of(features, choice.label, choice.weight)
        self.names = list(features)
        self.labels = Labels(choice.label, choice.positive)
        self.numbers = NumberStatistics(len(self.roles.numbers))
        self.wide = NumberStatistics(len(self.roles.wide))
        self.categories = {name: CategoryStatistics() for name in self.roles.others}
        layout = Layout.of(
            *(len(r) for r in (self.roles.numbers, self.roles.wide, self.categories))
        )
        for share in SHARES:
            (folder / f"{share}.rows").unlink(missing_ok=True)
        self.writers = {s: SpoolWriter(folder / f"{s}.rows", layout, memory) for s in SHARES}
        self.rows = 0
        self.class_weights = {s: np.zeros(CLASSES) for s in SHARES}
        self.hash_sums = dict.fromkeys(SHARES, 0)
        self.weight_hash_sum = 0
        self.lossy = np.zeros(len(self.roles.numbers), np.bool_)
        self.spans: dict[str, tuple[float, float]] = {}

    def read(self, source: Source, workers: Workers, report: Callable[[int], None]) -> list[str]:
        """Read this worker's share, and return the columns that turn out to need 64 bits.

        Raises:
            DataError: a worker has found something wrong.
        """
        problem, widen = "", set[str]()
        try:
            parts = source.parts(self.parsers, workers.index, workers.count)
            for prepared in prepare_ahead(parts, self.roles):
                self.add(prepared, self.assignment.shares(prepared.part, prepared.key))
                report(self.rows)
            if source.test is not None:
                parts = source.test.parts(self.parsers, workers.index, workers.count)
                for prepared in prepare_ahead(parts, self.roles):
                    self.add(prepared, np.full(len(prepared.key), HELD_OUT, np.int8))
        except DataError as error:
            problem = str(error)
        except WidenError as error:
            widen.update(error.names)
        for message, names in workers.gather([problem, sorted(widen)]):
            if message:  # all workers raise the error that any of them found
                raise DataError(message)
            widen.update(names)
        return sorted(widen) or self._imprecise(workers)

    def _imprecise(self, workers: Workers) -> list[str]:
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
        found = []
        for position in lossy.nonzero()[0].tolist():
            name = self.roles.numbers[position]
            if numbers.weight[:, position].sum() == 0:
                continue
            if numbers.minimum[position] == numbers.maximum[position]:
                imprecise = len(set(spans.get(name, ()))) > 1
            else:
                imprecise = not resolves(np.float32, *numbers.moments(position))
            if imprecise:
                found.append(name)
        return found

    def add(self, prepared: Prepared, shares: Shares) -> None:
        """Spool the rows of a part by share, and learn from its training rows."""
        rows = self._rows(prepared)
        self.rows += len(rows)
        self.lossy |= prepared.lossy
        for name, (low, high) in prepared.spans.items():
            known = self.spans.get(name, (low, high))
            self.spans[name] = (min(low, known[0]), max(high, known[1]))
        for number, share in enumerate(SHARES):
            index = np.flatnonzero(shares == number)
            for stored in self.writers[share].append(rows, index):
                self.hash_sums[share] += int(stored.key.sum(dtype=np.uint64))
                if self.roles.weight is not None:
                    self.weight_hash_sum += int(
                        (stored.key * number_hashes(stored.weight)).sum(dtype=np.uint64)
                    )
                self.class_weights[share] += np.bincount(stored.label, stored.weight, CLASSES)
                if share == "train":
                    self._learn(stored, prepared)

    def _learn(self, rows: Rows, prepared: Prepared) -> None:
        """Add training rows of a part to the statistics."""
        self.numbers.add(rows.numbers, rows.label, rows.weight, prepared.bounds)
        self.wide.add(rows.wide, rows.label, rows.weight)
        for position, category in enumerate(self.categories.values()):
            category.add(rows.codes[:, position], rows.label, rows.weight)

    def _rows(self, prepared: Prepared) -> Rows:
        codes = np.empty((len(prepared.key), len(self.categories)), np.int32)
        for position, (name, category) in enumerate(self.categories.items()):
            texts = prepared.texts[position]
            # The part's code −1, a missing value, selects the last element.
            own_codes = np.append(category.code(name, texts.values), np.int32(-1))
            codes[:, position] = own_codes[texts.codes]
        label = self.labels.encode(prepared)
        return Rows(prepared.numbers, prepared.wide, codes, label, prepared.weight, prepared.key)

    def finish(self, source: Source, workers: Workers, chosen: Chosen) -> Table:
        """Merge the statistics of all workers, and return the table."""
        spools = {share: writer.finish() for share, writer in self.writers.items()}
        class_names, class_of = self.labels.classes(workers)
        numbers, wide, categories = self._merge_statistics(class_of, workers)
        counted = workers.sum(np.array([self.rows, *(s.rows for s in spools.values())], np.float64))
        rows = dict(zip(("read", *spools), counted.astype(int).tolist(), strict=True))
        weights = workers.sum(np.array([ordered(w, class_of) for w in self.class_weights.values()]))
        by_share = dict(zip(spools, weights, strict=True))
        check_classes(rows, by_share, class_names, validation=self.split.validation > 0)
        columns = self._build_columns(numbers, wide, categories)
        hashes = {share: _sum_hashes(workers, own) for share, own in self.hash_sums.items()}
        table_hash = sum(hashes.values()) + _sum_hashes(workers, self.weight_hash_sum)
        not_hashed = (*self.assignment.columns, self.roles.weight)
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
                "columns": [name for name in self.parsers if name not in not_hashed],
                "kinds": {name: columns[name].kind for name in self.names},
                "classes": class_names,
                "hash": f"{table_hash % 2**64:016x}",
                "row_hash": ROW_HASH,
                "held_out_hash": f"{hashes['held_out']:016x}",
                **self.assignment.facts(),
            },
            class_of=class_of,
            values=tuple(tuple(category.codes) for category in self.categories.values()),
            indices=tuple(columns[n].places(c.codes) for n, c in self.categories.items()),
            rates=tuple(_rates(categories[n], columns[n].vocabulary) for n in self.roles.others),
            bins={
                **number_bins(spools["train"], self.roles, workers),
                **{n: Bins.of_values(c, columns[n].vocabulary) for n, c in categories.items()},
            },
            used=tuple(replace(use, kind=columns[use.name].kind) for use in chosen.used),
            left_out=chosen.left_out,
            warnings=chosen.warnings,
        )

    def _build_columns(
        self,
        numbers: NumberStatistics,
        wide: NumberStatistics,
        categories: Mapping[str, CategoryStatistics],
    ) -> dict[str, Any]:
        """Return the column of each name, with its statistics."""
        columns: dict[str, Any] = {}
        for position, name in enumerate(self.roles.numbers):
            facts = numbers.facts(position, np.float32)
            columns[name] = self.parsers[name].column(name, **facts)
        for position, name in enumerate(self.roles.wide):
            facts = wide.facts(position, np.float64)
            columns[name] = self.parsers[name].column(name, **facts, double=True)
        for name, category in categories.items():
            if self.parsers[name].kind == "boolean" and not category.missing:
                columns[name] = BooleanColumn(name, **category.facts(FALSE_TRUE))
            else:  # a bool tensor has no missing value, so such a column is sent as text
                marks = self.choice.cell_format.marks
                facts = category.facts(category.vocabulary(name))
                columns[name] = CategoricalColumn(name, **facts, marks=marks)
        return columns

    def _merge_statistics(
        self, class_of: npt.NDArray[np.int32], workers: Workers
    ) -> tuple[NumberStatistics, NumberStatistics, dict[str, CategoryStatistics]]:
        """Order this worker's statistics by class, and add up those of all workers."""
        for statistics in (self.numbers, self.wide):
            for values in (statistics.weight, statistics.mean, statistics.squares):
                values[:] = ordered(values, class_of)
        for category in self.categories.values():
            category.weights = ordered(category.weights.T, class_of).T
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


def _rates(category: CategoryStatistics, vocabulary: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return the share of class 1 at each place: the vocabulary, an unknown and a missing value."""
    weights = np.array([category.weights_of(value) for value in vocabulary]).reshape(-1, CLASSES)
    first, second = category.weights.sum(axis=0)
    total = weights.sum(axis=1)
    shares = np.divide(weights[:, 1], total, where=total > 0, out=np.zeros(len(total)))
    overall = second / max(first + second, 1e-300)
    return np.append(shares, [overall, overall])
