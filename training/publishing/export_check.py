"""The check of an export: it must load in a fresh process and predict as training does."""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from training.data.held_out import Examples
from training.errors import RefusedError
from training.export import warmup
from training.export.serving_module import TrainedModel
from training.export.warmup import Call
from training.publishing.fresh_process import FreshProcess
from training.publishing.saved_version import SavedVersion

EXPECTED_OUTPUTS = ("probability", "contribution", "tolerance")


def check_export(
    directory: Path, rows: Examples, model: TrainedModel, process: FreshProcess | None = None
) -> None:
    """Load an exported version in a fresh process and compare its predictions with training's.

    The version receives raw values. The expected predictions were computed from the stored rows by
    the training code, not by the serving graph. Without a process, one is started.

    Raises:
        RefusedError: the version does not load, does not answer, or its predictions differ.
    """
    expected = rows.expected
    inputs = model.inputs(rows.frame[: len(expected.probabilities)])
    arrays = (expected.probabilities, expected.contributions, expected.tolerances)
    outputs = dict(zip(EXPECTED_OUTPUTS, arrays, strict=True))
    with (
        tempfile.TemporaryDirectory() as folder,
        nullcontext(process) if process is not None else FreshProcess() as checker,
    ):
        golden = Path(folder, "golden")
        warmup.write_calls(golden, [Call("serving_default", inputs, outputs)])
        problem = checker.check(directory, golden)
    if problem:
        raise RefusedError(f"the exported version fails its check: {problem}")


def _check_in_this_process(directory: Path, golden: Path) -> None:
    version = SavedVersion(directory)
    calls = list(warmup.read_calls(directory / warmup.WARMUP_FILE))
    if not calls:
        raise RefusedError(f"{warmup.WARMUP_FILE} has no requests")
    for call in calls:
        version.run(call.signature_name, call.inputs)
    for call in warmup.read_calls(golden):
        _compare(version, call)


def _compare(version: SavedVersion, call: Call) -> None:
    probabilities, contributions, tolerances = (call.outputs[name] for name in EXPECTED_OUTPUTS)
    outputs = version.run(call.signature_name, call.inputs)
    difference = np.abs(outputs["probability"] - probabilities)
    excess = difference - tolerances
    if excess.max() <= 0:
        return
    row = int(np.argmax(np.nan_to_num(excess, nan=np.inf)))
    inputs = {name: values[row : row + 1] for name, values in call.inputs.items()}
    served = version.run("explain", inputs)["contribution"][0]
    columns = version.run("describe", {"query": np.zeros(1, np.int32)})["columns"][0]
    column_differences = np.abs(served - contributions[row])
    name = columns[int(column_differences.argmax())].decode()
    where = f", column {name!r}" if column_differences.max() > tolerances[row] else ""
    raise RefusedError(
        f"row {row}{where} differs from training by {difference[row]:.2g}, "
        f"expected at most {tolerances[row]:.2g}"
    )


if __name__ == "__main__":
    request = sys.stdin.read()
    try:
        if request:  # empty if the fit has failed
            _check_in_this_process(*map(Path, json.loads(request)))
    except Exception as error:
        sys.exit(str(error) or type(error).__name__)
