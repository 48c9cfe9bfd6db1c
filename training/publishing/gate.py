"""The gate: what a candidate must show before it is published.

It must predict better than a constant and clear the floors that were set, and it must not be worse
than the version now published, on rows that neither was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from training.data.held_out import Examples
from training.data.split import Split
from training.errors import RefusedError
from training.evaluation.metric_names import LESS_IS_BETTER
from training.evaluation.metrics import evaluate
from training.export.serving_module import TrainedModel
from training.publishing import manifest
from training.publishing.saved_version import SavedVersion


@dataclass(frozen=True)
class Rules:
    """What is asked of a candidate.

    Attributes:
        floors: the least value of a metric, or the most if less is better, by its name.
        tolerance: how much larger its log-loss may be than the published version's.
    """

    floors: Mapping[str, float] = field(default_factory=dict)
    tolerance: float = 0.01


@dataclass(frozen=True)
class Comparison:
    """Two versions on the same rows.

    Attributes:
        version: the published version's number.
        rows: how many rows.
        log_loss: the candidate's.
        published_log_loss: the published version's.
    """

    version: int
    rows: int
    log_loss: float
    published_log_loss: float


@dataclass(frozen=True)
class Verdict:
    """What the gate found, as it is written down with the version.

    Attributes:
        passed: whether every rule was met.
        reason: why not, in one line; empty if it passed.
        forced: whether it was published all the same.
        comparison: with the version now published, if it could be compared.
    """

    passed: bool
    reason: str
    forced: bool
    comparison: Comparison | None

    def as_json(self) -> dict[str, Any]:
        """Return it for the manifest."""
        return asdict(self)


def judge(
    model: TrainedModel,
    held_out: Examples,
    data: Mapping[str, Any],
    published: Path | None,
    rules: Rules,
    force: bool,
) -> Verdict:
    """Compare the candidate's metrics with the rules and with the published version.

    Args:
        model: the candidate, with its metrics on the held-out rows.
        held_out: those rows.
        data: the fingerprint of the table they are from.
        published: the directory of the version now published, if there is one.
        rules: what is asked.
        force: whether to let it pass whatever is found.

    Raises:
        RefusedError: a rule is not met, and `force` is off.
    """
    comparison = compare(model, held_out, data, published) if published else None
    reason = _below_floor(model.metrics, held_out, rules) or _worse(comparison, rules)
    if reason and not force:
        raise RefusedError(reason)
    return Verdict(not reason, reason, forced=bool(reason), comparison=comparison)


def compare(
    model: TrainedModel, held_out: Examples, data: Mapping[str, Any], published: Path
) -> Comparison | None:
    """Compare the candidate with a published version on the same rows.

    Args:
        model: the candidate.
        held_out: the rows that the candidate was not trained on.
        data: the fingerprint of the table they are from.
        published: the version's directory.

    Returns:
        None if the version does not take these columns, or tells other classes apart.
    """
    rows = _unseen_by(published, held_out, data)
    inputs = model.inputs(rows.frame)
    try:
        version = SavedVersion(published)
        theirs = version.run("serving_default", inputs)["probability"].astype(np.float64)
        names = version.run("describe", {"query": np.zeros(1, np.int32)})["class_names"][0]
    except (KeyError, ValueError, TypeError, OSError, tf.errors.OpError):
        return None
    if [name.decode() for name in names] != list(model.class_names):
        return None
    losses = [
        evaluate(rows.labels, probabilities, model.threshold, rows.weights)["log_loss"]
        for probabilities in (rows.probabilities, theirs)
    ]
    return Comparison(int(published.name), len(rows), losses[0], losses[1])


def _unseen_by(published: Path, held_out: Examples, data: Mapping[str, Any]) -> Examples:
    """Return the held-out rows that the published version was not trained on either.

    Its manifest tells which rows it held out; a row's hash decides that, not its place. All rows
    are returned if the manifest does not tell, or if too few are left to compare on.
    """
    facts = manifest.read(published) or {}
    settings = facts.get("settings", {})
    if set(facts.get("data", {}).get("columns", ())) != set(data["columns"]):
        return held_out
    split = Split(settings["held_out"], 0.0, settings["seed"])
    unseen = held_out.take(split.uniform(held_out.keys) < split.held_out)
    return unseen if len(set(unseen.labels.tolist())) == 2 else held_out


def _below_floor(metrics: Mapping[str, float], held_out: Examples, rules: Rules) -> str:
    share = float(np.average(held_out.labels, weights=held_out.weights))
    constant = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    if not metrics["log_loss"] < constant:
        return (
            f"log_loss {metrics['log_loss']:.4f} is no better than {constant:.4f}, "
            f"that of always predicting {share:.4f}"
        )
    for name, floor in rules.floors.items():
        value = metrics[name]
        if name in LESS_IS_BETTER and not value <= floor:
            return f"{name} {value:.4f} is above its floor {floor:g}"
        if name not in LESS_IS_BETTER and not value >= floor:
            return f"{name} {value:.4f} is below its floor {floor:g}"
    return ""


def _worse(comparison: Comparison | None, rules: Rules) -> str:
    if comparison is None:
        return ""
    ours, theirs = comparison.log_loss, comparison.published_log_loss
    if ours <= theirs + rules.tolerance:
        return ""
    return (
        f"log_loss {ours:.4f} is worse than the published version's {theirs:.4f} "
        f"on the same rows by more than {rules.tolerance:g}"
    )
