"""Each recorded scenario gives the observations recorded with TensorFlow Serving."""

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
# Scenarios mostly wait, so there may be more of them than cores.
CONCURRENT_SCENARIOS = 8
# Whether a poll sees these states depends on its timing.
TRANSIENT = ("START", "LOADING", "UNLOADING")


@pytest.fixture(scope="module")
def observations(
    request: pytest.FixtureRequest,
    recorded_models: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], list[Observation]]]:
    """The observations of each scenario; all selected scenarios are replayed concurrently."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    selected = [item.callspec.id for item in items if item.module is request.module]
    with ThreadPoolExecutor(CONCURRENT_SCENARIOS) as pool:
        futures = {
            name: pool.submit(
                scenarios.play, CASES[name], recorded_models, tmp_path_factory.mktemp(name)
            )
            for name in selected
        }
        yield lambda name: futures[name].result()
        pool.shutdown(cancel_futures=True)


def remove_unstable(observation: Observation, *, text_stable: bool = True) -> Observation:
    """Remove the parts that may differ between runs of the same server."""
    if not isinstance(observation, dict):
        return observation
    stable = {
        key: value
        for key, value in observation.items()
        if text_stable or key not in ("error_message", "texts")
    }
    if "error" in stable and not text_stable:
        stable["error"] = {"code": stable["error"]["code"]}
    if "sequences" in stable:
        stable["sequences"] = {
            version: [state for state in states if state[0] not in TRANSIENT]
            for version, states in stable["sequences"].items()
        }
    return stable


def compare(step: Case, observation: Observation) -> list[str]:
    text_stable = step.get("text_stable", True)
    expected = remove_unstable(step["observed"], text_stable=text_stable)
    actual = remove_unstable(observation, text_stable=text_stable)
    return list(comparing.differences(expected, actual))


@pytest.mark.parametrize("name", CASES)
def test_recorded_scenario_gives_the_recorded_observations(
    observations: Callable[[str], list[Observation]], name: str
) -> None:
    case = CASES[name]
    listed: Any = DIFFERENCES.get(name, {}).get("steps", {})
    for index, (step, observation) in enumerate(
        zip(case["steps"], observations(name), strict=True)
    ):
        place = f"step {index}, {step['do']}"
        if str(index) in listed:
            expected = listed[str(index)]
            only_code = isinstance(expected, dict) and "error" in expected
            actual = remove_unstable(observation, text_stable=not only_code)
            assert not list(comparing.differences(expected, actual)), place
            assert compare(step, observation), (
                f"{place}: it is listed as a difference but does not differ"
            )
        elif "observed" in step and not step.get("informative"):
            assert not compare(step, observation), f"{place} of: {case['about']}"
