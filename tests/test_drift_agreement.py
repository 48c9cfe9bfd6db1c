"""The gateway and the monitoring jobs compute the same drift, although they share no code."""

from __future__ import annotations

import numpy as np
import pytest

from client.observability import drift as gateway
from monitoring import statistics as jobs

GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize("rows", [0, 1, 50, 1000, 100_000])
@pytest.mark.parametrize("training_rows", [20, 455, 100_000])
@pytest.mark.parametrize("bins", [2, 3, 7, 12])
def test_gateway_and_jobs_compute_the_same_shift(rows: int, training_rows: int, bins: int) -> None:
    for concentration in (0.3, 1, 10):
        weights = GENERATOR.dirichlet([concentration] * bins, size=2)
        shares = GENERATOR.multinomial(training_rows, weights[0]) / training_rows
        for probabilities in weights:  # without and with drift
            counts = GENERATOR.multinomial(rows, probabilities)
            by_gateway = gateway.assess_shift(counts, shares, training_rows, 31)
            by_jobs = jobs.shift(
                counts.astype(float), shares, training_rows, columns=31, ordered_bins=bins - 1
            )
            assert by_gateway.verdict == by_jobs.verdict
            assert by_gateway.psi == pytest.approx(by_jobs.psi, rel=1e-9, abs=1e-12)
            assert by_gateway.limit == pytest.approx(by_jobs.psi_limit, rel=1e-9)
            assert by_gateway.js == pytest.approx(by_jobs.js, rel=1e-9, abs=1e-9)
            if rows:
                chi_square = gateway.chi_square(counts, shares, training_rows)
                assert chi_square == pytest.approx(by_jobs.chi_square, rel=1e-9, abs=1e-9)
