"""Number formatting for the report."""

from __future__ import annotations

import math

# Numbers outside this range are written with a power of ten.
MIN_PLAIN, MAX_PLAIN = 1e-4, 1e7
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def format_number(value: float, digits: int = 4) -> str:
    """Return a number with at most `digits` significant digits: 103,500, −0.05 or 3.2 × 10⁻⁵."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if value == 0:
        text = "0"
    elif MIN_PLAIN <= abs(value) < MAX_PLAIN:
        decimals = digits - 1 - int(exponent)
        text = _strip_zeros(f"{round(value, decimals):,.{max(0, decimals)}f}")
    else:
        text = f"{_strip_zeros(mantissa)} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    return text.replace("-", "−")


def _strip_zeros(digits: str) -> str:
    """Remove trailing zeros after the decimal point."""
    return digits.rstrip("0").rstrip(".") if "." in digits else digits
