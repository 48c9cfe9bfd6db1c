"""Each recorded scenario gives the observations recorded from TensorFlow Serving."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.contract import comparing, recordings, scenarios
from tests.contract.recordings import Case
from tests.contract.scenarios import Observation

CASES = {case["id"]: case for case in recordings.read("lifecycle")}
DIFFERENCES = recordings.differences()
# Scenarios mostly wait.
AT_ONCE = 8
# Whether a poll sees these states depends on its timing.
TRANSIENT = ("START", "LOADING", "UNLOADING")


@pytest.fixture(scope="module")
def observations(
    request: pytest.FixtureRequest,
    recorded_models: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], list[Observation]]]:
    """The observations of a scenario; the selected ones are replayed concurrently."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    wanted = [item.callspec.id for item in items if item.module is request.module]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        played = {
            name: pool.submit(
                scenarios.play, CASES[name], recorded_models, tmp_path_factory.mktemp(name)
            )
            for name in wanted
        }
        yield lambda name: played[name].result()
        pool.shutdown(cancel_futures=True)


def comparable(observation: Observation, *, text_stable: bool = True) -> Observation:
    """Remove the parts that may differ between equal servers."""
    if not isinstance(observation, dict):
        return observation
    kept = {
        key: value
        for key, value in observation.items()
        if text_stable or key not in ("error_message", "texts")
    }
    if "error" in kept and not text_stable:
        kept["error"] = {"code": kept["error"]["code"]}
    if "sequences" in kept:
        kept["sequences"] = {
            version: [state for state in states if state[0] not in TRANSIENT]
            for version, states in kept["sequences"].items()
        }
    return kept


def faults(step: Case, observed: Observation) -> list[str]:
    stable = step.get("text_stable", True)
    want = comparable(step["observed"], text_stable=stable)
    return list(comparing.faults(want, comparable(observed, text_stable=stable)))


@pytest.mark.parametrize("name", CASES)
def test_recorded_scenario_gives_the_recorded_observations(
    observations: Callable[[str], list[Observation]], name: str
) -> None:
    case = CASES[name]
    listed: Any = DIFFERENCES.get(name, {}).get("steps", {})
    for index, (step, observed) in enumerate(zip(case["steps"], observations(name), strict=True)):
        place = f"step {index}, {step['do']}"
        if str(index) in listed:
            want = listed[str(index)]
            only_code = isinstance(want, dict) and "error" in want
            got = comparable(observed, text_stable=not only_code)
            assert not list(comparing.faults(want, got)), place
            assert faults(step, observed), (
                f"{place}: it is listed as a difference but does not differ"
            )
        elif "observed" in step and not step.get("informative"):
            assert not faults(step, observed), f"{place} of: {case['about']}"
