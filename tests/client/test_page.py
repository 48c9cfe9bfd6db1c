"""Numbers in the form."""

from __future__ import annotations

import pytest

from client.serving.columns.numeric import plain_number


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (31534.26, 4, "31534"),
        (31534.26, 6, "31534.3"),
        (1234567.0, 6, "1234567"),
        (17.4628, 4, "17.46"),
        (0.00002951, 4, "0.00002951"),
        (-0.0003, 4, "-0.0003"),
        (1000.0, 4, "1000"),
        (0.0, 4, "0"),
        (9.9999, 4, "10"),
        (1e30, 4, "1e+30"),
        (5e-324, 4, "4.941e-324"),
    ],
)
def test_numbers_are_written_as_people_write_them(value: float, digits: int, shown: str) -> None:
    assert plain_number(value, digits) == shown
