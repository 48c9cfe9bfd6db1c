"""Customers whose behaviour changes: the traffic of the walk-through in docs/monitoring.md.

    python -m examples.drifting_traffic table > table.csv
    python -m examples.drifting_traffic ask --gateway http://127.0.0.1:8080
    python -m examples.drifting_traffic label --gateway http://127.0.0.1:8080

Before the change, all prices are about 10 and do not matter. Afterwards they vary, and high prices
make customers leave.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import urllib.parse
from collections.abc import Iterator
from typing import Any

import numpy as np

COLUMNS = ("age", "price", "plan")
ROWS_PER_REQUEST = 10


def customers(rows: int, seed: int, after_change: bool) -> Iterator[dict[str, Any]]:
    """Yield customers with the label `left`."""
    random = np.random.default_rng(seed)
    age = random.normal(40, 10, rows).round(1)
    price = (random.uniform(4, 16, rows) if after_change else random.normal(10, 0.5, rows)).round(2)
    plan = random.choice(["basic", "plus"], rows)
    logit = 0.08 * (age - 40) + 0.5 * (plan == "plus") - 0.25
    if after_change:
        logit += 0.5 * (price - 10)
    left = random.random(rows) < 1 / (1 + np.exp(-logit))
    for values in zip(age.tolist(), price.tolist(), plan.tolist(), left.tolist(), strict=True):
        *features, label = values
        yield {**dict(zip(COLUMNS, features, strict=True)), "left": "yes" if label else "no"}


def write_table(rows: int) -> None:
    """Print a table from before the change as CSV."""
    print(",".join((*COLUMNS, "left")))
    for row in customers(rows, seed=1, after_change=False):
        print(",".join(str(value) for value in row.values()))


def ask(gateway: str, requests: int, seed: int) -> None:
    """Send rows from after the change, each request with an id of its own."""
    rows = list(customers(requests * ROWS_PER_REQUEST, seed, after_change=True))
    for number in range(requests):
        batch = rows[number * ROWS_PER_REQUEST : (number + 1) * ROWS_PER_REQUEST]
        instances = [{name: row[name] for name in COLUMNS} for row in batch]
        post(gateway, "/predict", {"instances": instances}, f"walk-{seed}-{number}")


def label(gateway: str, requests: int, seed: int) -> None:
    """Send the labels of the same customers."""
    rows = customers(requests * ROWS_PER_REQUEST, seed, after_change=True)
    labels = [
        {
            "id": f"walk-{seed}-{position // ROWS_PER_REQUEST}",
            "row": position % ROWS_PER_REQUEST,
            "label": row["left"],
        }
        for position, row in enumerate(rows)
    ]
    print(post(gateway, "/feedback", labels))


def post(gateway: str, path: str, body: Any, request_id: str = "") -> str:
    """Return the body of the response.

    Raises:
        SystemExit: the gateway refuses the request.
    """
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(gateway).netloc, timeout=30)
    headers = {"Content-Type": "application/json"}
    if request_id:
        headers["X-Request-ID"] = request_id
    connection.request("POST", path, json.dumps(body), headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    if response.status >= 300:
        sys.exit(f"{path}: {response.status} {text}")
    return text


def main() -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(prog="python -m examples.drifting_traffic")
    parser.add_argument("command", choices=("table", "ask", "label"))
    parser.add_argument("--gateway", default="http://127.0.0.1:8080")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2, help="Seed of the customers to send.")
    options = parser.parse_args()
    if options.command == "table":
        write_table(3000)
    else:
        {"ask": ask, "label": label}[options.command](
            options.gateway, options.requests, options.seed
        )


if __name__ == "__main__":
    main()
