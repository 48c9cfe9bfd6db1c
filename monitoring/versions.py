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

# The name under which gateways count the model's own probability.
PROBABILITY = ""
MISSING, OTHER = "missing", "other"
NUMBERS = ("numeric", "date", "")


@dataclass(frozen=True)
class ReferenceColumn:
    """A column of the reference.

    Attributes:
        name: name; `PROBABILITY` for the model's own probability.
        kind: numeric, date, categorical or boolean; empty for the probability.
        shares: share of the training rows in each bin, then missing and other.
        contribution: standard deviation of the column's share of the logit.
    """

    name: str
    kind: str
    shares: Floats
    contribution: float

    @property
    def bins(self) -> list[str]:
        """Names of the bins, as gateways count them."""
        return [*map(str, range(len(self.shares) - 2)), MISSING, OTHER]

    @property
    def ordered_bins(self) -> int | None:
        """Number of bins that have an order; None if they have none."""
        return len(self.shares) - 2 if self.kind in NUMBERS else None


@dataclass(frozen=True)
class Reference:
    """The distribution of the training rows.

    Attributes:
        rows: number of training rows.
        class_names: names of class 0 and class 1.
        columns: the model's probability, then the columns of the table.
    """

    rows: int
    class_names: tuple[str, str]
    columns: tuple[ReferenceColumn, ...]

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Reference:
        """Read `reference.json`.

        Raises:
            KeyError, TypeError, ValueError: it is not in that format.
        """
        if stored["format"] != 1:
            raise ValueError(f"format: expected 1, got {stored['format']}")
        probability = {
            **stored["probability"],
            **{"name": PROBABILITY, "kind": "", "missing": 0.0, "other": 0.0, "contribution": 0.0},
        }
        first, second = stored["class_names"]
        return cls(
            int(stored["rows"]),
            (first, second),
            tuple(_column(one) for one in (probability, *stored["columns"])),
        )


@dataclass(frozen=True)
class Version:
    """A version directory, `models/NAME/N`."""

    directory: Path

    @property
    def number(self) -> int:
        """Its number."""
        return int(self.directory.name)

    @cached_property
    def reference(self) -> Reference:
        """The distribution of its training rows.

        Raises:
            MonitoringError: it is missing or cannot be read.
        """
        path = self.directory / "reference.json"
        try:
            return Reference.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise MonitoringError(
                f"{path} does not exist: the version was published before models carried a "
                "reference, or by another job; publish it again with `python -m training fit`"
            ) from error
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise MonitoringError(f"{path}: not a reference: {error}") from error

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """The manifest; empty if there is none.

        Raises:
            MonitoringError: it cannot be read.
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
        """Smallest probability that is labelled class 1."""
        return float(self.manifest.get("threshold", 0.5))

    @property
    def is_calibrated(self) -> bool:
        """Whether probabilities were fitted to the classes' shares, not shifted by weights."""
        return not (self.manifest.get("settings") or {}).get("class_weight")


def versions(models: Path, model: str) -> list[Version]:
    """Return the published versions of a model, oldest first.

    Raises:
        MonitoringError: there is none.
    """
    base = models / model
    found = [path for path in base.glob("*") if path.name.isascii() and path.name.isdigit()]
    if not found:
        raise MonitoringError(
            f"{base} has no version; --models and --model name the directory of the versions"
        )
    return [Version(path) for path in sorted(found, key=lambda path: int(path.name))]


def _column(stored: Mapping[str, Any]) -> ReferenceColumn:
    shares = [*stored["shares"], stored["missing"], stored["other"]]
    return ReferenceColumn(
        str(stored["name"]),
        str(stored["kind"]),
        np.array(shares, np.float64),
        float(stored["contribution"]),
    )
