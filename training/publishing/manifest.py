"""The manifest of a version: enough to check the version and compare with it.

`manifest.json` is in the version directory; TensorFlow Serving ignores it. Every field has a
default, because manifests of earlier releases lack some.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from training.publishing.file_hashes import MANIFEST, ManifestError, file_hashes, read_json
from training.settings import FitSettings

LIBRARIES = ("numpy", "polars", "scikit-learn")

ENDINGS = {
    "tolerance": "converged: the tolerance was reached",
    "iterations": "not converged: the iteration limit was reached",
    "early stopping": "the validation cost no longer fell",
    "precision": "converged: the cost cannot be lowered further in this precision",
}

T = TypeVar("T")


@dataclass(frozen=True)
class Data:
    """A fingerprint of the table.

    Attributes:
        source: file, directory or built-in table.
        rows: number of rows read.
        columns: names of the columns that enter the rows' hashes, including the label.
        hash: a hash of all rows and their weights, regardless of their order.
        row_hash: name and version of the rows' hash, which decides which rows are held out.
        label: name of the label column.
        held_out_hash: sum of the hashes of the held-out rows.
        split_by: how the held-out rows were chosen: "hash", "column", "time" or "test data".
        split_column: the column that they were chosen by; empty if there is none.
        split_start: the time from which rows were held out, if they were chosen by time.
    """

    source: str = ""
    rows: int = 0
    columns: tuple[str, ...] = ()
    hash: str = ""
    row_hash: str | None = None
    label: str = ""
    held_out_hash: str = ""
    split_by: str = "hash"
    split_column: str = ""
    split_start: float | None = None

    def holds_out_rows_of(self, other: Data) -> bool:
        """Return whether this holds out all rows that `other` holds out, whatever the row hash."""
        if self.held_out_hash and self.held_out_hash == other.held_out_hash:
            return True
        if (self.split_by, self.split_column) != ("time", other.split_column):
            return False
        if self.split_start is None or other.split_start is None:
            return False
        return other.split_by == "time" and self.split_start <= other.split_start

    @classmethod
    def from_fingerprint(cls, fingerprint: Mapping[str, Any], label: str) -> Data:
        """Build the record from a table's fingerprint."""
        return _decode(cls, {**fingerprint, "label": label})


@dataclass(frozen=True)
class FitSummary:
    """How a fit ended.

    Attributes:
        steps: number of steps.
        stopped_by: the reason for stopping, see `fitting.minimize.Reason`.
        converged: False if the iteration limit ended the fit.
        cost: J at the parameters returned, penalty included.
        gradient: largest |∂J/∂θ| there; None if it was not recorded.
        learning_rate: α that was used; None for solvers without one.
    """

    steps: int = 0
    stopped_by: str = ""
    converged: bool = True
    cost: float | None = None
    gradient: float | None = None
    learning_rate: float | None = None

    @property
    def ending(self) -> str:
        """Why the fit stopped, in words."""
        return ENDINGS.get(self.stopped_by, self.stopped_by)


@dataclass(frozen=True)
class Comparison:
    """The candidate and the published version on rows that neither was trained on.

    Attributes:
        version: number of the published version.
        rows: number of rows compared.
        metrics: the candidate's, by name.
        published_metrics: the published version's.
        label_flips: weighted fraction of the rows whose label the candidate changes.
    """

    version: int
    rows: int
    metrics: Mapping[str, float]
    published_metrics: Mapping[str, float]
    label_flips: float | None = None


@dataclass(frozen=True)
class Verdict:
    """The gate's verdict.

    Attributes:
        passed: whether every rule was met.
        reason: the rule that was not met, in one line; empty if it passed.
        forced: whether the version was published anyway.
        rule: the rule that was applied.
        comparison: comparison with the published version, if it was possible.
        not_compared: reason for a missing comparison; empty without a published version.
        schema_changes: changes that callers of the published version must make, one line each.
    """

    passed: bool = True
    reason: str = ""
    forced: bool = False
    rule: str = ""
    comparison: Comparison | None = None
    not_compared: str = ""
    schema_changes: tuple[str, ...] = ()

    @property
    def notices(self) -> list[str]:
        """Messages to print with a published version."""
        notices = [f"Forced: {self.reason}"] if self.forced else []
        notices += [f"Schema change: {change}" for change in self.schema_changes]
        if self.not_compared:
            notices.append(f"Not compared with the published version: {self.not_compared}")
        return notices


@dataclass(frozen=True)
class Manifest:
    """The record of a version.

    Attributes:
        trained_at: time of the fit, ISO 8601, UTC.
        data: fingerprint of the table.
        rows: row counts by name: read, train, validation, held_out.
        settings: settings of the fit; None if they were not recorded.
        fit: how the fit ended.
        libraries: versions of the libraries that the result depends on.
        threshold: smallest probability that is labelled class 1.
        metrics: metrics on the held-out rows, by name.
        intervals: 95% intervals of the metrics, by name.
        warnings: messages about the data and the fit.
        verdict: the gate's verdict, named `gate` in the file.
        reason: why it was trained, such as a schedule or a drop in quality; may be empty.
        rollback_to: number of the version that this one is a copy of.
        files: SHA-256 of every other file by its path.
    """

    trained_at: str = ""
    data: Data = field(default_factory=Data)
    rows: Mapping[str, int] = field(default_factory=dict)
    settings: FitSettings | None = None
    fit: FitSummary = field(default_factory=FitSummary)
    libraries: Mapping[str, str] = field(default_factory=dict)
    threshold: float = 0.5
    metrics: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    verdict: Verdict = field(default_factory=Verdict)
    reason: str = ""
    rollback_to: int | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_reweighted(self) -> bool:
        """Whether class weights have shifted the probabilities."""
        return self.settings is not None and self.settings.class_weight is not None

    def as_json(self) -> dict[str, Any]:
        """Return the content of `manifest.json`."""
        stored = asdict(self)
        stored["gate"] = stored.pop("verdict")
        if self.rollback_to is None:
            del stored["rollback_to"]
        return stored

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Manifest:
        """Read a manifest of this release or an earlier one.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is not a manifest.
        """
        gate = _decode(Verdict, stored.get("gate", {}))
        comparison: Any = gate.comparison
        fit = _decode(FitSummary, stored.get("fit", {}))
        settings = stored.get("settings")
        return replace(
            _decode(cls, stored),
            data=_decode(Data, stored.get("data", {})),
            settings=FitSettings.from_json(settings) if settings else None,
            fit=replace(fit, converged=fit.stopped_by != "iterations"),
            verdict=replace(
                gate, comparison=_decode_comparison(comparison) if comparison else None
            ),
        )


def write(directory: Path, manifest: Manifest) -> None:
    """Write the manifest of a version directory whose other files are complete."""
    manifest = replace(manifest, files=file_hashes(directory))
    text = json.dumps(manifest.as_json(), indent=2, sort_keys=True)
    (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read(directory: Path) -> Manifest:
    """Return a version's manifest.

    Raises:
        ManifestError: it is missing or cannot be read.
    """
    stored = read_json(directory)
    try:
        return Manifest.from_json(stored)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"{directory / MANIFEST}: not a manifest: {error}") from error


def libraries() -> dict[str, str]:
    """Return the versions of the libraries that a result depends on."""
    # Imported here because listing versions does not need it. The version is the module's, because
    # the package may be tensorflow-cpu or tensorflow.
    import tensorflow as tf

    versions = {"python": platform.python_version(), "tensorflow": str(tf.__version__)}
    return versions | {name: version(name) for name in LIBRARIES}


def _decode_comparison(stored: Mapping[str, Any]) -> Comparison:
    if "log_loss" not in stored:
        return _decode(Comparison, stored)
    # Earlier releases compared the log-loss only.
    ours, theirs = stored["log_loss"], stored["published_log_loss"]
    return Comparison(stored["version"], stored["rows"], {"log_loss": ours}, {"log_loss": theirs})


def _decode(cls: type[T], stored: Mapping[str, Any]) -> T:
    """Build a dataclass from JSON, ignoring unknown names and converting lists to tuples."""
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    return cls(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in stored.items()
            if name in known
        }
    )
