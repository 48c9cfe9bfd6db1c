"""The gateway and the monitoring jobs judge drift alike, though they share no code."""

from __future__ import annotations

import numpy as np
import pytest

from client.observability import drift as gateway
from monitoring import statistics as jobs

GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize("rows", [0, 1, 50, 1000, 100_000])
@pytest.mark.parametrize("trained", [20, 455, 100_000])
@pytest.mark.parametrize("bins", [2, 3, 7, 12])
def test_both_find_the_same_shift(rows: int, trained: int, bins: int) -> None:
    for concentration in (0.3, 1, 10):
        weights = GENERATOR.dirichlet([concentration] * bins, size=2)
        shares = GENERATOR.multinomial(trained, weights[0]) / trained
        for odds in weights:  # without and with drift
            counts = GENERATOR.multinomial(rows, odds)
            ours = gateway.assess_shift(counts, shares, trained, 31)
            theirs = jobs.shift(
                counts.astype(float), shares, trained, columns=31, ordered_bins=bins - 1
            )
            assert ours.verdict == theirs.verdict
            assert ours.psi == pytest.approx(theirs.psi, rel=1e-9, abs=1e-12)
            assert ours.limit == pytest.approx(theirs.psi_limit, rel=1e-9)
            assert ours.js == pytest.approx(theirs.js, rel=1e-9, abs=1e-9)
            if rows:
                found = gateway.chi_square(counts, shares, trained)
                assert found == pytest.approx(theirs.chi_square, rel=1e-9, abs=1e-9)
