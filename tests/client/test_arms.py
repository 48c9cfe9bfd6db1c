"""Rollout files, the split of requests, and retries of a canary's failures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from client.arms.arm_call import ArmCall
from client.arms.arms import Arms
from client.arms.rollout_file import Rollout, RolloutFileError, RolloutFiles, parse
from client.arms.shadow import Copy, Shadow
from client.arms.split import Arm, Split
from client.codecs import Payload
from client.codecs.json.codec import JsonPredictions
from client.errors import ClientError, DeadlineExceededError, InvalidArgumentError, NotFoundError
from client.inference.attempts import BatchResult
from client.observability.arm_metrics import ArmMetrics
from client.serving.client import Prediction
from client.serving.deadlines import Deadline
from client.serving.flows import Target
from tests.client import schemas
from tests.support.rollouts import rollout_document, write_rollout

KEYS = [f"caller-{number}" for number in range(100_000)]


def rollout(**changes: Any) -> Rollout:
    return parse(json.dumps({**rollout_document("m"), **changes}).encode(), "m")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format: expected 1, got 2"),
        ({"model": "other"}, "model: expected \"m\", got 'other'"),
        ({"percent": 101}, "percent: expected a number from 0 to 100, got 101"),
        ({"percent": None}, "percent: expected a number from 0 to 100, got None"),
        ({"percent": float("nan")}, "not JSON"),
        ({"stable": "1"}, "stable: expected a whole number, got '1'"),
        ({"canary": 1.5}, "canary: expected a whole number, got 1.5"),
        ({"canary": 1}, "canary: expected a version other than the stable one, got 1"),
        ({"shadow": 1}, "shadow: expected a version other than the stable one, got 1"),
        ({"generation": True}, "generation: expected a whole number"),
    ],
)
def test_invalid_field_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RolloutFileError, match="^" + message.replace("[", r"\[")):
        rollout(**changes)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff"])
def test_content_that_is_not_an_object_is_rejected(content: bytes) -> None:
    with pytest.raises(RolloutFileError):
        parse(content, "m")


@pytest.mark.parametrize("percent", [0.01, 5, 80])
def test_each_arm_gets_its_percentage_of_callers(percent: float) -> None:
    split = Split(rollout(canary=2, percent=percent))
    names = [split.by_key(key).name for key in KEYS]
    assert abs(100 * names.count("canary") / len(KEYS) - percent) < 0.3
    assert abs(100 * names.count("control") / len(KEYS) - min(percent, 100 - percent)) < 0.3


def test_requests_without_a_key_are_split_at_random() -> None:
    split = Split(rollout(canary=2, percent=20))
    names = [split.by_key(None).name for _ in range(20_000)]
    assert abs(100 * names.count("canary") / len(names) - 20) < 2
    assert abs(100 * names.count("control") / len(names) - 20) < 2


def test_higher_percentage_takes_no_caller_off_the_canary() -> None:
    previous: set[str] = set()
    for percent in (5, 25, 100):
        split = Split(rollout(canary=2, percent=percent))
        current = {key for key in KEYS if split.by_key(key).name == "canary"}
        assert previous <= current
        previous = current
    assert previous == set(KEYS)


def test_salt_decides_which_callers_get_the_canary() -> None:
    splits = [Split(rollout(canary=2, percent=10, salt=salt)) for salt in ("a", "b")]
    keys = KEYS[:20_000]
    canary_keys = [{key for key in keys if split.by_key(key).name == "canary"} for split in splits]
    assert abs(len(canary_keys[0] & canary_keys[1]) - 200) < 60


def test_key_may_be_any_header_value() -> None:
    split = Split(rollout(canary=2, percent=50))
    for key in ("", " ", "ÿþ", "\udcff", "x" * 100_000):
        assert split.by_key(key) == split.by_key(key)


def test_request_may_name_its_arm() -> None:
    split = Split(rollout(canary=2, percent=0))
    assert split.by_key("anyone").version == 1
    canary = split.by_name("canary")
    assert (canary.name, canary.version, canary.counted) == ("canary", 2, False)
    assert split.by_name("stable").version == 1
    with pytest.raises(ClientError, match='expected "canary" or "stable", got "Canary"'):
        split.by_name("Canary")
    assert Split(rollout()).by_name("canary").name == "stable"


def test_invalid_or_missing_file_keeps_the_last_state(tmp_path: Path) -> None:
    states: list[Rollout] = []
    unreadable: dict[str, bool] = {}
    files = RolloutFiles(tmp_path / "rollouts", states.append, unreadable.__setitem__)
    files.read()
    assert (states, unreadable) == ([], {})
    path = write_rollout(tmp_path / "rollouts", "m", canary=2, percent=5)
    files.read()
    files.read()
    assert [state.percent for state in states] == [5.0]
    assert unreadable == {"m": False}
    for damage in (lambda: path.write_text("{"), path.unlink):
        damage()
        files.read()
        assert unreadable == {"m": True}
        write_rollout(tmp_path / "rollouts", "m", canary=2, percent=6)
        files.read()
        assert unreadable == {"m": False}
    assert [state.percent for state in states] == [5.0, 6.0, 6.0]


class Harness:
    """Arms with a rollout file and fake versions."""

    def __init__(self, folder: Path, **state: Any) -> None:
        self.folder = folder
        self.registry = CollectorRegistry()
        self.learned: set[Target] = set()
        # Errors by arm and index of the request.
        self.errors: dict[str | None, dict[int, ClientError]] = {}
        self.arm_calls: list[tuple[str | None, int, list[int]]] = []
        self.seconds = 0.0
        self.probability = 0.5
        write_rollout(folder, "m", **state)
        self.arms = Arms(folder, "X-User", ArmMetrics(self.registry), learn=self.learn)

    async def learn(self, target: Target) -> None:
        self.learned.add(target)

    async def send_batch(
        self, indexes: Sequence[int], arm_call: ArmCall
    ) -> Mapping[int, ClientError]:
        assert arm_call.target.version is not None
        self.arm_calls.append((arm_call.arm, arm_call.target.version, list(indexes)))
        if arm_call.arm == "canary" and self.seconds:
            await asyncio.sleep(min(self.seconds, arm_call.deadline.remaining()))
            return dict.fromkeys(indexes, DeadlineExceededError("late"))
        errors = {i: e for i, e in self.errors.get(arm_call.arm, {}).items() if i in indexes}
        outputs = {"probability": np.array([self.probability if arm_call.arm == "canary" else 0.5])}
        try:
            arm_call.check(outputs)
        except ClientError as error:
            return dict.fromkeys(indexes, error)
        return errors

    def send(self, count: int = 2, timeout: float = 2.0, arm: str = "canary") -> Any:
        selected = next(a for key in KEYS if (a := self.choose(key)).name == arm)
        deadline = Deadline(timeout)
        work = self.arms.answer(selected, range(count), deadline, deadline, self.send_batch)
        return asyncio.run(work)

    def choose(self, key: str) -> Arm:
        arm = self.arms.choose(Target("m"), {"x-user": key})
        assert arm is not None
        return arm

    def metric(self, text: str) -> float:
        lines = generate_latest(self.registry).decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(text))

    def calls(self, arm: str, outcome: str) -> float:
        version = 2 if arm == "canary" else 1
        return self.metric(
            f'client_arm_calls_total{{arm="{arm}",model="m",outcome="{outcome}",version="{version}"}}'
        )

    def requests(self, arm: str, outcome: str) -> float:
        return self.metric(f'client_arm_requests_total{{arm="{arm}",model="m",outcome="{outcome}"')


@pytest.fixture
def canary(tmp_path: Path) -> Harness:
    return Harness(tmp_path, canary=2, percent=10)


def test_explicit_versions_and_other_models_are_not_split(canary: Harness) -> None:
    for target in (Target("m", 1), Target("m", None, "stable"), Target("other")):
        assert canary.arms.choose(target, {"x-model-arm": "nonsense"}) is None
        assert canary.arms.stable(target) == target
    assert canary.arms.stable(Target("m")) == Target("m", 1)


def test_successful_canary_call_is_not_retried(canary: Harness) -> None:
    assert canary.send() == {}
    assert canary.arm_calls == [("canary", 2, [0, 1])]
    assert canary.calls("canary", "ok") == 1
    assert canary.requests("canary", "ok") == 2
    assert canary.send(arm="control") == {}
    assert canary.calls("control", "ok") == 1
    assert canary.metric("client_arm_call_seconds_count") == 2


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (NotFoundError("no such version"), "failed"),
        (ClientError("no signature that explains it", 501), "failed"),
        (InvalidArgumentError("bad rows"), "refused"),
    ],
)
def test_failed_requests_are_retried_on_stable(
    canary: Harness, error: ClientError, outcome: str
) -> None:
    canary.errors["canary"] = {1: error}
    assert canary.send(3) == {}
    assert canary.arm_calls == [("canary", 2, [0, 1, 2]), ("stable", 1, [1])]
    assert canary.calls("canary", outcome) == 1
    assert canary.requests("canary", "repeated") == 1
    assert canary.requests("canary", "ok") == 2


def test_error_from_both_arms_does_not_count_against_the_canary(canary: Harness) -> None:
    canary.errors = {"canary": {0: ClientError("canary")}, "stable": {0: ClientError("stable")}}
    for _ in range(30):
        assert canary.send()[0].message == "stable"
    assert canary.requests("canary", "refused") == 30
    assert canary.metric("client_rollout_cutout") == 0


def test_nan_probabilities_are_retried_on_stable(canary: Harness) -> None:
    canary.probability = float("nan")
    assert canary.send() == {}
    assert canary.arm_calls[-1] == ("stable", 1, [0, 1])
    assert canary.calls("canary", "invalid") == 1


def test_hanging_canary_leaves_stable_most_of_the_time(canary: Harness) -> None:
    canary.seconds = 60
    timeouts = []
    original = canary.send_batch

    async def send_batch(indexes: Sequence[int], arm_call: ArmCall) -> Mapping[int, ClientError]:
        timeouts.append(arm_call.deadline.remaining())
        return await original(indexes, arm_call)

    canary.send_batch = send_batch  # type: ignore[method-assign]
    assert canary.send(timeout=1.0) == {}
    assert timeouts[0] == pytest.approx(0.1, abs=0.02)
    assert timeouts[1] > 0.8
    assert canary.calls("canary", "failed") == 1


def test_short_deadline_is_no_evidence_against_the_canary(canary: Harness) -> None:
    canary.arms._slowest["m"] = 0.5
    canary.seconds = 60
    for _ in range(12):
        assert canary.send(timeout=0.05) == {}
    assert canary.calls("canary", "failed") == 0
    assert canary.metric("client_rollout_cutout") == 0


def test_ten_failures_cut_the_canary_out_until_the_rollout_changes(canary: Harness) -> None:
    canary.errors["canary"] = {0: NotFoundError("no such version")}
    for number in range(10):
        assert canary.metric("client_rollout_cutout") == 0, number
        assert canary.send() == {}
    assert canary.metric('client_rollout_cutout{model="m",version="2"}') == 1
    split = Split(rollout(canary=2, percent=10))
    key = next(key for key in KEYS if split.by_key(key).name == "canary")
    arm = canary.choose(key)
    assert (arm.name, arm.version) == ("stable", 1)
    before = canary.requests("canary", "repeated")
    deadline = Deadline(1)
    asyncio.run(canary.arms.answer(arm, range(5), deadline, deadline, canary.send_batch))
    assert canary.arm_calls[-1] == ("stable", 1, [0, 1, 2, 3, 4])
    # They still count as the canary's, so that canary and control stay equal in size.
    assert canary.requests("canary", "repeated") == before + 5
    write_rollout(canary.folder, "m", canary=2, percent=10, generation=2)
    assert canary.arms._files is not None
    canary.arms._files.read()
    assert canary.choose(key).name == "canary"
    assert canary.metric("client_rollout_cutout") == 0


def test_occasional_failures_do_not_cut_out_the_canary(canary: Harness) -> None:
    for number in range(200):
        canary.errors["canary"] = {0: NotFoundError("")} if number % 3 == 0 else {}
        canary.send()
    assert canary.metric("client_rollout_cutout") == 0


def test_requests_that_name_their_arm_are_no_evidence(canary: Harness) -> None:
    arm = canary.arms.choose(Target("m"), {"x-model-arm": "canary"})
    assert arm is not None
    deadline = Deadline(1)
    canary.errors["canary"] = {0: NotFoundError("")}
    for _ in range(30):
        asyncio.run(canary.arms.answer(arm, range(1), deadline, deadline, canary.send_batch))
    assert canary.metric("client_arm_calls_total") == 0
    assert canary.metric("client_arm_requests_total") == 0
    assert canary.metric("client_rollout_cutout") == 0


def test_every_version_of_a_rollout_is_learned(canary: Harness) -> None:
    write_rollout(canary.folder, "m", canary=2, percent=10, shadow=3, generation=2)

    async def watch() -> None:
        task = asyncio.create_task(canary.arms.watch())
        while len(canary.learned) < 3:
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(watch(), 20))
    assert canary.learned == {Target("m", 1), Target("m", 2), Target("m", 3)}


def test_shadow_traffic_is_copied_from_the_stable_version_only(tmp_path: Path) -> None:
    arms = Harness(tmp_path, canary=2, percent=10, shadow=3).arms
    for key in KEYS[:100]:
        arm = arms.choose(Target("m"), {"x-user": key})
        assert arm is not None
        assert arms.shadow(arm) == (None if arm.name == "canary" else Target("m", 3))


def test_requests_that_name_their_arm_are_not_copied(tmp_path: Path) -> None:
    arms = Harness(tmp_path, shadow=3).arms
    assert arms.shadow(arms.choose(Target("m"), {})) == Target("m", 3)
    assert arms.shadow(arms.choose(Target("m"), {"x-model-arm": "stable"})) is None


def test_schemas_with_different_date_formats_do_not_read_alike() -> None:
    day = schemas.column("day", kind="date")
    first, different, same = (
        schemas.with_description(schemas.numeric("day"), replace(day, form=form))
        for form in ("day/month/year", "month/day/year", "day/month/year")
    )
    assert first.reads_like(same)
    assert not first.reads_like(different)


@pytest.mark.parametrize("long", [False, True])
def test_shadow_decodes_the_valid_requests_of_a_batch(
    long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.arms.shadow.LONG_BODY_BYTES", 0 if long else 1000)
    schema, codec = schemas.numeric("a", "b", "c"), JsonPredictions()
    valid, with_threshold, invalid = (
        Payload(body)
        for body in (
            b'{"instances":[[1,2,3]]}',
            b'{"instances":[[4,5,6]],"threshold":0.3}',
            b'{"instances":[[true,2,3]]}',
        )
    )
    (batch,) = codec.decode([valid, with_threshold, invalid], schema).batches
    result = BatchResult(batch, Prediction({}, 1), schema, {})
    predictor: Any = None
    shadow = Shadow(predictor, ArmMetrics(CollectorRegistry()), 1.0)
    copy = Copy(Target("m", 2), codec, [valid, with_threshold], result)
    call = asyncio.run(shadow._decode(copy, schema))
    assert call.inputs["features"].tolist() == [[1, 2, 3], [4, 5, 6]]
