"""Text files that are read in chunks: CSV and JSON Lines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import BinaryIO, Generic, TypeVar

from training.data.reading.batch import File
from training.errors import EmptyFileError

CHUNK_BYTES = 8 << 20

C = TypeVar("C")  # a chunk


class ChunkedFile(File, Generic[C]):
    """A file, or a stream that is read once.

    Attributes:
        expected_content: what the file should contain, for errors.
    """

    expected_content: str

    def __init__(
        self,
        name: str,
        stream: BinaryIO | None = None,
        constants: Mapping[str, str] | None = None,
    ) -> None:
        """Read the first chunk.

        Args:
            name: its path, or a name for the stream.
            stream: UTF-8, read instead of the path.
            constants: column values from the file's path.

        Raises:
            DataError: the file cannot be read, is empty, or its first chunk is malformed.
        """
        self.name = name
        self.constants = constants or {}
        self.is_stream = stream is not None
        chunks = self._read_chunks(stream)
        first = next(chunks, None)
        if first is None:
            raise EmptyFileError(f"{name}: expected {self.expected_content}, found nothing")
        self._set_columns(first)
        # Keep only what cannot be read again: there may be thousands of files.
        self._stream_chunks = (first, chunks) if self.is_stream else None

    def _first_chunk(self) -> C:
        return self._stream_chunks[0] if self._stream_chunks else next(self._read_chunks(None))

    def _all_chunks(self) -> Iterable[C]:
        if self._stream_chunks is None:
            return self._read_chunks(None)
        first, remaining = self._stream_chunks
        return chain([first], remaining)

    @abstractmethod
    def _set_columns(self, first: C) -> None:
        """Set the file's columns from its first chunk."""

    @abstractmethod
    def _read_chunks(self, stream: BinaryIO | None) -> Iterator[C]:
        """Cut the stream, or the file if it is None, into chunks of whole records."""
