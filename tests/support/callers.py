"""Callers that send one request after the other over connections they keep."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from types import TracebackType
from urllib.parse import urlsplit


@dataclass
class Callers:
    """Threads that post to a URL until the context ends.

    Attributes:
        url: where to.
        body: what is sent.
        check: takes status, headers in lower case and body, and returns what is wrong, or "".
        number: of threads, each with a connection.
        outcomes: how often each came: a status, or what was wrong.
        wrong: what was wrong, the first of each kind.
    """

    url: str
    body: bytes
    check: Callable[[int, dict[str, str], bytes], str]
    number: int = 8
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
            connection = HTTPConnection(where.netloc, timeout=20)
            try:
                connection.connect()
            except OSError:
                return  # nobody listens any more
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

    def _note(self, kind: str, what: str) -> None:
        self.wrong.setdefault(kind, what)
        self.outcomes["wrong"] += 1
