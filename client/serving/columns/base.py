"""The base class of columns: missing values, and the parsing of table cells."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from client.serving.tensors import DTYPES, dtype_name

NEVER_MISSING = "training saw no missing values in this column"
# Marks that Excel, pandas, R, SAS and SQL dumps write for missing values.
MISSING = frozenset(
    (
        *("", "NA", "N/A", "n/a", "#N/A", "#NA", "#N/A N/A", "<NA>", "NaN", "nan", "-NaN", "-nan"),
        *("null", "NULL", "None", "nil", "(null)", r"\N", "-", "--", "?", "."),
        *("#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "1.#IND", "-1.#IND"),
        *("1.#QNAN", "-1.#QNAN"),
    )
)
# Characters trimmed from cells.
BLANKS = " \t\n\v\f\r"
# Python's float() also reads nan, inf, 1_000 and digits of any script.
PLAIN_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
MISSING_INTEGER = -(2**63)


class MissingBoolean(int):
    """A missing boolean: -2 if it is sent as false, -1 if as true.

    Arrays of booleans that hold one stay int8 until sent, so that missing values can be counted.
    """

    __slots__ = ()


# Length of the longest 64-bit integer, with its sign.
_MAX_INTEGER_LENGTH = 20

Json = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of the table that a model was trained on.

    Attributes:
        name: also the name of the input that takes it.
        vocabulary: the values of a categorical or boolean column, as text.
        mean, deviation, minimum, maximum: statistics of numbers in training; dates in days.
        class_means: means of numbers in each class.
        class_modes: for other kinds, index in the vocabulary of each class's most frequent value;
            -1 if there is none.
        missing: whether training had missing values.
        mode: index in the vocabulary of the most frequent value, -1 for numbers; None if the model
            was exported before every column took missing values.
        marks: marks of missing values in the table besides `MISSING`.
        form: how the table writes dates: a name of `date.FORMS`, or a strftime format; empty if
            the model does not say.
    """

    kind: ClassVar[str] = ""
    # The expected value, for messages, if the dtype does not say it.
    expected: ClassVar[str] = ""

    name: str
    vocabulary: tuple[str, ...]
    mean: float
    deviation: float
    minimum: float
    maximum: float
    class_means: tuple[float, float]
    class_modes: tuple[int, int]
    missing: bool
    mode: int | None = None
    marks: frozenset[str] = frozenset()
    form: str = ""

    @property
    def json_types(self) -> set[type]:
        """The types of JSON values, besides strings, that stand for categories."""
        return set()

    @property
    def range(self) -> tuple[float, float] | None:
        """Minimum and maximum in training; None if values are not numbers."""
        return None

    @cached_property
    def missing_marks(self) -> frozenset[str]:
        """All marks of missing values in tables."""
        return MISSING | self.marks

    @cached_property
    def known(self) -> frozenset[str]:
        """The vocabulary as a set."""
        return frozenset(self.vocabulary)

    def parse(self, text: str, dtype: int) -> Any:
        """Return a cell's value as a JSON value; None if it is missing.

        Args:
            text: the cell.
            dtype: the input's `tensorflow.DataType`.

        Raises:
            ValueError: the cell cannot be parsed; the message says what was expected.
        """
        word = trim_cell(text)
        return None if word in self.marks else self.parse_word(word, dtype)

    def parse_word(self, word: str, dtype: int) -> Any:
        """Parse a cell that has been trimmed."""
        return None if word in MISSING else parse_word(word, dtype)

    def encode(self, value: Any, dtype: int) -> Any:
        """Return the input's value for a JSON value; None if it cannot take a missing value.

        Values of the wrong type are returned unchanged.
        """
        return self.missing_value(dtype) if value is None else value

    def missing_value(self, dtype: int) -> Any:
        """Return the input's encoding of a missing value; None if it has none."""
        kind = DTYPES[dtype].kind if dtype in DTYPES else ""
        if self.mode is None and not (self.missing and kind in "fO"):
            return None
        if kind == "b":
            return None if self.mode not in (0, 1) else MissingBoolean(self.mode - 2)
        return {"f": float("nan"), "O": "", "i": MISSING_INTEGER}.get(kind)

    def takes_missing(self, dtype: int) -> bool:
        """Return whether an input of a dtype takes missing values."""
        return self.missing_value(dtype) is not None

    def format_number(self, value: float) -> str:
        """Format a number of the column for display."""
        return str(value)

    def describe(self, schema: Json) -> Json:
        """Return the JSON schema of a value, with statistics from training.

        Args:
            schema: the JSON schema of the input's dtype.
        """
        return schema

    def example(self, class_index: int, dtype: int) -> Any:
        """Return a typical value of a class as a JSON value."""
        return None

    def examples(self, dtype: int) -> list[Any]:
        """Return typical values as JSON values."""
        return [self.example(class_index, dtype) for class_index in (0, 1)]


def trim_cell(text: str) -> str:
    """Return a cell without the blanks around it."""
    return text.strip(BLANKS)


def parse_word(word: str, dtype: int) -> Any:
    """Return the JSON value of a trimmed cell by its dtype alone.

    Raises:
        ValueError: the cell cannot be parsed; the message says what was expected.
    """
    kind = DTYPES[dtype].kind if dtype in DTYPES else ""
    if kind == "O":
        return word
    if kind == "b" and word.lower() in BOOLEANS:
        return BOOLEANS[word.lower()]
    if kind == "f" and PLAIN_NUMBER.fullmatch(word) and math.isfinite(float(word)):
        return float(word)
    if kind in ("i", "u") and len(word) <= _MAX_INTEGER_LENGTH and PLAIN_NUMBER.fullmatch(word):
        try:
            return int(word)
        except ValueError:
            pass  # a fraction
    raise ValueError(dtype_name(dtype))
