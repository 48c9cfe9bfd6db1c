"""Request predictions of the breast_cancer rows from a gateway until SIGINT or SIGTERM.

    python -m examples.rollout.load [URL]

Print each second how many requests each version has answered and how many have failed.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import threading
from collections import Counter
from http.client import HTTPConnection, HTTPException
from types import FrameType
from urllib.parse import urlsplit

from sklearn.datasets import load_breast_cancer

THREADS = 8
PAUSE_SECONDS = 0.01


def main(url: str) -> int:
    """Send requests, and return the exit status: 1 if any failed."""
    rows = load_breast_cancer().data.tolist()
    counts: Counter[str] = Counter()
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    threads = [
        threading.Thread(target=_send_requests, args=(url, rows, counts, stopped))
        for _ in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    while not stopped.wait(1):
        print(_format_counts(counts), flush=True)
    for thread in threads:
        thread.join()
    print(_format_counts(counts), flush=True)
    return 1 if counts["failed"] else 0


def _send_requests(
    url: str, rows: list[list[float]], counts: Counter[str], stopped: threading.Event
) -> None:
    host = urlsplit(url).netloc
    connection = HTTPConnection(host, timeout=30)
    while not stopped.wait(PAUSE_SECONDS):
        body = json.dumps({"instances": [random.choice(rows)]})
        try:
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            document = json.loads(response.read())
        except (OSError, HTTPException, ValueError) as error:
            connection.close()
            document, status = {"error": repr(error)}, 0
        else:
            status = response.status
        if status == 200:
            counts[f"version {document['version']}"] += 1
        else:
            counts["failed"] += 1
            print(document, file=sys.stderr, flush=True)


def _format_counts(counts: Counter[str]) -> str:
    versions = sorted(name for name in counts if name != "failed")
    answers = ", ".join(f"{name}: {counts[name]}" for name in versions)
    return f"{answers or 'no answer yet'}; failed: {counts['failed']}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"))
