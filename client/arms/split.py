"""The split of a model's requests between the arms of its rollout."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import NamedTuple

from client.arms.rollout_file import Rollout
from client.errors import ClientError
from client.serving.flows import Target

# Each request falls into one of this many buckets, and the canary gets the first ones. A larger
# percentage only adds buckets, so no key loses the canary.
BUCKETS = 10_000
STABLE, CONTROL, CANARY = "stable", "control", "canary"
ARM_HEADER = "X-Model-Arm"


class Arm(NamedTuple):
    """A version that answers a share of a model's requests.

    Attributes:
        name: stable, control or canary. Control is the stable version with its own queue, and as
            many requests as the canary (at most the rest), so that both are measured alike.
        target: the model and the version.
        generation: generation of the rollout that created the arm.
        stable: target on which the canary's failures are retried; None for other arms.
        stands_in_for: the canary version in whose place the arm answers, if any.
        counted: whether its requests are evidence; those that name their arm are not.
    """

    name: str
    target: Target
    generation: int
    stable: Target | None = None
    stands_in_for: int | None = None
    counted: bool = True

    @property
    def version(self) -> int:
        """The version's number."""
        assert self.target.version is not None
        return self.target.version

    def fallback(self) -> Arm:
        """Return the stable arm that answers in the canary's place."""
        assert self.stable is not None
        stands_in_for = self.version if self.counted else None
        return Arm(STABLE, self.stable, self.generation, None, stands_in_for, self.counted)


@dataclass(frozen=True)
class Split:
    """The arms of one state of a rollout.

    Attributes:
        rollout: the state.
        cut_out: whether the canary failed too often here and gets no requests.
    """

    rollout: Rollout
    cut_out: bool = False

    def by_key(self, key: str | None) -> Arm:
        """Return the arm of a request.

        Args:
            key: requests with the same key get the same arm; None for a random one.
        """
        if not self._canary_end:
            return self._stable
        bucket = int(random.random() * BUCKETS) if key is None else self.bucket(key)
        if bucket < self._canary_end:
            return self._canary
        return self._control if bucket < self._control_end else self._stable

    def by_name(self, name: str) -> Arm:
        """Return the arm that a request names; stable if the canary is missing or cut out.

        Raises:
            ClientError: the name is neither `canary` nor `stable`.
        """
        if name not in (STABLE, CANARY):
            raise ClientError(f'{ARM_HEADER}: expected "canary" or "stable", got "{name[:40]}"')
        arm = self._canary if name == CANARY and self._has_canary else self._stable
        return arm._replace(counted=False, stands_in_for=None)

    def bucket(self, key: str) -> int:
        """Return the bucket of a key, the same in every process."""
        salted = f"{self.rollout.salt}\0{key}".encode(errors="surrogateescape")
        return int.from_bytes(blake2b(salted, digest_size=8).digest(), "big") % BUCKETS

    @cached_property
    def _has_canary(self) -> bool:
        return self.rollout.canary is not None and not self.cut_out

    @cached_property
    def _canary_end(self) -> int:
        if self.rollout.canary is None:
            return 0
        return round(self.rollout.percent / 100 * BUCKETS)

    @cached_property
    def _control_end(self) -> int:
        return min(2 * self._canary_end, BUCKETS)

    @cached_property
    def _stable(self) -> Arm:
        return self._arm(STABLE, self.rollout.stable)

    @cached_property
    def _control(self) -> Arm:
        return self._arm(CONTROL, self.rollout.stable)

    @cached_property
    def _canary(self) -> Arm:
        assert self.rollout.canary is not None
        canary = self._arm(CANARY, self.rollout.canary)._replace(stable=self._stable.target)
        return canary.fallback() if self.cut_out else canary

    def _arm(self, name: str, version: int) -> Arm:
        return Arm(name, Target(self.rollout.model, version), self.rollout.generation)
