"""What a loaded version computes with: by itself, or in batches (see `batching`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from serving.servables.servable import Servable
from serving.servables.tensors import Array

Arrays = Sequence[Array]


class Session(Protocol):
    """What a version computes with."""

    @property
    def servable(self) -> Servable:
        """The loaded version itself."""

    def run(self, feeds: Sequence[str], fetches: Sequence[str], arrays: Arrays) -> list[Array]:
        """Compute tensors from tensors, as `Servable.run`."""

    def close(self) -> None:
        """Free what the version holds; no call may be under way."""


@dataclass(frozen=True)
class DirectSession:
    """Computes each request by itself."""

    servable: Servable

    def run(self, feeds: Sequence[str], fetches: Sequence[str], arrays: Arrays) -> list[Array]:
        """See `Session`."""
        return self.servable.run(feeds, fetches, arrays)

    def close(self) -> None:
        """See `Session`."""
        self.servable.close()
