"""What each of several requests that have shared a call gets of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from client.serving.tensors import Array

T = TypeVar("T")


class Whole:
    """The outputs of a call, with a row for each row of all requests that share it."""

    __slots__ = ("made", "outputs")

    def __init__(self, outputs: Mapping[str, Array]) -> None:
        self.outputs = outputs
        self.made: dict[Callable[..., Any], Sequence[Any]] = {}


class Share(Mapping[str, Array]):
    """The rows of one request: outputs by name, as views of the whole."""

    __slots__ = ("_start", "_stop", "_whole")

    def __init__(self, whole: Whole, start: int, stop: int) -> None:
        self._whole = whole
        self._start = start
        self._stop = stop

    def __getitem__(self, name: str) -> Array:
        return self._whole.outputs[name][self._start : self._stop]

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole.outputs)

    def __len__(self) -> int:
        return len(self._whole.outputs)

    def rows(self, make: Callable[[Mapping[str, Array]], Sequence[T]]) -> Sequence[T]:
        """Return this request's part of what is made of all rows, once for all who share them.

        Args:
            make: returns something for each row; the same function each time.
        """
        whole = self._whole
        made = whole.made.get(make)
        if made is None:
            made = whole.made[make] = make(whole.outputs)
        return made[self._start : self._stop]
