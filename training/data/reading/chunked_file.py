"""Text files that are read in chunks: CSV and JSON Lines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import BinaryIO, Generic, TypeVar

from training.data.reading.part import File
from training.errors import EmptyFileError

CHUNK_BYTES = 8 << 20

C = TypeVar("C")  # a chunk


class ChunkedFile(File, Generic[C]):
    """A file, or a stream that is read once.

    Attributes:
        begins_with: the expected beginning of a file, for errors.
    """

    begins_with: str

    def __init__(
        self,
        name: str,
        stream: BinaryIO | None = None,
        constants: Mapping[str, str] | None = None,
    ) -> None:
        """Read the file's beginning.

        Args:
            name: its path, or a name for the stream.
            stream: UTF-8, read instead of the path.
            constants: columns in the file's path, with their one value.

        Raises:
            DataError: the file cannot be read, is empty, or its first chunk is malformed.
        """
        self.name = name
        self.constants = constants or {}
        self.is_stream = stream is not None
        chunks = self._read_chunks(stream)
        first = next(chunks, None)
        if first is None:
            raise EmptyFileError(f"{name}: expected {self.begins_with}, found nothing")
        self._learn(first)
        # A stream cannot be read again. A file can, and there may be thousands, so keep nothing.
        self._kept = (first, chunks) if self.is_stream else None

    def _first_chunk(self) -> C:
        return self._kept[0] if self._kept else next(self._read_chunks(None))

    def _all_chunks(self) -> Iterable[C]:
        return chain([self._kept[0]], self._kept[1]) if self._kept else self._read_chunks(None)

    @abstractmethod
    def _learn(self, first: C) -> None:
        """Set the file's columns from its first chunk."""

    @abstractmethod
    def _read_chunks(self, stream: BinaryIO | None) -> Iterator[C]:
        """Cut the stream, or the file if it is None, into chunks of whole records."""
