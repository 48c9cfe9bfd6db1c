"""The exported version in a fresh process: it must load and answer as training does."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from training.data.held_out import Examples
from training.errors import RefusedError
from training.export import warmup
from training.export.serving_module import TrainedModel, predict
from training.export.warmup import Call
from training.publishing.saved_version import SavedVersion

AGREEMENT = 1e-6
MAX_CHECKED = 10_000


def check_export(directory: Path, rows: Examples, model: TrainedModel) -> None:
    """Load an exported version in a process of its own and compare its answers with training's.

    Args:
        directory: the export.
        rows: what to ask; at most the first few thousand are.
        model: what training has; its probabilities are computed in float64.

    Raises:
        RefusedError: it does not load, does not answer, or answers something else.
    """
    inputs = model.inputs(rows.frame[:MAX_CHECKED])
    expected = predict(model, inputs, tf.float64)
    with tempfile.TemporaryDirectory() as folder:
        golden = Path(folder, "golden")
        warmup.write_calls(golden, [Call("serving_default", inputs, {"probability": expected})])
        command = [
            sys.executable,
            "-m",
            "training.publishing.export_check",
            str(directory),
            str(golden),
        ]
        # TF_CONFIG would make TensorFlow wait for other workers.
        environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it ended without a word"]
        raise RefusedError(f"the exported version fails its check: {lines[-1]}")


def _check_in_this_process(directory: Path, golden: Path) -> None:
    version = SavedVersion(directory)
    calls = list(warmup.read_calls(directory / warmup.WARMUP_FILE))
    if not calls:
        raise RefusedError(f"{warmup.WARMUP_FILE} has no requests")
    for call in calls:
        version.run(call.signature_name, call.inputs)
    for call in warmup.read_calls(golden):
        outputs = version.run(call.signature_name, call.inputs)
        difference = np.abs(outputs["probability"] - call.outputs["probability"])
        if not difference.max() <= AGREEMENT:
            row = int(difference.argmax())
            raise RefusedError(
                f"row {row} differs from training by {difference[row]:.2g}, "
                f"expected at most {AGREEMENT:g}"
            )


if __name__ == "__main__":
    try:
        _check_in_this_process(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:
        sys.exit(str(error) or type(error).__name__)
