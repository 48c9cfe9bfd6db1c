"""Boolean columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from client.serving.columns.base import BOOLEANS, MISSING
from client.serving.columns.categorical import CategoricalColumn
from client.serving.tensors import STRING


@dataclass(frozen=True)
class BooleanColumn(CategoricalColumn):
    """A boolean column; its input is text if values were missing in training."""

    kind: ClassVar[str] = "boolean"

    def parse_word(self, word: str, dtype: int) -> Any:
        """Return true or false for a cell such as True, true or 1."""
        if word.lower() in BOOLEANS:
            return BOOLEANS[word.lower()]
        if word in MISSING:
            return None
        if dtype == STRING:
            return word
        raise ValueError("bool")
