"""Categorical columns: text or integers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from client.serving.columns.base import BOOLEANS, MISSING, Column, Json, parse_word
from client.serving.tensors import DTYPES, STRING

# Texts equivalent to a JSON value: 42, but not 042, which is another category.
TEXT_FORMS = {int: re.compile(r"0|-?[1-9]\d*", re.ASCII), bool: re.compile("true|false")}
MAX_EXAMPLES = 10

WHOLE_NUMBER = re.compile(r"(-?\d+)\.0+", re.ASCII)
# float64 represents every integer up to this one.
_MAX_EXACT_INTEGER = 2**53


@dataclass(frozen=True)
class CategoricalColumn(Column):
    """A column of categories; values not seen in training form one more category."""

    kind: ClassVar[str] = "categorical"

    @cached_property
    def json_types(self) -> set[type]:
        """The types of JSON values, besides strings, that every category could be."""
        return {
            json_type
            for json_type, form in TEXT_FORMS.items()
            if self.vocabulary and all(map(form.fullmatch, self.vocabulary))
        }

    def parse(self, text: str, dtype: int) -> Any:
        """Return a cell's category: trimmed, and whole numbers without ".0"."""
        # Models exported before cells were trimmed may have blanks in their vocabulary.
        known = dtype == STRING and text in self.known
        return text if known else super().parse(text, dtype)

    def parse_word(self, word: str, dtype: int) -> Any:
        """Parse a cell that has been trimmed."""
        if word in self.known and dtype == STRING:
            return word
        if bool in self.json_types and word.lower() in BOOLEANS:
            return BOOLEANS[word.lower()]
        if word in MISSING:
            return None
        match = WHOLE_NUMBER.fullmatch(word)
        return parse_word(match[1] if match else word, dtype)

    def encode(self, value: Any, dtype: int) -> Any:
        """Return the category that a JSON value stands for; 42, 42.0 and "42" are one."""
        if value is None:
            return self.missing_value(dtype)
        kind = DTYPES[dtype].kind if dtype in DTYPES else ""
        if type(value) is float and kind in "iO":
            if not value.is_integer() or abs(value) >= _MAX_EXACT_INTEGER:
                return value
            value = int(value)
        if kind != "O" or type(value) not in TEXT_FORMS:
            return value
        text = str(value).lower()
        return text if type(value) in self.json_types or text in self.known else value

    def describe(self, schema: Json) -> Json:
        """Return the JSON schema of a category with some of the vocabulary."""
        count = len(self.vocabulary)
        result = {
            **schema,
            "description": f"in training one of {count} values; others count as unknown",
        }
        if "anyOf" in schema:
            names = {int: "integer", bool: "boolean"}
            result["anyOf"] = schema["anyOf"] + [{"type": names[t]} for t in self.json_types]
        return result

    def example(self, class_index: int, dtype: int) -> Any:
        """Return the most frequent category of a class."""
        mode = self.class_modes[class_index]
        return self._as_json(mode if 0 <= mode < len(self.vocabulary) else 0, dtype)

    def examples(self, dtype: int) -> list[Any]:
        """Return some categories as JSON values."""
        return [self._as_json(i, dtype) for i in range(min(MAX_EXAMPLES, len(self.vocabulary)))]

    def _as_json(self, index: int, dtype: int) -> Any:
        word = self.vocabulary[index] if self.vocabulary else ""
        kind = DTYPES[dtype].kind if dtype in DTYPES else ""
        if kind == "b":
            return word == "true"
        return int(word or 0) if kind in ("i", "u") else word
