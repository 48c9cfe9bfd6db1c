"""`/reports/MODEL/VERSION`: the training reports, if the models' directory can be read here."""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, Response, abort, send_file
from werkzeug.security import safe_join

REPORT = "report.html"
# A report is one file with styles, drawings and no scripts. Its style attributes hold numbers that
# differ from report to report, so their hashes cannot be listed; nothing else is allowed.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox"
)


def blueprint(directory: Path) -> Blueprint:
    """Return the route.

    Args:
        directory: directory of all models; a report is at MODEL/VERSION/report.html.
    """
    routes = Blueprint("reports", __name__)

    @routes.get("/reports/<model>/<int:version>")
    def report(model: str, version: int) -> Response:
        path = _path(directory, model, version)
        if path is None or not path.is_file():
            abort(404)
        response = send_file(path.absolute(), "text/html", max_age=0)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    return routes


def versions(directory: Path | None, model: str) -> list[int]:
    """Return the versions of a model that have a report; none without a directory."""
    base_path = safe_join(str(directory), model) if directory is not None else None
    if base_path is None:
        return []
    names = [path.parent.name for path in Path(base_path).glob(f"[0-9]*/{REPORT}")]
    return sorted(int(name) for name in names if name.isdecimal())


def _path(directory: Path, model: str, version: int) -> Path | None:
    """Return the path of a report, None if the model's name would escape the directory."""
    joined = safe_join(str(directory), model, str(version), REPORT)
    return None if joined is None or model.startswith(".") else Path(joined)
