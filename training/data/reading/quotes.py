"""Quotes in CSV: the ends of records, and fields that hold a bare quote.

A quote opens a field only at its start, after optional blanks, which are dropped; anywhere else
(`5" pipe`) it is text. polars reads only RFC 4180, so such fields are rewritten.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

QUOTE, NEWLINE, CARRIAGE_RETURN = b'"\n\r'


class QuoteError(Exception):
    """A quoted field does not end as it should.

    Attributes:
        opening: offset of its opening quote.
        closing: offset after the closing quote if text follows; None if there is no closing quote.
    """

    def __init__(self, opening: int, closing: int | None = None) -> None:
        super().__init__(opening, closing)
        self.opening, self.closing = opening, closing


def extract_records(data: bytes, separator: bytes, final: bool) -> tuple[bytes, int]:
    """Return the whole records as RFC 4180 and their length in the data.

    Args:
        data: CSV that starts with a record.
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
    if not _quotes_alternate(content, quotes, separator[0]):
        return _rewrite_quotes(data, separator, final)
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


def _quotes_alternate(
    content: npt.NDArray[np.uint8], quotes: npt.NDArray[np.intp], separator: int
) -> bool:
    """Return whether every second quote closes the field that the quote before it opens.

    A doubled quote in a quoted field counts as a closing and an opening quote.
    """
    opening, closing = quotes[0::2], quotes[1::2]
    before = np.where(opening > 0, content[opening - 1], NEWLINE)
    last = len(content) - 1
    after = np.where(closing < last, content[np.minimum(closing + 1, last)], NEWLINE)
    opens = (before == separator) | (before == NEWLINE) | (before == QUOTE)
    closes = (after == separator) | (after == NEWLINE) | (after == QUOTE)
    return bool(opens.all() and (closes | (after == CARRIAGE_RETURN)).all())


def _rewrite_quotes(data: bytes, separator: bytes, final: bool) -> tuple[bytes, int]:
    """Implement `extract_records` for data with quotes that need rewriting."""
    blank = b" " if separator == b"\t" else b" \t"
    field_end = re.compile(re.escape(separator) + rb"|\r?\n|\r?\Z")
    edits: list[tuple[int, int, bytes]] = []
    position = record_end = 0  # never inside quotes
    while (quote := data.find(b'"', position)) >= 0:
        newline = data.rfind(b"\n", position, quote)
        record_end = newline + 1 if newline >= 0 else record_end
        start = max(position, newline + 1, data.rfind(separator, position, quote) + 1)
        if data[start:quote].strip(blank):  # after text, the quote is text too
            position = _find_end(field_end, data, quote)
            field = b'"' + data[start:position].strip(blank).replace(b'"', b'""') + b'"'
        else:
            close = _find_closing_quote(data, quote)
            if close < 0:
                if final:
                    raise QuoteError(quote)
                position = len(data)
                break
            position = _find_end(field_end, data, close)
            if data[close:position].strip(blank):
                raise QuoteError(quote, close)
            field = data[quote:close]
        if position - start != len(field):
            edits.append((start, position, field))
    end = len(data) if final else max(record_end, data.rfind(b"\n", position) + 1)
    pieces, copied = [], 0
    for start, stop, field in edits:
        if stop <= end:
            pieces += [data[copied:start], field]
            copied = stop
    return b"".join([*pieces, data[copied:end]]), end


def _find_end(pattern: re.Pattern[bytes], data: bytes, start: int) -> int:
    match = pattern.search(data, start)
    return match.start() if match else len(data)


def _find_closing_quote(data: bytes, quote: int) -> int:
    """Return the offset after the quote that closes the field opened at `quote`; −1 if none."""
    close = data.find(b'"', quote + 1)
    while close >= 0 and data.startswith(b'"', close + 1):
        close = data.find(b'"', close + 2)
    return close + 1 if close >= 0 else -1
