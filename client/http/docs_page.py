"""`/docs`: Swagger UI for `/openapi.json`, from the files of its package."""

from __future__ import annotations

from pathlib import Path

import flask_swagger_ui
from flask import Blueprint, Response, render_template, send_from_directory

from client.http import paths
from client.http.endpoints.docs import TITLE

FILES = Path(flask_swagger_ui.__file__).parent / "dist"

# The package's own template has an inline script, which a strict Content-Security-Policy forbids.
blueprint = Blueprint("docs", __name__, url_prefix="/docs")


@blueprint.get("/")
def show() -> str:
    """Return the page."""
    return render_template("docs.html", title=TITLE, document=paths.OPENAPI)


@blueprint.get("/<path:name>")
def file(name: str) -> Response:
    """Return a file of Swagger UI."""
    return send_from_directory(FILES, name)
