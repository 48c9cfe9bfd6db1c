"""Built-in tables."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from training.data.reading import FrameFile, Source

# The label of each table.
LABELS = {"breast_cancer": "diagnosis", "customers": "churned"}


def source(name: str) -> Source:
    """Return a built-in table; `name` is a key of `LABELS`."""
    tables: dict[str, Callable[[], pl.DataFrame]] = {
        "breast_cancer": breast_cancer,
        "customers": customers,
    }
    return Source(name, [FrameFile(name, tables[name]())])


def breast_cancer() -> pl.DataFrame:
    """Return scikit-learn's 569 × 30 table with its label, `diagnosis`."""
    from sklearn.datasets import load_breast_cancer  # imported late, to keep --help fast

    data = load_breast_cancer()
    columns = {
        str(name).replace(" ", "_"): data.data[:, i] for i, name in enumerate(data.feature_names)
    }
    return pl.DataFrame(columns | {"diagnosis": [str(data.target_names[t]) for t in data.target]})


def customers(rows: int = 5000, seed: int = 0) -> pl.DataFrame:
    """Generate customers of a telephone company, some of whom churn.

    The log-odds of churning are known, so the weights of a fit can be compared with them:

        −1 + 0.8 (30 − tenure) / 15 + 0.5 (charges − 60) / 20 + 1.2 [monthly] − 0.7 [two years]
        + 0.9 [region 30] − 0.6 [paperless] + 0.4 [income is missing]
    """
    random = np.random.default_rng(seed)
    tenure = random.integers(0, 60, rows)
    charges = random.normal(60, 20, rows).round(2)
    income = random.lognormal(10.3, 0.4, rows).round(-2)
    income_missing = random.random(rows) < 0.15
    contract = random.choice(["monthly", "one year", "two years"], rows, p=[0.5, 0.3, 0.2])
    region = random.choice([10, 20, 30, 40], rows)
    paperless = random.random(rows) < 0.6
    log_odds = (
        -1
        + 0.8 * (30 - tenure) / 15
        + 0.5 * (charges - 60) / 20
        + 1.2 * (contract == "monthly")
        - 0.7 * (contract == "two years")
        + 0.9 * (region == 30)
        - 0.6 * paperless
        + 0.4 * income_missing
    )
    churned = random.random(rows) < 1 / (1 + np.exp(-log_odds))
    return pl.DataFrame(
        {
            "tenure": tenure,
            "monthly charges": charges,
            "income": pl.Series(income).set(pl.Series(income_missing), None),
            "contract": contract,
            # Numeric codes: categories, although they look like numbers.
            "region": pl.Series(region).cast(pl.String).cast(pl.Categorical),
            "paperless": paperless,
            "churned": np.where(churned, "yes", "no"),
        }
    )
