"""Comparison of a candidate with the published version, on rows that neither was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from training.data.held_out import Examples
from training.data.split import Split
from training.evaluation.candidate import Candidate
from training.evaluation.metrics import evaluate
from training.publishing import manifest, schema
from training.publishing.file_hashes import ManifestError
from training.publishing.manifest import Comparison, Manifest
from training.publishing.saved_version import SavedVersion
from training.publishing.schema import Schema


class IncomparableError(Exception):
    """Two versions cannot be compared; the message says why."""


class Baseline:
    """The published version that a candidate is compared with.

    Attributes:
        number: its version number.
        manifest: its manifest; None if it cannot be read.
        schema: its schema.
    """

    def __init__(self, directory: Path) -> None:
        """Load a version directory.

        Raises:
            IncomparableError: it cannot be loaded, or does not describe itself.
        """
        self.number = int(directory.name)
        self.manifest: Manifest | None = None
        self._manifest_problem = ""
        try:
            self.manifest = manifest.read(directory)
        except ManifestError as error:
            self._manifest_problem = str(error)
        try:
            self._version = SavedVersion(directory)
        except (ValueError, OSError, tf.errors.OpError) as error:
            raise IncomparableError(f"it cannot be loaded: {_first_line(error)}") from error
        try:
            self.schema: Schema = schema.from_version(self._version, self.manifest)
        except (KeyError, ValueError, TypeError, tf.errors.OpError) as error:
            raise IncomparableError(f"it does not describe itself: {_first_line(error)}") from error

    @property
    def is_reweighted(self) -> bool:
        """Whether class weights have shifted its probabilities."""
        return self.manifest is not None and self.manifest.is_reweighted

    def compare(self, candidate: Candidate) -> Comparison:
        """Compare a candidate with this version.

        Raises:
            IncomparableError: they take different rows, or no rows are known to be new to both.
        """
        model = candidate.model
        if not schema.are_comparable(self.schema, schema.from_model(model)):
            raise IncomparableError("the columns or classes are not the same")
        rows = self._new_rows(candidate)
        inputs = model.inputs(rows.frame)
        try:
            outputs = self._version.run("serving_default", inputs)
            probabilities = outputs["probability"].astype(np.float64)
            labels = np.array([label.decode() for label in outputs["label"]])
        except (KeyError, ValueError, TypeError, tf.errors.OpError) as error:
            raise IncomparableError(f"it cannot predict: {_first_line(error)}") from error
        ours = rows.probabilities
        our_labels = np.array(model.class_names)[(ours >= model.threshold).astype(int)]
        threshold = self.manifest.threshold if self.manifest else model.threshold
        return Comparison(
            version=self.number,
            rows=len(rows),
            metrics=evaluate(rows.labels, ours, model.threshold, rows.weights),
            published_metrics=evaluate(rows.labels, probabilities, threshold, rows.weights),
            label_flips=float(np.average(our_labels != labels, weights=rows.weights)),
        )

    def _new_rows(self, candidate: Candidate) -> Examples:
        """Return the held-out rows that this version was not trained on either.

        A row's hash decides whether it was held out, so the manifest must name the same hash.
        """
        record = self.manifest
        if record is None or record.settings is None:
            problem = self._manifest_problem or "its manifest has no settings"
            raise IncomparableError(f"the rows it was trained on are unknown: {problem}")
        ours, theirs = candidate.manifest.data, record.data
        if ours.row_hash != theirs.row_hash:
            raise IncomparableError(
                "the rows it was trained on are unknown: they were chosen by the row hash "
                f"{theirs.row_hash or 'of an earlier release'}, the candidate's by {ours.row_hash}"
            )
        if set(ours.columns) != set(theirs.columns):
            raise IncomparableError(
                "the rows it was trained on are unknown: they were chosen by a hash of the columns "
                f"{', '.join(theirs.columns)}, which are not the candidate's"
            )
        if theirs.split_by != "hash":
            if theirs.holds_out_rows_of(ours):
                return candidate.held_out
            method = "test data"
            if theirs.split_column:
                method = f"{theirs.split_by} {theirs.split_column!r}"
            raise IncomparableError(
                f"the rows it was trained on are unknown: it was split by {method} and held out "
                "other rows; versions with the same --test-data can be compared"
            )
        split = Split(record.settings.held_out, 0.0, record.settings.seed)
        held_out = candidate.held_out
        new_rows = held_out.take(split.uniform(held_out.keys) < split.held_out)
        if len(set(new_rows.labels[new_rows.weights > 0].tolist())) < 2:
            raise IncomparableError(
                f"it was trained on all but {len(new_rows)} of the {len(held_out)} held-out rows; "
                f"--seed {record.settings.seed} holds out the rows that it held out"
            )
        return new_rows


def _first_line(error: Exception) -> str:
    text = error.args[0] if isinstance(error, KeyError) else error  # str() would quote a key
    return (str(text).strip() or type(error).__name__).splitlines()[0]
