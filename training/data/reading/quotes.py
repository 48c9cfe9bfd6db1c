"""Quotes in CSV: the ends of records, and fields that hold a bare quote.

A quote opens a field only at its beginning, apart from blanks before it, which are dropped;
anywhere else (`5" pipe`) it is text. polars reads only RFC 4180, so such fields are rewritten.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

QUOTE, NEWLINE, CARRIAGE_RETURN = b'"\n\r'


class QuoteError(Exception):
    """A quoted field does not end as it should.

    Attributes:
        opens: offset of its opening quote.
        closes: offset of the closing quote if text follows it; None if there is no closing quote.
    """

    def __init__(self, opens: int, closes: int | None = None) -> None:
        super().__init__(opens, closes)
        self.opens, self.closes = opens, closes


def whole_records(data: bytes, separator: bytes, final: bool) -> tuple[bytes, int]:
    """Return the whole records as RFC 4180, and where they end in the data.

    Args:
        data: CSV from the beginning of a record on.
        separator: one byte.
        final: whether nothing follows, so that the last record needs no line break.

    Raises:
        QuoteError: a quote is never closed, or text follows a closing quote.
    """
    if b'"' not in data:
        end = len(data) if final else data.rfind(b"\n") + 1
        return data[:end], end
    content = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(content == QUOTE)
    if not _alternate(content, quotes, separator[0]):
        return _rewritten(data, separator, final)
    if final:
        if len(quotes) % 2:
            raise QuoteError(int(quotes[-1]))
        return data, len(data)
    end = data.rfind(b"\n") + 1
    if end <= quotes[-1] or len(quotes) % 2:
        newlines = np.flatnonzero(content == NEWLINE)
        outside = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
        end = int(outside[-1]) + 1 if len(outside) else 0
    return data[:end], end


def _alternate(
    content: npt.NDArray[np.uint8], quotes: npt.NDArray[np.intp], separator: int
) -> bool:
    """Return whether each second quote closes a field that the one before it opens.

    Two quotes in a quoted field count as one that closes it and one that opens it again.
    """
    opening, closing = quotes[0::2], quotes[1::2]
    before = np.where(opening > 0, content[opening - 1], NEWLINE)
    last = len(content) - 1
    after = np.where(closing < last, content[np.minimum(closing + 1, last)], NEWLINE)
    opens = (before == separator) | (before == NEWLINE) | (before == QUOTE)
    closes = (after == separator) | (after == NEWLINE) | (after == QUOTE)
    return bool(opens.all() and (closes | (after == CARRIAGE_RETURN)).all())


def _rewritten(data: bytes, separator: bytes, final: bool) -> tuple[bytes, int]:
    """Walk from quote to quote; see `whole_records`."""
    blank = b" " if separator == b"\t" else b" \t"
    field_end = re.compile(re.escape(separator) + rb"|\r?\n|\r?\Z")
    edits: list[tuple[int, int, bytes]] = []
    at = record_end = 0  # never inside quotes
    while (quote := data.find(b'"', at)) >= 0:
        newline = data.rfind(b"\n", at, quote)
        record_end = newline + 1 if newline >= 0 else record_end
        start = max(at, newline + 1, data.rfind(separator, at, quote) + 1)
        if data[start:quote].strip(blank):  # text before the quote: the quote is text too
            at = _match(field_end, data, quote)
            field = b'"' + data[start:at].strip(blank).replace(b'"', b'""') + b'"'
        else:
            close = _closing(data, quote)
            if close < 0:
                if final:
                    raise QuoteError(quote)
                at = len(data)
                break
            at = _match(field_end, data, close)
            if data[close:at].strip(blank):
                raise QuoteError(quote, close)
            field = data[quote:close]
        if at - start != len(field):
            edits.append((start, at, field))
    end = len(data) if final else max(record_end, data.rfind(b"\n", at) + 1)
    pieces, copied = [], 0
    for start, stop, field in edits:
        if stop <= end:
            pieces += [data[copied:start], field]
            copied = stop
    return b"".join([*pieces, data[copied:end]]), end


def _match(pattern: re.Pattern[bytes], data: bytes, start: int) -> int:
    found = pattern.search(data, start)
    return found.start() if found else len(data)


def _closing(data: bytes, quote: int) -> int:
    """Return the position after the quote that closes what `quote` opens, −1 if there is none."""
    close = data.find(b'"', quote + 1)
    while close >= 0 and data.startswith(b'"', close + 1):
        close = data.find(b'"', close + 2)
    return close + 1 if close >= 0 else -1
