"""Callers that send one request after the other over connections they keep."""

from __future__ import annotations

import ssl
import threading
from collections import Counter
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
        outcomes: number of responses by status, and of faults as "wrong".
        wrong: the first fault by status, or by "refused" or "lost" for a connection that was
            refused or broke.
    """

    url: str
    body: bytes
    check: Callable[[int, dict[str, str], bytes], str]
    number: int = 8
    pause: float = 0.0
    may_be_refused: bool = False
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, str] = field(default_factory=dict)

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

    @property
    def answered(self) -> int:
        return self.outcomes["200"]

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)

    def failures(self) -> dict[str, str]:
        return {**self.wrong}

    def _call(self) -> None:
        where = urlsplit(self.url)
        while not self._end.is_set():
            connection = (
                HTTPSConnection(where.netloc, context=_UNCHECKED, timeout=20)
                if where.scheme == "https"
                else HTTPConnection(where.netloc, timeout=20)
            )
            try:
                connection.connect()
            except OSError as error:
                if not self.may_be_refused:
                    self._note("refused", repr(error))
                return
            try:
                self._call_over(connection, where.path)
            except (OSError, HTTPException) as error:
                self._note("lost", repr(error))
            finally:
                connection.close()

    def _call_over(self, connection: HTTPConnection, path: str) -> None:
        headers = {"Content-Type": "application/json"}
        while not self._end.is_set():
            connection.request("POST", path, self.body, headers)
            reply = connection.getresponse()
            body = reply.read()
            fields = {name.lower(): value for name, value in reply.getheaders()}
            wrong = self.check(reply.status, fields, body)
            self.outcomes[str(reply.status)] += 1
            if wrong:
                self._note(str(reply.status), wrong)
            if fields.get("connection") == "close":
                return
            if self.pause:
                self._end.wait(self.pause)

    def _note(self, kind: str, what: str) -> None:
        self.wrong.setdefault(kind, what)
        self.outcomes["wrong"] += 1
