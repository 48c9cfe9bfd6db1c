"""SIGTERM stops the server, whatever its main thread is doing."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from serving.__main__ import main
from serving.model_servers import server


def test_signal_received_while_the_event_lock_is_held_stops_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = []

    def serve(options: object, stop: threading.Event) -> None:
        with vars(stop)["_cond"]:  # as at the start and the end of `stop.wait`
            os.kill(os.getpid(), signal.SIGTERM)
        results.append(stop.wait(20))

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(os, "_exit", lambda status: None)
    try:
        main.main(["--model_name=m", "--model_base_path=/nowhere"], standalone_mode=False)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert results == [True]
