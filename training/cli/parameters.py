"""Option types that click lacks."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, get_args

import click

from training.settings import ThresholdRule

BYTES = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) *([KMGT]?)B?", re.IGNORECASE | re.ASCII)
PORT = re.compile("[0-9]{1,5}")
RULES: tuple[ThresholdRule, ...] = get_args(ThresholdRule)


class Pairs(click.ParamType[list[tuple[str, Any]]]):
    """A comma-separated list of `NAME=VALUE` pairs.

    Args:
        names: allowed names; empty for any.
        values: allowed values; empty for any.
        numeric: whether values must be finite numbers.
    """

    name = "pairs"

    def __init__(
        self, *, names: Sequence[str] = (), values: Sequence[str] = (), numeric: bool = False
    ) -> None:
        self._names, self._values, self._numeric = names, values, numeric

    def convert(self, value: Any, param: Any, ctx: Any) -> list[tuple[str, Any]]:
        """Parse the pairs."""
        return [self._parse_pair(text, param, ctx) for text in value.split(",")]

    def _parse_pair(self, text: str, param: Any, ctx: Any) -> tuple[str, Any]:
        name, equals, value = (part.strip() for part in text.rpartition("="))
        if not equals or not name:
            self.fail(f"expected NAME=VALUE, got {text!r}", param, ctx)
        for part, allowed in ((name, self._names), (value, self._values)):
            if allowed and part not in allowed:
                expected = ", ".join(allowed)
                self.fail(f"{text!r}: expected one of {expected}, got {part!r}", param, ctx)
        if not self._numeric:
            return name, value
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"{text!r}: expected a finite number, got {value!r}", param, ctx)
        return name, number


class FiniteRange(click.FloatRange):
    """A range of finite numbers."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Parse the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"expected a finite number, got {value}", param, ctx)
        return number


class ByteCount(click.ParamType[int]):
    """A number of bytes, such as 500MB or 2GB, in powers of 1024."""

    name = "bytes"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Parse the number and the unit."""
        match = BYTES.fullmatch(str(value))
        if match is None:
            self.fail(f"expected a size like 500MB or 2GB, got {value!r}", param, ctx)
        return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


class Threshold(click.ParamType[float | ThresholdRule]):
    """A probability, or the name of a rule."""

    name = "probability|f1|youden"

    def convert(self, value: Any, param: Any, ctx: Any) -> float | ThresholdRule:
        """Parse the probability or the rule."""
        for rule in RULES:
            if value == rule:
                return rule
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 < number < 1:
            self.fail(
                f"expected a number between 0 and 1, or {' or '.join(RULES)}, got {value!r}",
                param,
                ctx,
            )
        return number


class Address(click.ParamType[tuple[str, int]]):
    """A host and a port."""

    name = "host:port"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, int]:
        """Parse the host and the port."""
        host, _, port = value.rpartition(":")
        if not host or not PORT.fullmatch(port) or not 0 < int(port) < 2**16:
            self.fail(f"expected HOST:PORT, got {value!r}", param, ctx)
        return host, int(port)
