"""The rollouts of a gateway: the choice of the arm, and the fallback if it fails.

Callers do not see a broken canary. Predictions have no side effects, so a canary's failed requests
are retried on the stable version within the deadline, and counted against the canary.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from client.arms.arm_call import ArmCall, InvalidAnswerError
from client.arms.cut_out import MAX_FAILURES, RECENT_CALLS, CutOut
from client.arms.rollout_file import READ_SECONDS, Rollout, RolloutFiles
from client.arms.split import ARM_HEADER, CANARY, STABLE, Arm, Split
from client.errors import ClientError, DeadlineExceededError
from client.observability.arm_metrics import ArmMetrics
from client.serving import deadlines
from client.serving.deadlines import Deadline
from client.serving.flows import Target

log = logging.getLogger(__name__)

# A canary's timeout is TIMEOUT_FACTOR times stable's slowest recent call or TIMEOUT_FRACTION of the
# remaining time, whichever is longer, but at most half of it, so that stable can still answer.
TIMEOUT_FACTOR = 4.0
TIMEOUT_FRACTION = 0.1
SLOWEST_DECAY = 0.99
BAD_REQUEST = 400
_ARM_HEADER = ARM_HEADER.lower()

T = TypeVar("T")


# Answers the requests at the given indexes, and returns the errors of those that failed.
SendBatch = Callable[[Sequence[int], ArmCall], Awaitable[Mapping[int, ClientError]]]


class Arms:
    """Chooses the arm of each request, and retries the failures of canaries."""

    def __init__(
        self,
        directory: Path | None,
        sticky_header: str | None,
        metrics: ArmMetrics,
        *,
        learn: Callable[[Target], Awaitable[None]],
        record_arm: Callable[[str, str], None] = lambda model, arm: None,
    ) -> None:
        """Read the rollout files.

        Args:
            directory: directory of the rollout files; None without rollouts.
            sticky_header: requests with the same value of this header get the same arm.
            metrics: counts calls and requests by arm.
            learn: loads a version's schema from every server, for later requests.
            record_arm: called with the model and the arm that answers, for traces.
        """
        self._sticky_header = sticky_header.lower() if sticky_header else None
        self._metrics = metrics
        self._learn = learn
        self._record_arm = record_arm
        self._splits: dict[str, Split] = {}
        self._cut_outs: dict[str, CutOut] = {}
        self._slowest: dict[str, float] = {}
        self._files: RolloutFiles | None = None
        if directory is not None:
            self._files = RolloutFiles(directory, self._apply, metrics.set_unreadable)
            self._files.read()

    async def watch(self) -> None:
        """Follow the rollout files until cancelled."""
        if self._files is not None:
            await asyncio.gather(self._files.watch(), self._learn_versions())

    def rollout(self, model: str) -> Rollout | None:
        """Return the state of a model's rollout, None if it has none."""
        split = self._splits.get(model)
        return None if split is None else split.rollout

    def choose(self, target: Target, headers: Mapping[str, str]) -> Arm | None:
        """Return the arm of a request, None if its version does not depend on a rollout.

        Args:
            target: the requested model and version.
            headers: value by name in lower case.

        Raises:
            ClientError: the request names an arm other than `canary` and `stable`.
        """
        split = self._splits.get(target.model)
        if split is None or target.version is not None or target.label is not None:
            return None
        name = headers.get(_ARM_HEADER)
        if name is not None:
            return split.by_name(name)
        return split.by_key(headers.get(self._sticky_header) if self._sticky_header else None)

    def stable(self, target: Target) -> Target:
        """Return the stable version of a model if no version is requested."""
        split = self._splits.get(target.model)
        if split is None or target.version is not None or target.label is not None:
            return target
        return Target(target.model, split.rollout.stable)

    def shadow(self, arm: Arm | None) -> Target | None:
        """Return the version that gets copies of an arm's calls, None if there is none.

        Requests that name their arm are not copied, since they are no evidence.
        """
        if arm is None or not arm.counted:
            return None
        split = self._splits.get(arm.target.model)
        if split is None or split.rollout.shadow is None or arm.version != split.rollout.stable:
            return None
        return Target(arm.target.model, split.rollout.shadow)

    async def answer(
        self,
        arm: Arm,
        indexes: Sequence[int],
        earliest: Deadline,
        deadline: Deadline,
        send_batch: SendBatch,
    ) -> Mapping[int, ClientError]:
        """Answer requests with an arm, or with stable if a canary fails.

        Args:
            arm: the arm of all these requests.
            indexes: their indexes.
            earliest: their earliest deadline.
            deadline: their latest deadline.
            send_batch: answers some of them with one version.

        Returns:
            The errors of the requests that were not answered.
        """
        if arm.stable is None:
            return await self._answer_without_fallback(arm, indexes, deadline, send_batch)
        usual_timeout = TIMEOUT_FACTOR * self._slowest.get(arm.target.model, 0.0)
        remaining = earliest.remaining()
        timeout = min(remaining / 2, max(usual_timeout, TIMEOUT_FRACTION * remaining))
        arm_call = self._begin_call(arm.target, CANARY, Deadline(timeout))
        started = deadlines.now()
        errors = await send_batch(indexes, arm_call)
        seconds = deadlines.now() - started
        unanswered: Mapping[int, ClientError] = {}
        is_stable_healthy = True
        if errors:
            retry = self._begin_call(arm.stable, STABLE, deadline)
            unanswered = await send_batch(list(errors), retry)
            is_stable_healthy = len(unanswered) < len(errors) and not retry.invalid
        if not arm.counted:
            return unanswered
        self._count_requests(arm, CANARY, "ok", len(indexes) - len(errors))
        self._count_requests(arm, CANARY, "repeated", len(errors) - len(unanswered))
        self._count_errors(arm, unanswered.values())
        # A short deadline is no evidence that the canary is slow.
        is_inconclusive = timeout < usual_timeout and _timed_out(errors.values())
        if not is_inconclusive:
            self._observe_call(arm, _outcome(errors.values(), arm_call.invalid), seconds)
            if is_stable_healthy:
                self._record_call(arm, failed=bool(errors))
        return unanswered

    async def request(
        self,
        target: Target,
        headers: Mapping[str, str],
        deadline: Deadline,
        send: Callable[[ArmCall], Awaitable[T]],
    ) -> T:
        """Answer a request that is not batched, with its arm if it has one.

        Args:
            target: the requested model and version.
            headers: value by name in lower case.
            deadline: the request's deadline.
            send: sends the request to one version.

        Raises:
            ClientError: the call failed; a canary's failed on stable too.
        """
        arm = self.choose(target, headers)
        if arm is None:
            return await send(ArmCall(target, None, deadline))
        return await self.call(arm, deadline, send)

    async def call(
        self, arm: Arm, deadline: Deadline, send: Callable[[ArmCall], Awaitable[T]]
    ) -> T:
        """Make an arm's call for one request; the arguments are those of `request`."""
        answers: list[T] = []

        async def send_batch(
            indexes: Sequence[int], arm_call: ArmCall
        ) -> Mapping[int, ClientError]:
            try:
                answers.append(await send(arm_call))
            except ClientError as error:
                return {0: error}
            return {}

        errors = await self.answer(arm, (0,), deadline, deadline, send_batch)
        if errors:
            raise errors[0]
        return answers[0]

    async def _answer_without_fallback(
        self, arm: Arm, indexes: Sequence[int], deadline: Deadline, send_batch: SendBatch
    ) -> Mapping[int, ClientError]:
        arm_call = self._begin_call(arm.target, arm.name, deadline)
        started = deadlines.now()
        errors = await send_batch(indexes, arm_call)
        seconds = deadlines.now() - started
        model = arm.target.model
        if not errors:
            self._slowest[model] = max(seconds, SLOWEST_DECAY * self._slowest.get(model, 0.0))
        if arm.stands_in_for is not None:
            canary = arm._replace(target=Target(model, arm.stands_in_for))
            self._count_requests(canary, CANARY, "repeated", len(indexes))
        elif arm.counted:
            self._observe_call(arm, _outcome(errors.values(), arm_call.invalid), seconds)
            self._count_requests(arm, arm.name, "ok", len(indexes) - len(errors))
            self._count_errors(arm, errors.values())
        return errors

    def _begin_call(self, target: Target, name: str, deadline: Deadline) -> ArmCall:
        self._record_arm(target.model, name)
        return ArmCall(target, name, deadline)

    def _observe_call(self, arm: Arm, outcome: str, seconds: float) -> None:
        self._metrics.observe_call(arm.target.model, arm.version, arm.name, outcome, seconds)

    def _count_requests(self, arm: Arm, name: str, outcome: str, number: int) -> None:
        if number:
            self._metrics.count_requests(arm.target.model, arm.version, name, outcome, number)

    def _count_errors(self, arm: Arm, errors: Iterable[ClientError]) -> None:
        for error in errors:
            outcome = "refused" if error.status == BAD_REQUEST else "failed"
            self._count_requests(arm, arm.name, outcome, 1)

    def _record_call(self, arm: Arm, *, failed: bool) -> None:
        """Record a canary's call, and cut it out if too many have failed."""
        model = arm.target.model
        split = self._splits[model]
        if split.rollout.generation != arm.generation or split.cut_out:
            return
        if self._cut_outs[model].record(failed):
            self._splits[model] = Split(split.rollout, cut_out=True)
            self._metrics.set_cut_out(model, arm.version, True)
            log.error(
                "model %s: version %d is cut out here: %d of its last %d calls failed",
                *(model, arm.version, MAX_FAILURES, RECENT_CALLS),
            )

    def _apply(self, rollout: Rollout) -> None:
        """Apply a rollout's new state."""
        model = rollout.model
        previous = self._splits.get(model)
        if previous is not None and previous.rollout.generation == rollout.generation:
            self._splits[model] = Split(rollout, previous.cut_out)
            return
        self._splits[model] = Split(rollout)
        self._cut_outs[model] = CutOut()
        self._metrics.set_rollout(model, rollout.generation, rollout.percent)
        canaries = (
            [rollout.canary] if previous is None else [previous.rollout.canary, rollout.canary]
        )
        for version in canaries:
            if version is not None:
                self._metrics.set_cut_out(model, version, False)

    async def _learn_versions(self) -> None:
        """Load the schemas of each rollout's versions before they get requests."""
        while True:
            rollouts = [split.rollout for split in self._splits.values()]
            await asyncio.gather(
                *(
                    self._learn(Target(rollout.model, version))
                    for rollout in rollouts
                    for version in (rollout.stable, rollout.canary, rollout.shadow)
                    if version is not None
                )
            )
            await asyncio.sleep(READ_SECONDS)


def _outcome(errors: Iterable[ClientError], invalid: bool) -> str:
    """Return the outcome of a call: the worst of its requests."""
    statuses = {e.status for e in errors if not isinstance(e, InvalidAnswerError)}
    if statuses - {BAD_REQUEST}:
        return "failed"
    if invalid:
        return "invalid"
    return "refused" if statuses else "ok"


def _timed_out(errors: Iterable[ClientError]) -> bool:
    return any(isinstance(error, DeadlineExceededError) for error in errors)
