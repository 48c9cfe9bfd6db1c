"""Published versions: their `reference.json` and `manifest.json`, read without TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from monitoring.errors import MonitoringError
from monitoring.statistics import Floats

# The column name under which gateways count the model's probability.
PROBABILITY = ""
MISSING, OTHER = "missing", "other"
ORDERED_KINDS = ("numeric", "date", "")


@dataclass(frozen=True)
class ReferenceColumn:
    """A column of the reference.

    Attributes:
        name: column name; `PROBABILITY` for the model's probability.
        kind: numeric, date, categorical or boolean; empty for the probability.
        shares: share of training rows per bin, then missing and other.
        contribution: standard deviation of the column's contribution to the logit.
    """

    name: str
    kind: str
    shares: Floats
    contribution: float

    @property
    def bins(self) -> list[str]:
        """Names of the bins, as used by gateways."""
        return [*map(str, range(len(self.shares) - 2)), MISSING, OTHER]

    @property
    def ordered_bins(self) -> int | None:
        """Number of ordered bins; None if the bins have no order."""
        return len(self.shares) - 2 if self.kind in ORDERED_KINDS else None


@dataclass(frozen=True)
class Reference:
    """The distribution of the training rows.

    Attributes:
        rows: number of training rows.
        class_names: names of class 0 and class 1.
        columns: the model's probability, then the table's columns.
    """

    rows: int
    class_names: tuple[str, str]
    columns: tuple[ReferenceColumn, ...]

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Reference:
        """Read `reference.json`.

        Raises:
            KeyError, TypeError, ValueError: it is not in the expected format.
        """
        if stored["format"] != 1:
            raise ValueError(f"format: expected 1, got {stored['format']}")
        probability = {
            **stored["probability"],
            **{"name": PROBABILITY, "kind": "", "missing": 0.0, "other": 0.0, "contribution": 0.0},
        }
        class0, class1 = stored["class_names"]
        return cls(
            int(stored["rows"]),
            (class0, class1),
            tuple(_parse_column(column) for column in (probability, *stored["columns"])),
        )


@dataclass(frozen=True)
class Version:
    """A version directory, `models/NAME/N`."""

    directory: Path

    @property
    def number(self) -> int:
        """Version number."""
        return int(self.directory.name)

    @cached_property
    def reference(self) -> Reference:
        """Distribution of the training rows.

        Raises:
            MonitoringError: the reference is missing or cannot be read.
        """
        path = self.directory / "reference.json"
        try:
            return Reference.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise MonitoringError(
                f"{path} does not exist: the version was published by another job or an earlier "
                "release; publish it again with `python -m training fit`"
            ) from error
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise MonitoringError(f"{path}: not a reference: {error}") from error

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """The manifest; empty if there is none.

        Raises:
            MonitoringError: the manifest cannot be read.
        """
        path = self.directory / "manifest.json"
        try:
            manifest: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise MonitoringError(f"{path}: not a manifest: {error}") from error
        return manifest

    @property
    def threshold(self) -> float:
        """Smallest probability that is predicted as class 1."""
        return float(self.manifest.get("threshold", 0.5))

    @property
    def is_calibrated(self) -> bool:
        """Whether no class weights have shifted the probabilities."""
        return not (self.manifest.get("settings") or {}).get("class_weight")


def find_versions(models: Path, model: str) -> list[Version]:
    """Return the published versions of a model, oldest first.

    Raises:
        MonitoringError: the model has no version.
    """
    base = models / model
    directories = [path for path in base.glob("*") if path.name.isascii() and path.name.isdigit()]
    if not directories:
        raise MonitoringError(
            f"{base} has no version; --models and --model must name the directory of the versions"
        )
    return [Version(path) for path in sorted(directories, key=lambda path: int(path.name))]


def _parse_column(stored: Mapping[str, Any]) -> ReferenceColumn:
    shares = [*stored["shares"], stored["missing"], stored["other"]]
    return ReferenceColumn(
        str(stored["name"]),
        str(stored["kind"]),
        np.array(shares, np.float64),
        float(stored["contribution"]),
    )
