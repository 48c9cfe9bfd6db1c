"""The Flask application: the page, and every route of the API.

Behind the project's own HTTP server it serves only the page, the docs and static files; under
`flask run` or another WSGI server it serves everything, with the same gateway.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from urllib.parse import quote

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge

from client.errors import ClientError
from client.http import access_log as access
from client.http import docs_page, page, reports
from client.http.errors import error_reply
from client.http.flask_bridge import Background, Bridge
from client.http.messages import HttpReply, HttpRequest
from client.http.request_body import too_large
from client.observability.prediction_ids import PREDICTION_ID_HEADER
from client.settings import Settings

log = logging.getLogger(__name__)

PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'"
)
# Characters besides letters, digits and "-._~" that stand for themselves in a path (RFC 3986).
PATH_CHARACTERS = "/:@!$&'()*+,;="


def create_app(
    settings: Settings | None = None, bridge: Callable[[], Bridge] | None = None
) -> Flask:
    """Create the application.

    Args:
        settings: read from the environment if omitted.
        bridge: returns the bridge to the gateway of the project's own HTTP server, which has
            checked each request; if omitted, a gateway is started in a thread with the first
            request.
    """
    settings = settings or Settings()
    app = Flask(__name__)
    # Flask cuts a chunked body at its limit without an error: allow one byte more.
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes + 1
    is_alone = bridge is None
    bridge = bridge or Background(settings).bridge
    _record(app, bridge)
    if is_alone:
        _answer_api(app, settings.max_body_bytes)
    app.register_blueprint(page.blueprint(bridge, settings))
    app.register_blueprint(docs_page.blueprint)
    if settings.reports is not None:
        app.register_blueprint(reports.blueprint(settings.reports))
    _answer_errors(app)
    return app


def _answer_api(app: Flask, max_bytes: int) -> None:
    """Route every path of the API to the gateway."""

    @app.before_request
    def answer() -> Response | None:
        sent = request.environ.get("RAW_URI") or request.environ.get("REQUEST_URI")
        path = sent.partition("?")[0] if sent else quote(request.path, safe=PATH_CHARACTERS)
        query = request.query_string.decode("latin-1")
        api_request = HttpRequest(request.method, path, query, _headers())
        link: Bridge = g.link
        route = link.gateway.route(api_request)
        if route is None:
            link.gateway.admit(api_request, None)
            return None
        try:
            # Before the body is read; `handle` checks the limit again as it counts the request.
            link.gateway.admit(api_request, route)
            api_request.body = _body(max_bytes)
        except ClientError as error:
            reply = link.gateway.responder.refuse(api_request, route, error)
        else:
            reply = link.run(link.gateway.handle(api_request))
        g.by_gateway = True
        return _response(reply)


def _record(app: Flask, bridge: Callable[[], Bridge]) -> None:
    """Record requests that the gateway does not handle, and set the pages' security headers."""

    @app.before_request
    def begin() -> None:
        g.started = time.perf_counter()
        g.link = bridge()

    @app.after_request
    def end(response: Response) -> Response:
        response.headers["X-Content-Type-Options"] = "nosniff"
        if g.get("by_gateway"):
            return response
        response.headers.setdefault("Content-Security-Policy", PAGE_POLICY)
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Referrer-Policy"] = "no-referrer"
        if "link" not in g:  # the gateway cannot start
            return response
        route = request.url_rule.rule if request.url_rule else "none"
        method = request.method if request.url_rule else "any"
        seconds = time.perf_counter() - g.started
        g.link.gateway.metrics.observe_request(method, route, response.status_code, seconds)
        identity = access.request_id(_headers())
        if identity is not None:
            response.headers[access.ID_HEADER] = identity
        return response


def _answer_errors(app: Flask) -> None:
    """Return every error in the form of the API."""

    @app.errorhandler(ClientError)
    def client_error(error: ClientError) -> Response:
        return _response(error_reply(error, request.path))

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        message = f"{request.method} {request.path}: {error.name}"
        failure = ClientError(message, error.code or 500)
        response = _response(error_reply(failure, request.path))
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
        return response

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        log.exception("%s %s failed", request.method, request.path, exc_info=error)
        failure = ClientError("internal error; the log has the details", 500)
        return _response(error_reply(failure, request.path))


def _body(max_bytes: int) -> bytes:
    """Return the request's body.

    Raises:
        ClientError: it is too large.
    """
    try:
        body = request.get_data(cache=False)
    except RequestEntityTooLarge:
        raise too_large(max_bytes) from None
    if len(body) > max_bytes:
        raise too_large(max_bytes)
    return body


def _headers() -> dict[str, str]:
    """Return the request's headers by name in lower case."""
    return {name.lower(): value for name, value in request.headers.items()}


def _response(reply: HttpReply) -> Response:
    response = Response(reply.body, reply.status, content_type=reply.content_type)
    response.headers.extend(reply.headers)
    if reply.prediction_id is not None:
        response.headers[PREDICTION_ID_HEADER] = reply.prediction_id
    return response
