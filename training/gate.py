"""The gate: what a candidate must show before it is published.

It must predict better than a constant and clear the floors that were set; it must not be worse
than the version now published, on the same held-out rows; and it must load in a fresh process,
answer its warm-up requests, and give there what training computed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from training import warmup
from training.dataset import Floats, Table
from training.evaluation import evaluate
from training.export import TrainedModel

AGREEMENT = 1e-6
# Of these, less is better.
LOSSES = ("log_loss",)


class RefusedError(Exception):
    """The candidate is not published; the message is the reason, in one line."""


@dataclass(frozen=True)
class Rules:
    """What is asked of a candidate.

    Attributes:
        floors: the least value of a metric, or the most if less is better, by its name.
        tolerance: how much larger its log-loss may be than the published version's.
    """

    floors: Mapping[str, float]
    tolerance: float = 0.01


@dataclass(frozen=True)
class Verdict:
    """What the gate found, as it is written down with the version.

    Attributes:
        passed: whether every rule was met.
        reason: why not, in one line; empty if it passed.
        forced: whether it was published all the same.
        compared_with: the published version it was compared with, if one could be.
        published_metrics: that version's metrics on the same rows.
    """

    passed: bool
    reason: str
    forced: bool
    compared_with: int | None
    published_metrics: Mapping[str, float] | None

    def as_json(self) -> dict[str, Any]:
        """Return it for the manifest."""
        return asdict(self)


def judge(
    model: TrainedModel, held_out: Table, published: Path | None, rules: Rules, force: bool
) -> Verdict:
    """Compare the candidate's metrics with the rules and with the published version.

    Args:
        model: the candidate, with its metrics on the held-out rows.
        held_out: those rows.
        published: the directory of the version now published, if there is one.
        rules: what is asked.
        force: whether to let it pass whatever is found.

    Raises:
        RefusedError: a rule is not met, and `force` is off.
    """
    theirs = evaluate_version(published, held_out, model.threshold) if published else None
    reason = _below_floor(model.metrics, held_out, rules) or _worse(model.metrics, theirs, rules)
    if reason and not force:
        raise RefusedError(reason)
    return Verdict(
        passed=not reason,
        reason=reason,
        forced=bool(reason),
        compared_with=int(published.name) if published and theirs else None,
        published_metrics=theirs,
    )


def evaluate_version(directory: Path, rows: Table, threshold: float) -> dict[str, float] | None:
    """Return a version's metrics on these rows; None if it does not take their columns."""
    try:
        signature = tf.saved_model.load(str(directory)).signatures["serving_default"]
        inputs = {
            name: tf.constant(rows.features[:, i], tf.float32)
            for i, name in enumerate(rows.columns)
        }
        probability = np.asarray(signature(**inputs)["probability"], np.float64)
        return evaluate(rows.labels, probability, threshold)
    except (KeyError, TypeError, ValueError, OSError, tf.errors.OpError):
        return None


def check_export(directory: Path, rows: Floats, expected: Floats) -> None:
    """Load an exported version in a process of its own and compare its answers with training's.

    Args:
        directory: the export.
        rows: `[rows, columns]`.
        expected: `[rows]`, the probabilities that training computed for them in float64.

    Raises:
        RefusedError: it does not load, does not answer, or answers something else.
    """
    with tempfile.NamedTemporaryFile(suffix=".npz") as golden:
        np.savez(golden, rows=rows, expected=expected)
        golden.flush()
        command = [sys.executable, "-m", "training.gate", str(directory), golden.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it ended without a word"]
        raise RefusedError(f"the exported version fails its check: {lines[-1]}")


def _check_in_this_process(directory: Path, golden: Path) -> None:
    stored = np.load(golden)
    signatures = tf.saved_model.load(str(directory)).signatures
    requests = list(warmup.read(directory))
    if not requests:
        raise RefusedError(f"{warmup.WARMUP_FILE} has no requests")
    for request in requests:
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        signatures[request.model_spec.signature_name](
            **{name: tf.constant(values) for name, values in inputs.items()}
        )
    rows = tf.constant(stored["rows"], tf.float32)
    difference = np.abs(signatures["dense"](features=rows)["probability"] - stored["expected"])
    if not difference.max() <= AGREEMENT:
        row = int(difference.argmax())
        raise RefusedError(
            f"row {row} differs from training by {difference[row]:.2g}, "
            f"expected at most {AGREEMENT:g}"
        )


def _below_floor(metrics: Mapping[str, float], held_out: Table, rules: Rules) -> str:
    share = float(held_out.labels.mean())
    constant = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    if not metrics["log_loss"] < constant:
        return (
            f"log_loss {metrics['log_loss']:.4f} is no better than {constant:.4f}, "
            f"that of always predicting {share:.4f}"
        )
    for name, floor in rules.floors.items():
        value = metrics[name]
        if name in LOSSES and not value <= floor:
            return f"{name} {value:.4f} is above its floor {floor:g}"
        if name not in LOSSES and not value >= floor:
            return f"{name} {value:.4f} is below its floor {floor:g}"
    return ""


def _worse(metrics: Mapping[str, float], theirs: Mapping[str, float] | None, rules: Rules) -> str:
    if theirs is None or metrics["log_loss"] <= theirs["log_loss"] + rules.tolerance:
        return ""
    return (
        f"log_loss {metrics['log_loss']:.4f} is worse than the published version's "
        f"{theirs['log_loss']:.4f} on the same rows by more than {rules.tolerance:g}"
    )


if __name__ == "__main__":
    try:
        _check_in_this_process(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:
        sys.exit(str(error) or type(error).__name__)
