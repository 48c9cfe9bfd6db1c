"""Dialects over the standard library's HTTP server, for tests of them alone.

The Open Inference Protocol under `/v2`, tables on `/v1/models/<model>:predict`.
"""

from __future__ import annotations

import gzip
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import orjson

from client import ClientError, ModelServer
from client.dialects import oip, oip_models, tables
from client.exchange import HttpReply, HttpRequest
from client.messages import ModelVersionStatus
from client.model_server import Target

AVAILABLE = ModelVersionStatus.State.Value("AVAILABLE")
CHUNK_BYTES = 2**16
DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
}


@contextmanager
def serving(server: ModelServer, model: str) -> Iterator[str]:
    """Answer on a port of loopback, and give its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def answer(self) -> None:
            path, _, query = self.path.partition("?")
            if path.endswith(":predict"):
                self.answer_table(path, query)
                return
            body = b"".join(self.chunks())
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = DECODERS.get(headers.get("content-encoding", ""), bytes)(body)
            request = HttpRequest(self.command, path, query, headers, body)
            try:
                reply = _answer(server, model, request)
            except ClientError as error:
                reply = _error(error)
            self.reply(reply)

        def answer_table(self, path: str, query: str) -> None:
            has_begun = False
            try:
                came = tables.media_type(self.headers.get("Content-Type", ""))
                wanted = tables.negotiate(self.headers.get("Accept"), came)
                writer = tables.table_writer(wanted)
                name = path.rpartition("/")[2].removesuffix(":predict")
                pieces = _table(server, name, query, came, writer, self.chunks())
                for piece in pieces:
                    if not has_begun:
                        has_begun = True
                        self.send_response(200)
                        self.send_header("Content-Type", wanted)
                        self.send_header("Transfer-Encoding", "chunked")
                        self.end_headers()
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            except ClientError as error:
                self.close_connection = True  # there may be more of the body
                if not has_begun:
                    self.reply(_error(error))
                    return
                if not writer.can_tell_errors:
                    return
                line = orjson.dumps({"error": error.message}) + b"\n"
                self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
            self.wfile.write(b"0\r\n\r\n")

        def chunks(self) -> Iterator[bytes]:
            if self.headers.get("Transfer-Encoding") == "chunked":
                while length := int(self.rfile.readline(), 16):
                    yield self.rfile.read(length)
                    self.rfile.readline()
                self.rfile.readline()
                return
            left = int(self.headers.get("Content-Length", 0))
            while left:
                chunk = self.rfile.read1(min(left, CHUNK_BYTES))
                left -= len(chunk)
                yield chunk

        def reply(self, reply: HttpReply) -> None:
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.content_type)
            self.send_header("Content-Length", str(len(reply.body)))
            for name, value in reply.headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_address[1]}"
        finally:
            http.shutdown()
            thread.join()


def _error(error: ClientError) -> HttpReply:
    return HttpReply(orjson.dumps({"error": error.message}), error.status)


def _table(
    server: ModelServer,
    model: str,
    query: str,
    came: str,
    writer: tables.TableWriter,
    chunks: Iterator[bytes],
) -> Iterator[bytes]:
    asked = parse_qs(query)
    schema = server.schema(model)
    outputs = asked.get("outputs", [""])[0]
    layout = tables.Layout.of(
        schema, asked.get("signature_name", [""])[0], outputs.split(",") if outputs else ()
    )
    reader = tables.table_reader(came, layout)

    def calls() -> Iterator[Any]:
        for chunk in chunks:
            yield from reader.feed(chunk)
        yield from reader.finish()

    for call in calls():
        answer = server.predict(
            model,
            call.inputs,
            signature_name=call.signature_name,
            signature=schema.signatures[call.signature_name],
        ).outputs
        piece = writer.write({n: answer[n] for n in call.output_filter or answer})
        if piece:
            yield piece
    yield writer.end()


def _answer(server: ModelServer, model: str, request: HttpRequest) -> HttpReply:
    route = oip_models.route(request.path)
    if route is None or route.method != request.method:
        raise ClientError(f"{request.method} {request.path}: Not Found", 404)
    if route.what == "server":
        return HttpReply(orjson.dumps(oip_models.server_metadata("1.2.3")))
    if route.what == "live":
        return HttpReply(orjson.dumps(oip_models.live()))
    if route.target is None:
        return oip_models.ready(any(v.state == AVAILABLE for v in server.status(model)))
    if route.what == "model_ready" and route.target.label is None:
        versions = server.status(route.target)
        return oip_models.ready(any(v.state == AVAILABLE for v in versions), route.target.model)
    schema = server.schema(route.target)
    if route.what == "model_ready":  # of a label, which is not looked at where states are told
        return oip_models.ready(True, route.target.model)
    if route.what == "model":
        name = parse_qs(request.query).get("signature_name", [""])[0]
        versions = [v.version for v in server.status(schema.model) if v.state == AVAILABLE]
        one = route.target != Target(schema.model)
        return HttpReply(
            orjson.dumps(
                oip_models.model_metadata(schema, [schema.version] if one else versions, name)
            )
        )
    inference = oip.read(request.body, schema, request.headers.get(oip.HEADER_LENGTH.lower()))
    prediction = server.predict(
        route.target,
        inference.call.inputs,
        signature_name=inference.call.signature_name,
        signature=schema.signatures[inference.call.signature_name],
    )
    return oip.write(inference, prediction.outputs, schema.model, prediction.version)
