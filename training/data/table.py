"""From a source to rows that can be fitted: kinds, classes, split, statistics, spools."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import tensorflow as tf

from training.data.reading import Kind, Part, Source, as_matrix
from training.data.row_store import Layout, Rows, Spool, SpoolWriter
from training.data.split import Split, row_keys
from training.errors import DataError
from training.features.columns import Column
from training.features.statistics import CLASSES, CategoryStatistics, NumericStatistics
from training.workers.collectives import Workers

# What usually stands for class 1 in a pair of values.
POSITIVES = ("1", "1.0", "true", "yes", "y", "t", "positive", "benign")


@dataclass(frozen=True)
class Choice:
    """What of a source to use, and as what.

    Attributes:
        label: the column to predict.
        positive: the label that is class 1; None chooses.
        kinds: of columns whose kind is not to be detected.
        leave_out: columns not to use.
        weight: the column with the rows' weights, if there is one.
    """

    label: str
    positive: str | None = None
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    leave_out: tuple[str, ...] = ()
    weight: str | None = None


@dataclass(frozen=True)
class Table:
    """Rows ready to be fitted.

    Attributes:
        columns: what was learned of the columns, in the table's order, without the label.
        class_names: the labels of class 0 and class 1.
        train, validation, held_out: this worker's share of the rows.
        rows: how many rows all workers have together, by the name of the share.
        class_weights: summed weight of the training rows of each class, of all workers.
        fingerprint: what identifies the data.
        class_of: the class of each label's number.
        values: for each column that is not numeric, the value of each code.
        indices: for each of them, what `columns.encode` takes for each code, for −1 first.
    """

    columns: tuple[Column, ...]
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

    def places(self, codes: Any) -> Any:
        """Turn codes `[rows, other columns]` into what `columns.encode` takes."""
        places = [
            tf.gather(tf.constant(indices), codes[:, position] + 1)
            for position, indices in enumerate(self.indices)
        ]
        return tf.stack(places, axis=1) if places else tf.convert_to_tensor(codes)


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

    Args:
        source: where the rows come from.
        choice: what to use of it.
        split: how to set rows aside.
        folder: where to put the spools.
        workers: who else reads.
        memory: how many bytes of rows to keep; more are put on disk.
        report: called now and then with the number of rows read.

    Raises:
        DataError: the table cannot be used; the message says where and why.
        OSError: the disk is full.
    """
    reader = _Reader(_kinds(source, choice), choice, split, folder, memory)
    wrong = ""
    try:
        for part in source.parts(reader.all_kinds, workers.index, workers.count):
            reader.add(part)
            report(reader.rows)
    except DataError as error:
        wrong = str(error)
    for message in workers.gather(wrong):  # whoever meets it, all tell and stop
        if message:
            raise DataError(message)
    return reader.finish(source, workers)


class _Reader:
    """What accumulates while parts go by."""

    def __init__(
        self, kinds: Mapping[str, Kind], choice: Choice, split: Split, folder: Path, memory: int
    ) -> None:
        self.choice, self.split, self.kinds = choice, split, kinds
        self.all_kinds = {**kinds, choice.label: "categorical"}
        if choice.weight is not None:
            self.all_kinds[choice.weight] = "numeric"
        self.numeric = [name for name, kind in kinds.items() if kind == "numeric"]
        self.others = [name for name, kind in kinds.items() if kind != "numeric"]
        self.classes: dict[str, int] = {}
        self.numbers = NumericStatistics(len(self.numeric))
        self.categories = {name: CategoryStatistics() for name in self.others}
        layout = Layout.of(len(self.numeric), len(self.others))
        shares = ("train", "validation", "held_out")
        self.writers = {s: SpoolWriter(folder / f"{s}.rows", layout, memory) for s in shares}
        self.rows = 0
        self.class_weights = {s: np.zeros(CLASSES) for s in shares}
        self.hash_sum = 0

    def add(self, part: Part) -> None:
        rows = self._rows(part)
        self.rows += len(rows)
        self.hash_sum += int(rows.key.sum(dtype=np.uint64))
        uniform = self.split.uniform(rows.key)
        held_out = self.split.held_out
        validation = held_out + (1 - held_out) * self.split.validation
        masks = {
            "held_out": uniform < held_out,
            "validation": (uniform >= held_out) & (uniform < validation),
            "train": uniform >= validation,
        }
        for share, mask in masks.items():
            taken = rows.take(mask)
            self.writers[share].append(taken)
            self.class_weights[share] += np.bincount(taken.label, taken.weight, CLASSES)
            if share == "train":
                self.numbers.add(taken)
                for position, name in enumerate(self.others):
                    codes = taken.codes[:, position]
                    self.categories[name].add(codes, taken.label, taken.weight)

    def _rows(self, part: Part) -> Rows:
        frame = part.frame
        numbers = as_matrix(part, self.numeric)
        codes = np.empty((len(frame), len(self.others)), np.int32)
        for position, name in enumerate(self.others):
            codes[:, position] = self.categories[name].encode(frame[name])
        return Rows(numbers, codes, self._labels(part), self._weights(part), row_keys(frame))

    def _labels(self, part: Part) -> npt.NDArray[np.int32]:
        values = part.frame[self.choice.label]
        if values.null_count():
            row = int(values.is_null().arg_max() or 0)
            raise DataError(
                f"{part.place(row)}, column {values.name!r}: expected a label, found none"
            )
        seen = values.unique(maintain_order=True)
        for value in seen:
            if len(self.classes) == CLASSES and value not in self.classes:
                row = int((values == value).arg_max() or 0)
                known = " and ".join(repr(name) for name in self.classes)
                raise DataError(
                    f"{part.place(row)}, column {values.name!r}: expected a label of two values, "
                    f"got {value!r} after {known}"
                )
            self.classes.setdefault(value, len(self.classes))
        numbers = [self.classes[value] for value in seen]
        return values.replace_strict(seen, numbers, return_dtype=pl.Int32).to_numpy()

    def _weights(self, part: Part) -> npt.NDArray[np.float32]:
        if self.choice.weight is None:
            return np.ones(len(part.frame), np.float32)
        values = part.frame[self.choice.weight]
        wrong = (~values.is_finite() | (values < 0)).fill_null(True)
        if wrong.any():
            row = int(wrong.arg_max() or 0)
            raise DataError(
                f"{part.place(row)}, column {values.name!r}: expected a weight of at least 0, "
                f"got {'nothing' if values[row] is None else values[row]}"
            )
        return values.to_numpy()

    def finish(self, source: Source, workers: Workers) -> Table:
        spools = {share: writer.finish() for share, writer in self.writers.items()}
        class_names, class_of = self._classes(workers)
        numbers, categories = self._merged(class_of, workers)
        counted = workers.sum(np.array([self.rows, *(s.rows for s in spools.values())], np.float64))
        rows = dict(zip(("read", *spools), counted.astype(int).tolist(), strict=True))
        weights = workers.sum(
            np.array([_ordered(w, class_of) for w in self.class_weights.values()])
        )
        self._check(rows, dict(zip(spools, weights, strict=True)), class_names)
        learned = {
            name: numbers.column(position, name) for position, name in enumerate(self.numeric)
        }
        for name in self.others:
            learned[name] = categories[name].column(name, self.kinds[name], rows["train"])
        hash_sum = sum(int(text, 16) for text in workers.gather(f"{self.hash_sum:x}")) % 2**64
        return Table(
            columns=tuple(learned[name] for name in self.kinds),
            class_names=class_names,
            train=spools["train"],
            validation=spools["validation"],
            held_out=spools["held_out"],
            rows=rows,
            class_weights=tuple(weights[0].tolist()),
            fingerprint={
                "source": source.name,
                "rows": rows["read"],
                "columns": list(self.all_kinds),
                "hash": f"{hash_sum:016x}",
            },
            class_of=class_of,
            values=tuple(tuple(self.categories[name].codes) for name in self.others),
            indices=tuple(self.categories[name].indices(learned[name]) for name in self.others),
        )

    def _classes(self, workers: Workers) -> tuple[tuple[str, str], npt.NDArray[np.int32]]:
        found = sorted({name for names in workers.gather(list(self.classes)) for name in names})
        label = f"column {self.choice.label!r}"
        if len(found) != CLASSES:
            listing = ", ".join(repr(name) for name in found[:5]) or "none"
            raise DataError(f"{label}: expected a label of two values, got {listing}")
        positive = self.choice.positive
        if positive is None:
            usual = [name for name in found if name.strip().lower() in POSITIVES]
            positive = usual[0] if len(usual) == 1 else found[1]
        elif positive not in found:
            raise DataError(
                f"--positive: {label} has the values {found[0]!r} and {found[1]!r}, "
                f"not {positive!r}"
            )
        negative = next(name for name in found if name != positive)
        class_of = [int(name == positive) for name in self.classes]
        return (negative, positive), np.array((*class_of, 0, 0)[:CLASSES], np.int32)

    def _merged(
        self, class_of: npt.NDArray[np.int32], workers: Workers
    ) -> tuple[NumericStatistics, dict[str, CategoryStatistics]]:
        for values in (self.numbers.weight, self.numbers.mean, self.numbers.squares):
            values[:] = _ordered(values, class_of)
        for category in self.categories.values():
            category.weights = _ordered(category.weights.T, class_of).T
        own = {
            "numbers": self.numbers.as_json(),
            "categories": {name: c.as_json() for name, c in self.categories.items()},
        }
        numbers = NumericStatistics(len(self.numeric))
        categories = {name: CategoryStatistics() for name in self.others}
        for stored in workers.gather(own):
            numbers.merge(NumericStatistics.from_json(stored["numbers"]))
            for name, category in categories.items():
                category.merge(CategoryStatistics.from_json(stored["categories"][name]))
        return numbers, categories

    def _check(
        self,
        rows: Mapping[str, int],
        weights: Mapping[str, npt.NDArray[np.float64]],
        class_names: tuple[str, str],
    ) -> None:
        texts = {"train": "to train on", "held_out": "held out"}
        if self.split.validation:
            texts["validation"] = "to tell when to stop"
        for share, text in texts.items():
            for number, name in enumerate(class_names):
                if weights[share][number] <= 0:
                    raise DataError(
                        f"of {rows['read']} rows, the {rows[share]} {text} have none of class "
                        f"{name!r}; more rows are needed, or another --seed or --held-out"
                    )


def _kinds(source: Source, choice: Choice) -> dict[str, Kind]:
    """Return the kind of each column that is used to predict with.

    Raises:
        DataError: a column is named that is not there, or nothing is left to predict with.
    """
    named = {
        "--label": [choice.label],
        "--weight": [choice.weight] if choice.weight is not None else [],
        "--columns": list(choice.kinds),
        "--leave-out": list(choice.leave_out),
    }
    for option, names in named.items():
        for name in names:
            if name not in source.columns:
                listing = ", ".join(source.columns[:30])
                raise DataError(f"{option}: {source.name} has no column {name!r}, it has {listing}")
    if choice.weight == choice.label:
        raise DataError(f"--weight: {choice.weight!r} is the label")
    artefacts = source.left_out.keys() - choice.kinds.keys()  # named in --columns, they are used
    left = [
        name
        for name in source.columns
        if name not in (choice.label, choice.weight, *choice.leave_out, *artefacts)
    ]
    if not left:
        raise DataError(f"{source.name} has no column left to predict {choice.label!r} with")
    return {name: choice.kinds.get(name) or source.kind(name) for name in left}


def _ordered(
    by_label: npt.NDArray[np.float64], class_of: npt.NDArray[np.int32]
) -> npt.NDArray[np.float64]:
    """Turn the first axis from labels in order of appearance into classes."""
    ordered = np.zeros_like(by_label)
    np.add.at(ordered, class_of, by_label)
    return ordered
