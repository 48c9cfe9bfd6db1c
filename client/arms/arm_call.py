"""Calls to one version for some requests, and the check of its outputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from client.arms.split import CANARY
from client.errors import ClientError
from client.serving.deadlines import Deadline
from client.serving.flows import Target
from client.serving.tensors import Array

PROBABILITY, LABEL = "probability", "label"


class InvalidAnswerError(ClientError):
    """A version answered with values that are not numbers."""

    def __init__(self, version: int) -> None:
        super().__init__(f"version {version} answered with values that are not numbers", 500)


def is_valid(outputs: Mapping[str, Array]) -> bool:
    """Return whether all probabilities are finite or, without any, whether no number is NaN."""
    probability = outputs.get(PROBABILITY)
    if probability is not None and probability.dtype.kind == "f":
        return bool(np.isfinite(probability).all())
    return not any(array.dtype.kind == "f" and np.isnan(array).any() for array in outputs.values())


class ArmCall:
    """A call to one version for some requests.

    Attributes:
        target: the model and the version.
        arm: name of the arm, for the responses; None without a rollout.
        deadline: time by which the version must answer.
        invalid: whether an answer contained values that are not numbers.
    """

    def __init__(self, target: Target, arm: str | None, deadline: Deadline) -> None:
        self.target = target
        self.arm = arm
        self.deadline = deadline
        self.invalid = False

    @property
    def on_trial(self) -> bool:
        """Whether another version answers if this one fails."""
        return self.arm == CANARY

    def check(self, outputs: Mapping[str, Array]) -> None:
        """Check an answer before it is delivered.

        Raises:
            InvalidAnswerError: a canary answered with values that are not numbers.
        """
        if self.arm is None or is_valid(outputs):
            return
        self.invalid = True
        if self.on_trial:
            assert self.target.version is not None
            raise InvalidAnswerError(self.target.version)
