"""Records of CSV in blocks of whole lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from client.codecs.tables.lines import LineBlocks
from client.errors import ClientError


def read_records(
    lines: LineBlocks, text: str, line: int, separator: str, *, skip_spaces: bool, is_last: bool
) -> Iterator[tuple[list[str], int]]:
    """Yield the cells of each record of a block, and the number of its last line.

    Blank lines are skipped. The lines of a record that is incomplete at the end of the block are
    put back.

    Args:
        lines: the source of the block.
        text: the decoded block.
        line: number of its first line.
        separator: the character between cells.
        skip_spaces: whether to skip spaces at the beginning of cells.
        is_last: whether no block follows.

    Raises:
        ClientError: a record cannot be read, or an incomplete one is too long.
    """
    source = io.StringIO(text, newline="")
    needs_more, end = False, 0

    def supply() -> Iterator[str]:
        nonlocal needs_more
        yield from source
        needs_more = True

    reader = csv.reader(supply(), delimiter=separator, skipinitialspace=skip_spaces, strict=True)
    try:
        for cells in reader:
            end = source.tell()
            if cells:
                yield cells, line + reader.line_num - 1
    except csv.Error as error:
        if is_last or not needs_more:
            raise ClientError(f"line {line + reader.line_num - 1}: {error}") from error
        # The block ends within a quoted cell.
        lines.put_back(text[end:].encode())
