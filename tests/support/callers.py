"""Callers that send one request after another over persistent connections."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from types import TracebackType
from urllib.parse import urlsplit

_UNCHECKED = ssl._create_unverified_context()


@dataclass
class Callers:
    """Threads that post to a URL until the context ends.

    Attributes:
        url: the URL; certificates are not verified.
        body: the body of each request.
        check: takes status, headers with names in lower case, and body; returns the fault, or "".
        number: number of threads, each with a connection.
        pause: seconds between a response and the next request of a thread.
        may_be_refused: whether a refused connection just ends its thread.
        ok_count: number of responses with status 200.
        faults: the first fault by status, or by "refused" or "lost" for a connection that was
            refused or lost.
        fault_count: number of faults.
    """

    url: str
    body: bytes
    check: Callable[[int, dict[str, str], bytes], str]
    number: int = 8
    pause: float = 0.0
    may_be_refused: bool = False
    ok_count: int = 0
    faults: dict[str, str] = field(default_factory=dict)
    fault_count: int = 0

    def __enter__(self) -> Callers:
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(self.number)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.set()
        self.join()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)

    def _call(self) -> None:
        url = urlsplit(self.url)
        while not self._end.is_set():
            connection = (
                HTTPSConnection(url.netloc, context=_UNCHECKED, timeout=20)
                if url.scheme == "https"
                else HTTPConnection(url.netloc, timeout=20)
            )
            try:
                connection.connect()
            except OSError as error:
                if not self.may_be_refused:
                    self._record("refused", repr(error))
                return
            try:
                self._call_over(connection, url.path)
            except (OSError, HTTPException) as error:
                self._record("lost", repr(error))
            finally:
                connection.close()

    def _call_over(self, connection: HTTPConnection, path: str) -> None:
        headers = {"Content-Type": "application/json"}
        while not self._end.is_set():
            connection.request("POST", path, self.body, headers)
            response = connection.getresponse()
            body = response.read()
            response_headers = {name.lower(): value for name, value in response.getheaders()}
            fault = self.check(response.status, response_headers, body)
            self.ok_count += response.status == 200
            if fault:
                self._record(str(response.status), fault)
            if response_headers.get("connection") == "close":
                return
            if self.pause:
                self._end.wait(self.pause)

    def _record(self, kind: str, fault: str) -> None:
        self.faults.setdefault(kind, fault)
        self.fault_count += 1
